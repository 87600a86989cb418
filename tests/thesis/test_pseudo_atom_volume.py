import math

import pytest
import torch

from orbitrec.thesis.volume_matching.pseudo_atom_volume import FormFactor, PseudoAtomVolume
from orbitrec.volumes.gaussians import GaussianMixture


def molecule(
    form_factor_terms: torch.Tensor, dtype: torch.dtype = torch.float64, width: float = 1.6
) -> PseudoAtomVolume:
    generator = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(5, generator=generator, dtype=torch.float64) + 0.5
    form = FormFactor(torch.tensor(width, dtype=dtype), form_factor_terms.to(dtype), 2.0)
    return PseudoAtomVolume(centers.to(dtype), weights.to(dtype), form)


@pytest.mark.parametrize("n", [21, 22])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_form_factor_terms_pseudo_atoms_are_gaussians(n: int, dtype: torch.dtype):
    pseudo_atoms = molecule(torch.zeros(3), dtype)
    gaussians = GaussianMixture(
        pseudo_atoms.centers.double(), torch.full((5,), 1.6).double(), pseudo_atoms.weights.double()
    )
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    assert torch.allclose(
        pseudo_atoms.fourier(points).to(torch.complex128), gaussians.fourier(points.double()), atol=1e-5
    )
    assert torch.allclose(pseudo_atoms.to_grid(n), gaussians.to_grid(n), atol=1e-5)


def test_ripples_are_cosines_of_the_logarithm_that_stop_at_the_band():
    form_factor_terms = torch.tensor([0.3, -0.2], dtype=torch.float64)
    form = molecule(form_factor_terms).form
    assert float(form(torch.zeros(1, dtype=torch.float64)).log()) == pytest.approx(0.1)
    k = torch.tensor([1.0], dtype=torch.float64)
    expected = 0.3 * math.cos(math.pi / 2) - 0.2 * math.cos(math.pi) - 1.6**2 / 2
    assert float(form(k).log()) == pytest.approx(expected)
    ends = form(torch.tensor([2.0, 2.5], dtype=torch.float64)).log()
    assert float(ends[1] - ends[0]) == pytest.approx(-(1.6**2) * (2.5**2 - 2.0**2) / 2)


def test_transform_is_hermitian_and_rotates_with_the_pseudo_atoms():
    pseudo_atoms = molecule(torch.tensor([0.3, -0.2], dtype=torch.float64))
    points = torch.randn(9, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = pseudo_atoms.fourier(points)
    assert torch.allclose(pseudo_atoms.fourier(-points), values.conj())
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    rotated = PseudoAtomVolume(pseudo_atoms.centers @ turn.T, pseudo_atoms.weights, pseudo_atoms.form)
    assert torch.allclose(rotated.fourier(points @ turn.T), values)

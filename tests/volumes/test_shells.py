"""Gaussian volumes as shells see them."""

import pytest
import torch

from orbitrec.moments.information import empirical_prior_covariance
from orbitrec.volumes.shells import GaussianShells, ShellFunctions
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

RADIUS, BAND, DEGREE = 9.0, 0.9, 11
BASIS = SphericalBesselBasis(RADIUS, 2.0)
NODES = torch.linspace(0.05, BAND, 12, dtype=torch.float64)
SCALE = 1 + NODES


def drawn(seed: int) -> torch.Tensor:
    """Coefficients of a volume whose power falls with the frequency."""
    normal = torch.randn(len(BASIS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normal / (1 + (3 * BASIS.frequency).pow(4))


COVARIANCE = empirical_prior_covariance(BASIS, drawn(0), 19)
SHELLS = GaussianShells(BASIS, COVARIANCE, NODES, SCALE, DEGREE, tolerance=1e-12)


def seen(coefficients: torch.Tensor) -> torch.Tensor:
    """A volume's shells up to the largest degree."""
    return BASIS.angular_sum(BASIS.radial(NODES) * SCALE, coefficients)[: (DEGREE + 1) ** 2]


def of_the_prior(seed: int) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(COVARIANCE)
    normal = torch.randn(len(BASIS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vectors @ (values.clamp(min=0).sqrt() * normal)


@pytest.mark.parametrize("degree", [0, 3, DEGREE])
def test_functions_have_the_covariance_of_shells(degree: int):
    radial, of_degree = BASIS.radial(NODES) * SCALE, BASIS.lm == degree * degree
    expected = radial[of_degree].mT @ COVARIANCE[of_degree][:, of_degree] @ radial[of_degree]
    root = SHELLS.functions.radial[SHELLS.functions.lm == degree * degree]
    assert float((root.mT @ root - expected).norm() / expected.norm()) < 1e-8


def test_functions_hold_what_lies_beyond_the_band_and_leaks_into_it():
    shells = seen(of_the_prior(1))
    found = SHELLS.functions.sum(SHELLS.coefficients(shells), DEGREE)
    assert float((found - shells).norm() / shells.norm()) < 1e-4
    # A basis that ends a function's width beyond the band does not.
    ending = SphericalBesselBasis(RADIUS, BAND + torch.pi / RADIUS, max_degree=DEGREE)
    radial, errors = ending.radial(NODES) * SCALE, []
    for lm in range((ending.degree + 1) ** 2):
        columns = radial[ending.lm == lm].mT
        errors.append(columns @ torch.linalg.lstsq(columns, shells[lm]).solution - shells[lm])
    assert float(torch.stack(errors).norm() / shells.norm()) > 1e-3


def test_the_volume_is_the_likeliest_that_has_the_shells():
    x = torch.randn(len(SHELLS.functions), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    volume = SHELLS.volume(x).coefficients
    shells = SHELLS.functions.sum(x, DEGREE)
    assert float((seen(volume) - shells).norm() / shells.norm()) < 1e-6
    # Its distance in the prior is that of the functions' coefficients: nothing beyond the shells is made up.
    distance = float(volume @ torch.linalg.pinv(COVARIANCE, hermitian=True, rtol=1e-13) @ volume)
    assert distance == pytest.approx(float(x.square().sum()), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_precisions_and_gradients(dtype: torch.dtype):
    functions = SHELLS.functions if dtype == torch.float64 else SHELLS.functions.to(torch.float32)
    x = torch.ones(len(functions), dtype=dtype, requires_grad=True)
    total = functions.sum(x, DEGREE)
    assert total.dtype == dtype
    total.sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, functions.radial.sum(1))


def test_functions_need_not_reach_the_largest_degree():
    one = ShellFunctions(torch.tensor([2]), torch.ones(1, 3))
    shells = one.sum(torch.tensor([2.0]), 4)
    assert shells.shape == (25, 3)
    assert float(shells.norm()) == pytest.approx(2 * 3**0.5)

import math

import pytest
import torch
from scipy.special import jn_zeros

from orbitrec.errors import InputError
from orbitrec.geometry.grids import pixel_vectors
from orbitrec.geometry.polar import PolarGrid
from orbitrec.models.base import SeparableProjector
from orbitrec.models.planar import FourierBesselBasis, PlanarProjector

RADIUS, BANDWIDTH, CLASSES = 11.0, 14.0, 3
BASIS = FourierBesselBasis(RADIUS, BANDWIDTH / RADIUS)
BOXES = pytest.mark.parametrize("n", [32, 33])
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])


def projector(n: int = 32, dtype: torch.dtype = torch.float64) -> PlanarProjector:
    return PlanarProjector(BASIS, PolarGrid.for_radius(n, BANDWIDTH / RADIUS, RADIUS + 3), CLASSES, dtype)


def coefficients(dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    """Of smooth images, which a lattice of pixels resolves to their edge."""
    made = projector()
    w = torch.randn(made.dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    smooth = torch.exp(-0.5 * (BASIS.zero / 5).square()).expand(CLASSES, -1)
    return (w * made.real(torch.complex(smooth, smooth))).to(dtype)


def test_zeros_are_all_those_of_the_band():
    assert [len(each) for each in BASIS.zeros] == BASIS.counts
    for m in range(int(BANDWIDTH) + 1):
        expected = jn_zeros(m, 10)
        found = BASIS.zeros[m] if m <= BASIS.max_mode else []
        assert list(found) == pytest.approx(expected[expected <= BANDWIDTH].tolist())


@BOXES
def test_functions_are_orthonormal_over_pixels(n):
    made = projector(n)
    images = torch.cat([BASIS.images(made.complex(torch.eye(made.dimension)[i]), n)[:1] for i in range(made._own)])
    gram = torch.einsum("ixy,jxy->ij", images.double(), images.double())
    # Sums over pixels are integrals up to the derivative that jumps at the edge of the disc.
    assert float((gram - torch.eye(len(gram))).abs().max()) < 0.05


@BOXES
def test_templates_are_the_polar_coordinates_of_the_images(n):
    made, w = projector(n), coefficients()
    images = BASIS.images(made.complex(w), n)
    expected = made.grid.from_images(images)
    modes = BASIS.max_mode + 1
    assert float((made.templates(w) - expected[:, :modes]).norm() / expected.norm()) < 6e-3
    assert float(expected[:, modes:].norm() / expected.norm()) < 6e-3


def test_rotated_images_have_rotated_coefficients():
    made, w = projector(33), coefficients()
    modes = BASIS.mode
    quarter = made.complex(w) * torch.exp(-0.5j * math.pi * modes.double())
    # Content turned from x towards y by 90°: (x, y) → (−y, x), so that new[y, x] = old[−x, y].
    turned = torch.rot90(BASIS.images(made.complex(w), 33), -1, (1, 2))
    assert torch.allclose(BASIS.images(quarter, 33), turned, atol=1e-12)


@DTYPES
def test_projector_and_adjoint_are_a_pair(dtype, tolerance):
    made, w = projector(dtype=dtype), coefficients(dtype)
    t = made.templates(w)
    assert t.dtype == (torch.complex64 if dtype == torch.float32 else torch.complex128)
    x = torch.randn(t.shape, generator=torch.Generator().manual_seed(1), dtype=t.dtype)
    left, right = float((t.conj() * x).real.sum()), float(w @ made.adjoint(x))
    assert abs(left - right) < tolerance * float(t.norm() * x.norm())


@DTYPES
@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_normal_equations_are_solved_class_by_class_and_mode_by_mode(dtype, tolerance, strength):
    made, w = projector(dtype=dtype), coefficients(dtype)
    assert isinstance(made, SeparableProjector)
    weight = 0.5 + torch.rand(CLASSES, made.grid.node_count, generator=torch.Generator().manual_seed(2)).to(dtype)
    precision = strength * torch.ones(CLASSES, len(BASIS), dtype=torch.float64)
    precision = made.real(torch.complex(precision, precision))
    right = made.normal(w, weight).double() + precision * w.double()
    found = made.solve(right, weight, precision)
    assert torch.allclose(found, w.double(), atol=100 * tolerance)
    dense = PlanarProjector(BASIS, made.grid, 1, torch.float64).gram(weight[:1].double())
    one = len(dense)
    expected = torch.linalg.solve(dense + torch.diag(precision[:one]), right[:one])
    assert torch.allclose(found[:one], expected, atol=100 * tolerance)


def test_uniform_diagonal_is_that_of_the_matrix():
    made = projector()
    weight = torch.rand(made.grid.node_count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    matrix = made.gram((weight / CLASSES).expand(CLASSES, -1))
    assert torch.allclose(matrix.diagonal(), made.uniform_diagonal(weight), rtol=1e-12)


def test_an_image_keeps_its_pixels_in_a_finer_basis():
    finer = FourierBesselBasis(RADIUS, 1.5 * BANDWIDTH / RADIUS)
    own = projector().complex(coefficients())
    assert torch.allclose(finer.images(BASIS.embedded(own, finer), 32), BASIS.images(own, 32), atol=1e-12)
    assert len(finer) > len(BASIS)


def test_images_vanish_outside_the_disc():
    image = BASIS.images(projector().complex(coefficients()), 32)
    outside = pixel_vectors(32).norm(dim=-1) > RADIUS
    assert float(image[:, outside].abs().max()) == 0
    assert float(image[:, ~outside].abs().max()) > 0


def test_a_basis_without_functions_is_refused():
    with pytest.raises(InputError, match="no basis function"):
        FourierBesselBasis(4.0, 0.5)

"""Backgrounds against the polynomials that they are."""

import pytest
import torch

from orbitrec.models.background import Background, corner_mask


def surface(n: int, degree: int, count: int = 5) -> torch.Tensor:
    """Images that are polynomials of x and y with random coefficients."""
    axis = (torch.arange(n, dtype=torch.float64) - n // 2) / n
    terms = [axis[:, None] ** b * axis**a for a in range(degree + 1) for b in range(degree + 1 - a)]
    weights = torch.randn(count, len(terms), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.einsum("bq,qyx->byx", weights, torch.stack(terms))


@pytest.mark.parametrize("n", [24, 25])
@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_polynomials_vanish_and_particles_stay(n, degree, dtype, tolerance):
    particle = torch.where(corner_mask(n), 0.0, torch.rand(5, n, n, generator=torch.Generator().manual_seed(2)))
    images = particle.to(dtype) + surface(n, degree).to(dtype)
    left = Background(degree).removed(images)
    assert left.dtype == dtype
    assert torch.allclose(left, particle.to(dtype), atol=tolerance)


def test_a_plane_is_no_paraboloid():
    images = surface(24, 2)
    assert not torch.allclose(Background(1).removed(images), torch.zeros(1, dtype=torch.float64), atol=1e-3)


def test_noise_outside_has_mean_zero_and_variance_one():
    n, generator = 24, torch.Generator().manual_seed(3)
    images = 5 + 3 * torch.randn(4, n, n, generator=generator, dtype=torch.float64) + 10 * surface(n, 1, 4)
    outside = Background(1, unit_variance=True).removed(images)[:, corner_mask(n)]
    assert torch.allclose(outside.mean(1), torch.zeros(4, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(outside.std(1), torch.ones(4, dtype=torch.float64), rtol=1e-12)

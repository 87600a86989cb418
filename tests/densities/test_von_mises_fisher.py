import math

import numpy as np
import pytest
import torch

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.geometry.rotations import random_rotations


def single(kappa: float, dtype: torch.dtype = torch.float64) -> VonMisesFisherMixture:
    mean = torch.tensor([[0.36, 0.48, 0.8]], dtype=dtype)
    return VonMisesFisherMixture(mean, torch.tensor([kappa], dtype=dtype), torch.ones(1, dtype=dtype))


def sphere_rule(degree: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss–Legendre × trapezoid rule of the uniform probability measure on the sphere."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(degree))
    phi = 2 * math.pi * torch.arange(2 * degree, dtype=torch.float64) / (2 * degree)
    s = (1 - z * z).sqrt()
    points = torch.stack(
        [s[:, None] * phi.cos(), s[:, None] * phi.sin(), z[:, None].expand(-1, 2 * degree)], dim=-1
    ).reshape(-1, 3)
    return points, (w / 2)[:, None].expand(-1, 2 * degree).reshape(-1) / (2 * degree)


@pytest.mark.parametrize("components", [1, 5])
def test_mean_over_the_sphere_is_one(components):
    views = VonMisesFisherMixture.random(torch.Generator().manual_seed(components), components)
    points, weights = sphere_rule()
    assert float((weights * views.density(points)).sum()) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("kappa", [0.0, 1e-3, 1.0, 30.0])
def test_matches_the_textbook_formula(kappa):
    views = single(kappa)
    points, _ = sphere_rule(9)
    expected = (kappa / math.sinh(kappa) if kappa else 1.0) * torch.exp(kappa * points @ views.means[0])
    assert torch.allclose(views.density(points), expected, rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stable_where_sinh_overflows(dtype):
    views = single(2e4, dtype)
    assert float(views.density(views.means)[0]) == pytest.approx(4e4, rel=1e-2)
    assert float(views.log_density(-views.means)[0]) == pytest.approx(math.log(4e4) - 4e4, rel=1e-4)
    draws = views.sample(1000, torch.Generator().manual_seed(0))
    assert bool(draws.isfinite().all())
    assert torch.allclose(draws.norm(dim=1), torch.ones(1000, dtype=dtype), atol=1e-5)


@pytest.mark.parametrize("kappa", [0.0, 1e-3, 2.0, 50.0])
def test_draws_have_the_mean_direction_of_the_law(kappa):
    count = 20_000
    views = single(kappa)
    draws = views.sample(count, torch.Generator().manual_seed(7))
    cosine = draws @ views.means[0]
    # E cos = coth κ − 1/κ, the Langevin function.
    expected = 1 / math.tanh(kappa) - 1 / kappa if kappa > 1e-2 else kappa / 3
    assert abs(float(cosine.mean()) - expected) < 5 * float(cosine.std()) / math.sqrt(count)
    sideways = draws - cosine[:, None] * views.means[0]
    assert bool((sideways.mean(0).abs() < 5 * sideways.std(0) / math.sqrt(count)).all())


def test_draws_of_a_mixture_follow_its_density():
    # For any function f the mean of f over draws is the mean of f · density over the sphere.
    count, views = 20_000, VonMisesFisherMixture.random(torch.Generator().manual_seed(11))
    draws = views.sample(count, torch.Generator().manual_seed(12))
    points, weights = sphere_rule()
    for direction in random_rotations(6, torch.Generator().manual_seed(13))[:, :, 2]:
        values = torch.exp(2 * draws @ direction)
        expected = float((weights * views.density(points) * torch.exp(2 * points @ direction)).sum())
        assert abs(float(values.mean()) - expected) < 5 * float(values.std()) / math.sqrt(count)


def test_bad_parameters():
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(InputError, match="unit vector"):
        VonMisesFisherMixture(torch.ones(1, 3, dtype=torch.float64), one, one)
    with pytest.raises(InputError, match="negative"):
        VonMisesFisherMixture(torch.tensor([[0.0, 0, 1]], dtype=torch.float64), -one, one)

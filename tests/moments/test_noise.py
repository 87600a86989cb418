"""Moments drawn with the covariance of N particles, against a stream of real ones."""

import math

import torch

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import polar_templates
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.moments.analytic import Moments, uniform_moments
from orbitrec.moments.estimator import MomentAccumulator
from orbitrec.moments.noise import sampled_moments
from orbitrec.volumes.gaussians import GaussianMixture

N, SIGMA, COUNT = 21, 0.7, 2000
ATOMS = GaussianMixture(
    torch.tensor([[3.0, -1.5, 1.0], [-2.0, 2.0, 0.5], [0.0, -2.0, -2.5]], dtype=torch.float64),
    torch.tensor([1.4, 1.6, 1.5], dtype=torch.float64),
    torch.tensor([8.0, 12.0, 7.0], dtype=torch.float64),
)
VIEWS = VonMisesFisherMixture.random(torch.Generator().manual_seed(1), 3)
GRID = PolarGrid(N, 1.4, 9, 14)
DIRECTIONS = spherical_design(41)


def exact() -> tuple[torch.Tensor, torch.Tensor, Moments]:
    density = VIEWS.density(DIRECTIONS)
    templates = polar_templates(ATOMS, GRID, DIRECTIONS)
    return templates, density / density.sum(), uniform_moments(templates, density / density.sum(), GRID)


def streamed(generator: torch.Generator) -> Moments:
    """Moments of so many images at continuous poses, with white noise; in units of one."""
    rotations, shifts = random_poses(COUNT, generator, views=VIEWS)
    images = ParticleSimulation(ATOMS, N, 1.0, rotations, shifts).clean(torch.arange(COUNT), torch.float64)
    images += SIGMA * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    accumulator = MomentAccumulator.empty(GRID)
    accumulator.update(GRID.from_images(images / SIGMA), torch.ones(COUNT, GRID.node_count, dtype=torch.float64))
    found = accumulator.estimate(0.0)
    return Moments(found.first * SIGMA, found.second * SIGMA**2, found.weights)


def test_errors_are_as_large_as_those_of_a_stream_in_every_mode():
    templates, density, mean = exact()
    generator = torch.Generator().manual_seed(2)
    drawn = [
        sampled_moments(templates, density, GRID, sigma=SIGMA, count=COUNT, generator=generator) for _ in range(60)
    ]
    real = [streamed(generator) for _ in range(12)]
    for of in (lambda m: m.first[0].abs().square().sum()[None], lambda m: m.second.abs().square().sum((1, 2))):
        ours, theirs = (torch.stack([of(moments - mean) for moments in several]) for several in (drawn, real))
        spread = (ours.var(0) / len(ours) + ours.var(0) / len(theirs)).sqrt()
        assert float(((ours.mean(0) - theirs.mean(0)).abs() / spread).max()) < 5
        assert float((ours.mean(0) / theirs.mean(0)).log().abs().mean()) < 0.2


def test_draws_are_unbiased_hermitian_and_real_in_mode_zero():
    templates, density, mean = exact()
    generator = torch.Generator().manual_seed(3)
    drawn = [
        sampled_moments(templates, density, GRID, sigma=SIGMA, count=COUNT, generator=generator) for _ in range(60)
    ]
    second = torch.stack([moments.second for moments in drawn])
    assert torch.allclose(second, second.mH, atol=1e-12)
    assert float(second[:, 0].imag.abs().max()) < 1e-12
    assert float(torch.stack([moments.first[1:] for moments in drawn]).abs().max()) == 0
    error = torch.view_as_real(second).std(0) / math.sqrt(len(drawn))
    known = error > 1e-6 * error.max()
    excess = torch.view_as_real(second.mean(0) - mean.second).abs() / error
    assert float(excess[known].max()) < 5

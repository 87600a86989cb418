import math
from itertools import pairwise

import pytest
import torch

from orbitrec.densities import VonMisesFisherMixture
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.fourier import centred_fft, centred_ifft, radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import random_rotations
from orbitrec.inference.losses import relative_errors
from orbitrec.inference.moments import Moments, uniform_moments
from orbitrec.models.cryoem import polar_templates
from orbitrec.recovery.matching import MomentTarget
from orbitrec.recovery.volume_matching.beads import BeadMatching, BeadStage, Settings, match_beads
from orbitrec.recovery.volume_matching.lbfgs import minimise
from orbitrec.volumes.gaussians import GaussianMixture

N, REACH, RADIUS, K_MAX = 25, 7.0, 9.0, 1.0
ATOMS = GaussianMixture(
    torch.tensor([[4.0, 0.0, 0.0], [-2.0, 3.0, 1.0], [0.0, -3.0, -3.0], [-1.0, -1.0, 4.0]], dtype=torch.float64),
    torch.full((4,), 1.5, dtype=torch.float64),
    torch.tensor([3.0, 4.5, 2.5, 4.0], dtype=torch.float64),
)
SETTINGS = Settings(beads=8, starts=3, finalists=1, first_bandwidth=4.0, iterations=40)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(settings: Settings) -> BeadMatching:
    grid, directions = PolarGrid.for_radius(N, K_MAX, RADIUS), spherical_design(31)
    density = VonMisesFisherMixture.random(seeded(0), 8).density(directions)
    exact = uniform_moments(polar_templates(ATOMS, grid, directions), density / density.sum(), grid)
    moments = Moments(exact.first.to(torch.complex64), exact.second.to(torch.complex64), exact.weights.float())
    return BeadMatching(MomentTarget.exact(moments, grid), REACH, RADIUS, settings)


def test_minimise_finds_the_minimum_of_a_quadratic():
    target = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    x, value = minimise(lambda y: (y - target).square().sum() + 5, torch.zeros(3, dtype=torch.float64), 50)
    assert torch.allclose(x, target, atol=1e-4)
    assert value == pytest.approx(5)


def test_exact_moments_give_the_volume():
    matching, heard = problem(SETTINGS), []
    best = match_beads(matching, seeded(1), lambda name, compute: heard.append(name) or compute())
    assert len(heard) == len(set(heard)) == matching.steps()
    moments = BeadStage.of(matching, matching.bandwidths()[-1], 1.0).moments(best.variables)
    first, second = relative_errors(matching.target.moments, moments)
    assert float(first) < 0.005
    assert float(second) < 0.02
    found, truth = matching.volume(best).to_grid(N), ATOMS.to_grid(N)
    below = radial_frequencies(N, 3) < K_MAX
    cut = [centred_ifft(centred_fft(v, 3) * below, 3).real for v in (align(found, truth).apply(found), truth)]
    assert float(torch.corrcoef(torch.stack([v.flatten() for v in cut]))[0, 1]) > 0.9


def test_moments_are_those_of_the_volume_and_its_views():
    matching = problem(SETTINGS)
    solution = matching.start(seeded(2))
    solution.variables[-len(matching.background) :] = torch.randn(len(matching.background), generator=seeded(3))
    bandwidth = matching.bandwidths()[-1]
    stage, directions = BeadStage.of(matching, bandwidth, 1.0), spherical_design(2 * int(bandwidth) + 7)
    templates = polar_templates(matching.volume(solution), stage.target.grid, directions)
    density = matching.view_density(solution, directions)
    assert float(density.sum()) == pytest.approx(1)
    exact = uniform_moments(templates, density, stage.target.grid)
    first, second = relative_errors(exact, stage.moments(solution.variables))
    assert float(first) < 1e-3
    assert float(second) < 1e-3


def test_gradients_are_differences():
    matching = problem(SETTINGS)
    stage = BeadStage.of(matching, 4.0, 1e4)
    x = matching.start(seeded(4)).variables
    x = x + 0.1 * torch.randn(len(x), generator=seeded(5))
    direction = torch.randn(len(x), generator=seeded(6))
    (gradient,) = torch.autograd.grad(stage.loss(x.requires_grad_()), x)
    ahead, behind = (float(stage.loss(x.detach() + step * direction)) for step in (2e-3, -2e-3))
    assert (ahead - behind) / 4e-3 == pytest.approx(float(gradient @ direction), rel=0.02)


def test_turning_volume_and_views_together_changes_nothing():
    # Even views stay even: only the beads have to be turned.
    matching = problem(SETTINGS)
    stage = BeadStage.of(matching, matching.bandwidths()[-1], 1.0)
    x = matching.start(seeded(7)).variables
    count = SETTINGS.beads
    x[4 * count + 2 :] = 0
    turned, size = x.clone(), float(stage.moments(x).second_norm())
    rotation = random_rotations(1, seeded(8))[0].float()
    turned[: 3 * count] = (x[: 3 * count].reshape(-1, 3) @ rotation.T).flatten()
    difference = stage.moments(turned) - stage.moments(x)
    assert float(difference.second_norm()) < 1e-3 * size
    mirrored = x.clone()
    mirrored[: 3 * count] *= -1
    assert float((stage.moments(mirrored) - stage.moments(x)).second_norm()) < 1e-5 * size


def test_bandwidths_grow_to_the_targets():
    found = problem(SETTINGS).bandwidths()
    assert found[0] == 4.0
    assert found[-1] == pytest.approx(REACH * K_MAX)
    assert all(b / a < 1.5**1.5 + 1e-9 for a, b in pairwise(found))
    assert math.isinf(problem(SETTINGS).start(seeded(9)).loss)

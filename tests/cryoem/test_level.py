import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import DENSITY_FLOOR, PRIOR_FACTOR, ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.likelihood import centred_likelihood
from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.likelihood import Observations, Statistics
from orbitrec.inference.orbit_likelihood import ObservationSet, OrbitLikelihood
from orbitrec.models.cryoem import polar_templates
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.optim.problem import em_map

RADIUS, BANDWIDTH = 8.0, 9.0
GRID = PolarGrid.for_radius(24, 1.4, RADIUS + 2)


def level(bandwidth: float = BANDWIDTH, dtype: torch.dtype = torch.float64) -> ResolutionLevel:
    found = ResolutionLevel.at(GRID, RADIUS, bandwidth)
    return replace(found, projector=replace(found.projector, dtype=dtype))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(at: ResolutionLevel) -> Tensor:
    """Log density of uniform views."""
    count = len(at.directions)
    return torch.full((count,), -math.log(count), dtype=at.projector.dtype)


def coefficients(at: ResolutionLevel, seed: int, energy: float) -> Tensor:
    """Random coefficients whose templates have this mean energy at unit filter."""
    w = at.random_model(seeded(seed), torch.ones(at.grid.node_count, dtype=at.projector.dtype)).coefficients
    return w * math.sqrt(2 * energy)


def exact_statistics(at: ResolutionLevel, w: Tensor, weight: float) -> Statistics:
    """What uniformly spread, noiseless particles at known poses give."""
    second = weight * (1 + at.grid.nodes).expand(len(at.directions), -1)
    occupancy = torch.ones(len(at.directions), at.circle.angles, dtype=torch.float64)
    return Statistics(at.projector.templates(w) * second[:, None], second, occupancy, 0.0, float(occupancy.sum()))


def likelihood(at: ResolutionLevel, observed: Observations) -> OrbitLikelihood:
    """The likelihood of an ab initio search, given these observations in place of particles of a stack."""
    count, filters = len(observed), torch.ones(1, GRID.node_count, dtype=torch.float64)
    blank = torch.zeros(count, GRID.max_mode + 1, GRID.node_count, dtype=torch.complex64)
    stack = ParticleModes(GRID, blank, filters, torch.zeros(count).long(), NoiseSpectrum.white(24, 1.0), 1.0)
    problem = centred_likelihood(stack, at, torch.zeros(count, 2, dtype=torch.float64), torch.arange(count))

    def observe(index: Tensor) -> Observations:
        return Observations(observed.modes[index], observed.ctf2_over_noise[index], observed.log_shift)

    return replace(problem, data=ObservationSet(observe, count, observed.ctf2_over_noise.mean(0)))


def maximised(at: ResolutionLevel, present: VolumeAndViews, sums: Statistics) -> VolumeAndViews:
    """The M-step from these sums over ``sums.count`` particles."""
    parts = [at.projector.adjoint(sums.first), sums.second.flatten(), sums.occupancy.flatten()]
    problem = likelihood(at, particles(at, 2, 1.0, 0)[0])
    return at.model(problem.maximisation(torch.cat(parts) / sums.count, at.unknowns(present), terms=sums.count))


def particles(at: ResolutionLevel, count: int, energy: float, seed: int) -> tuple[Observations, Tensor]:
    """Unit-noise observations of a random volume at random directions and angles, two displacements to choose from."""
    generator, truth = seeded(seed), coefficients(at, seed + 100, energy)
    templates = at.projector.templates(truth)
    d = torch.randint(len(at.directions), (count,), generator=generator)
    alpha = at.circle.in_plane_angles[torch.randint(at.circle.angles, (count,), generator=generator)]
    clean = templates[d] * torch.exp(-1j * alpha[:, None] * at.circle.modes)[:, :, None]
    noise = torch.randn(count, 2, *clean.shape[1:], generator=generator, dtype=torch.complex128)
    noise[:, 0] += clean
    log_shift = torch.log(torch.tensor([0.7, 0.3], dtype=torch.float64))
    return Observations(noise, torch.ones(count, at.grid.node_count, dtype=torch.float64), log_shift), truth


@pytest.mark.parametrize("seed", [1, 2])
def test_maximisation_recovers_a_volume_from_exact_statistics(seed):
    at = level()
    truth = coefficients(at, seed, 1.0)
    disturbed = truth * (1 + 0.3 * torch.randn(len(truth), generator=seeded(seed), dtype=torch.float64))
    present = VolumeAndViews(disturbed, uniform(at))
    found = maximised(at, present, exact_statistics(at, truth, 1e6))
    assert float((found.coefficients - truth).norm() / truth.norm()) < 2e-3
    # Data much weaker than the prior leave nothing.
    weak = maximised(at, present, exact_statistics(at, truth, 1e-3))
    assert float(weak.coefficients.norm()) < 0.2 * float(truth.norm())


def test_maximisation_solves_the_penalised_normal_equations():
    at = level()
    observed, _ = particles(at, 60, 8.0, 3)
    present = VolumeAndViews(coefficients(at, 7, 4.0), uniform(at))
    statistics = likelihood(at, observed).statistics(at.unknowns(present)).scaled(0.02)  # so few that the prior matters
    found = maximised(at, present, statistics)
    right = at.projector.adjoint(statistics.first)

    def gradient(w: Tensor) -> tuple[Tensor, Tensor]:
        penalty = w / at.prior_variance(present.coefficients)
        return at.projector.normal(w, statistics.second) - right + penalty, penalty

    total, penalty = gradient(found.coefficients)
    assert float(total.norm()) < 1e-2 * float(right.norm())
    assert float(penalty.norm()) > 0.1 * float(right.norm())
    assert float(gradient(present.coefficients)[0].norm()) > 0.1 * float(right.norm())


def test_maximisation_mixes_a_floor_into_the_view_density():
    at = level()
    statistics = exact_statistics(at, coefficients(at, 1, 1.0), 1.0)
    statistics.occupancy[0] += 50.0
    views = maximised(at, VolumeAndViews(coefficients(at, 1, 1.0), uniform(at)), statistics).log_views.exp()
    share = statistics.occupancy.sum(1) / statistics.occupancy.sum()
    assert torch.allclose(views, (1 - DENSITY_FLOOR) * share + DENSITY_FLOOR / len(share))
    assert float(views.sum()) == pytest.approx(1)


def penalised_likelihood(
    at: ResolutionLevel, model: VolumeAndViews, problem: OrbitLikelihood, variance: Tensor
) -> float:
    """What one step climbs: the likelihood, the Gaussian prior of the step on coefficients, and on views the
    Dirichlet prior whose mode is the floor of :data:`DENSITY_FLOOR`."""
    statistics = problem.statistics(at.unknowns(model))
    pseudo_count = DENSITY_FLOOR / (1 - DENSITY_FLOOR) * problem.count / len(model.log_views)
    penalty = 0.5 * (model.coefficients.square() / variance).sum() - pseudo_count * model.log_views.sum()
    return statistics.log_likelihood - float(penalty)


def test_a_step_never_lowers_the_penalised_likelihood():
    # Conjugate gradients lower the quadratic at every iteration, so stopping them early costs progress, not ascent;
    # the tolerance is rounding.
    at = level()
    observed, truth = particles(at, 80, 10.0, 5)
    model = at.random_model(seeded(6), observed.ctf2_over_noise[0])
    problem, gains = likelihood(at, observed), []
    for _ in range(10):
        variance = at.prior_variance(model.coefficients)
        before = penalised_likelihood(at, model, problem, variance)
        model = at.model(em_map(problem, at.unknowns(model))[1])
        gains.append(penalised_likelihood(at, model, problem, variance) - before)
    assert min(gains) > -1e-9 * abs(before)
    assert sum(gains) > 20
    flat = problem.statistics(at.unknowns(VolumeAndViews(torch.zeros_like(truth), uniform(at)))).log_likelihood
    assert problem.statistics(at.unknowns(model)).log_likelihood > flat + 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [24, 25])
def test_prolongation_keeps_the_volume_and_the_views_norm(n, dtype):
    coarse, fine = level(7.0, dtype), level(10.0, dtype)
    assert len(fine.basis) > 2 * len(coarse.basis)
    favoured = 3
    views = torch.full((len(coarse.directions),), 1e-3, dtype=dtype)
    views[favoured] = 1.0
    model = VolumeAndViews(coefficients(coarse, 2, 3.0), (views / views.sum()).log())
    prolongated = coarse.prolongated(model, fine)
    before, after = coarse.volume(model).to_grid(n), fine.volume(prolongated).to_grid(n)
    assert float((before - after).abs().max()) < 1e-12 * float(before.abs().max())
    assert float(prolongated.log_views.logsumexp(0)) == pytest.approx(0, abs=1e-6)
    assert bool(prolongated.log_views.isfinite().all())
    # The favoured direction stays so, to about the coarser level's spacing.
    nearest = int((fine.directions @ coarse.directions[favoured]).argmax())
    assert int(prolongated.log_views.argmax()) == nearest


def test_uniform_views_stay_uniform():
    coarse, fine = level(7.0), level(10.0)
    prolongated = coarse.prolongated(VolumeAndViews(coefficients(coarse, 2, 3.0), uniform(coarse)), fine)
    assert torch.allclose(prolongated.log_views, uniform(fine))


def test_a_level_projects_its_models_volume():
    at = level()
    model = VolumeAndViews(coefficients(at, 4, 1.0), uniform(at))
    expected = polar_templates(at.volume(model), at.grid, at.directions)
    # Samples on the circle alias where modes do not: the grid's own margin, below float32's rounding.
    assert float((at.projector.templates(model.coefficients) - expected).norm() / expected.norm()) < 1e-6


def test_a_models_volume_is_real():
    # Even degrees are real and odd ones imaginary in Fourier space, exactly: v̂(−k) = conj v̂(k).
    at = level(11.0)
    volume = at.volume(VolumeAndViews(coefficients(at, 4, 1.0), uniform(at)))
    points = torch.randn(50, 3, generator=seeded(1), dtype=torch.float64)
    values = volume.fourier(points)
    assert float((values - volume.fourier(-points).conj()).abs().max()) < 1e-13 * float(values.abs().max())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_model_has_half_a_unit_of_energy(seed):
    at = level()
    power = 0.1 + torch.rand(GRID.node_count, generator=seeded(9), dtype=torch.float64)
    model = at.random_model(seeded(seed), power)
    templates = at.projector.templates(model.coefficients)
    energy = (templates.abs().square().sum(1) @ power[: at.grid.node_count]).mean()
    assert float(energy) == pytest.approx(0.5)
    assert float(model.log_views.logsumexp(0)) == pytest.approx(0, abs=1e-9)
    assert torch.equal(model.coefficients, at.random_model(seeded(seed), power).coefficients)
    assert not torch.allclose(model.coefficients, at.random_model(seeded(seed + 1), power).coefficients, rtol=0.1)


@pytest.mark.parametrize("bandwidth", [5.0, 8.0])
def test_the_bandwidth_sets_every_size(bandwidth):
    """Twice the pixels across the same particle at the same resolution is the same search."""
    small = ResolutionLevel.at(PolarGrid.for_radius(24, 1.4, 9.0), 8.0, bandwidth)
    large = ResolutionLevel.at(PolarGrid.for_radius(48, 0.7, 18.0), 16.0, bandwidth)
    assert torch.equal(small.directions, large.directions)
    assert small.circle.angles == large.circle.angles >= 2 * bandwidth
    assert (small.grid.node_count, small.grid.max_mode) == (large.grid.node_count, large.grid.max_mode)
    assert torch.allclose(small.basis.frequency, 2 * large.basis.frequency)
    # Nodes up to the bandwidth and not beyond, directions for every degree of the basis.
    assert float(small.grid.nodes[-1]) * 8 <= bandwidth * (1 + 1e-9)
    assert len(small.directions) >= (small.basis.degree + 1) ** 2 / 2


def test_a_larger_bandwidth_is_a_larger_search():
    sizes = [(len(at.basis), len(at.directions), at.circle.angles) for at in (level(5.0), level(8.0), level(11.0))]
    assert all(a < b for small, large in pairwise(sizes) for a, b in zip(small, large, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_prior_variances_are_the_mean_power_around_each_frequency(dtype, tolerance):
    at = level(dtype=dtype)
    w, frequency = coefficients(at, 3, 1.0), at.basis.frequency
    weight = torch.exp(-0.5 * ((frequency[:, None] - frequency) * RADIUS / (0.35 * math.pi)).square())
    expected = PRIOR_FACTOR * (weight @ w.double().square()) / weight.sum(1)  # over all pairs of coefficients
    assert torch.allclose(at.prior_variance(w).double(), expected, rtol=tolerance, atol=0)

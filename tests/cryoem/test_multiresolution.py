import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.centring import Centring, centre
from orbitrec.cryoem.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.multiresolution import (
    PosedVolume,
    Schedule,
    Selection,
    climb,
    held_out_likelihood,
    march,
    multi_start,
    random_batches,
)
from orbitrec.cryoem.pose_search import NO_SHIFT, ParticleState, shift_search
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import geodesic_distance, in_plane, random_rotations
from orbitrec.inference.likelihood import Statistics
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.runtime.progress import RunState
from orbitrec.volumes.gaussians import GaussianMixture

N, RADIUS, COUNT, SNR, SHIFT_PX = 28, 9.0, 400, 2.0, 1.0
SCHEDULE = Schedule(
    starts=2, start_bandwidth=10.0, start_steps=40, start_batch=80, settle_steps=8, settle_batch=200,
    select_bandwidth=10.0, select_steps=15, select_batch=150, held_out=80, march=(10.0, 12.0), sweeps=2,
    candidates=16, batch=200,
)  # fmt: skip


def hook() -> GaussianMixture:
    """A bent chain with a heavy head: asymmetric and of a definite hand already at the resolution of the search."""
    centers = torch.tensor(
        [[7.0, 0.0, 0.0], [3.0, 4.0, 0.0], [-2.0, 4.0, -2.0], [-5.0, 0.0, 1.0], [-4.0, -4.0, 4.0], [1.0, -6.0, 3.0]],
        dtype=torch.float64,
    )
    weights = torch.tensor([200.0, 100.0, 100.0, 100.0, 100.0, 150.0], dtype=torch.float64)
    centers = centers - weights @ centers / weights.sum()
    width = 1.2
    centers = centers * (RADIUS - 2 * width) / centers.norm(dim=1).max()
    return GaussianMixture(centers, torch.full_like(weights, width), weights)


@dataclass(frozen=True)
class Run:
    data: ParticleModes
    rotations: Tensor
    shifts_px: Tensor
    centring: Centring
    selected: Selection
    found: PosedVolume
    stages: list[tuple[str, int]]


def simulated(seed: int) -> tuple[ParticleModes, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rotations, shifts_px = random_poses(COUNT, generator, shift_px=SHIFT_PX)
    simulation = ParticleSimulation(hook(), N, 1.0, rotations, shifts_px)
    noise = NoiseSpectrum.white(N, simulation.signal_variance() / SNR)
    images = simulation.clean(torch.arange(COUNT)) + noise.sample(COUNT, generator)
    grid, power = PolarGrid.for_radius(N, max(SCHEDULE.march) / RADIUS, RADIUS + 3), 1 / noise.pixel_variance
    filters, index = torch.full((1, grid.node_count), power), torch.zeros(COUNT, dtype=torch.long)
    return ParticleModes(grid, grid.from_images(images) * power, filters, index, noise, 1.0), rotations, shifts_px


def run(seed: int) -> Run:
    data, rotations, shifts_px = simulated(seed)
    stages: list[tuple[str, int]] = []
    generator = torch.Generator().manual_seed(seed)
    centring = centre(data, 6 / RADIUS, prior_px=1.4)

    def report(stage: str, level: object, model: VolumeAndViews, likelihood: float, images: int) -> None:
        stages.append((stage, images))

    journal = RunState(generator)
    selected = multi_start(data, RADIUS, centring.centres, SCHEDULE, journal, report)
    particles = ParticleState(centring.centres, centring.residual_px)
    found = march(data, RADIUS, selected.level, selected.model, particles, SCHEDULE, journal, report)
    return Run(data, rotations, shifts_px, centring, selected, found, stages)


@pytest.fixture(scope="module")
def first() -> Run:
    return run(1)


def pose_errors(found: Tensor, truth: Tensor) -> Tensor:
    """Degrees between poses after the best common rotation, for the better of both hands: an inverted volume looks
    from R as the volume does from R·Rz(π)."""
    errors = []
    for hand in (found, found @ in_plane(torch.tensor(math.pi, dtype=torch.float64))):
        u, _, vt = torch.linalg.svd((truth @ hand.mT).mean(0))
        u[:, -1] *= torch.linalg.det(u @ vt)
        errors.append(torch.rad2deg(geodesic_distance(u @ vt @ hand, truth)))
    return min(errors, key=lambda error: float(error.mean()))


def shift_errors(found: PosedVolume, truth: Tensor) -> Tensor:
    """Displacement errors once the volume has the centre that fits best: moving it by t moves image j by (Rᵀt)_xy."""
    design = found.rotations.mT[:, :2].reshape(-1, 3)
    difference = (found.shifts_px - truth).reshape(-1, 1)
    return (difference - design @ torch.linalg.lstsq(design, difference).solution).reshape(-1, 2)


def assert_poses_found(result: Run) -> None:
    """Known volume and centres leave a mean error of 12° at the last bandwidth and 25° at the first, nearly all of it
    in one view in ten that is taken for its mirror image; directions are 18° apart."""
    errors = pose_errors(result.found.rotations, result.rotations)
    guessed = pose_errors(random_rotations(COUNT, torch.Generator().manual_seed(0)), result.rotations)
    assert float(guessed.mean()) > 110
    assert float(errors.median()) < 15
    assert float(errors.mean()) < 40


def test_poses_are_found_from_random_starts(first):
    assert_poses_found(first)


def test_another_seed_and_other_particles(first):
    other = run(2)
    assert_poses_found(other)
    assert not torch.equal(other.found.rotations, first.found.rotations)


def test_shifts_are_found(first):
    error = shift_errors(first.found, first.shifts_px)
    truth = float(first.shifts_px.square().mean().sqrt())
    assert float(error.square().mean().sqrt()) < 0.5 * truth
    correlation = torch.corrcoef(torch.stack([(first.shifts_px + error).reshape(-1), first.shifts_px.reshape(-1)]))
    assert float(correlation[0, 1]) > 0.9


def test_the_march_finds_shifts_by_itself(first):
    # From uncentred particles; the first sweep is without shifts, the second finds them on a lattice whose cell,
    # 1.2/k_max wide, is 0.3 px a coordinate.
    particles = ParticleState(torch.zeros(COUNT, 2, dtype=torch.float64), SHIFT_PX)
    found = march(
        first.data, RADIUS, first.selected.level, first.selected.model, particles,
        replace(SCHEDULE, march=(10.0,)), RunState(torch.Generator().manual_seed(3)), lambda *_: None,
    )  # fmt: skip
    assert float(shift_errors(found, first.shifts_px).square().mean().sqrt()) < 0.5 * SHIFT_PX
    # The state says how far: posterior means are no worse, and their spread has shrunk with them.
    means = replace(found, shifts_px=found.particles.centres)
    assert float(shift_errors(means, first.shifts_px).square().mean().sqrt()) < 0.5 * SHIFT_PX
    assert 0.2 < found.particles.residual_px < 0.5


def test_rotations_are_rotations(first):
    rotations = first.found.rotations
    identity = torch.eye(3, dtype=torch.float64).expand_as(rotations)
    assert torch.allclose(rotations @ rotations.mT, identity, atol=1e-12)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(COUNT, dtype=torch.float64))


def test_the_same_seed_gives_the_same_bits(first):
    again = run(1)
    assert again.selected.chosen == first.selected.chosen
    assert again.selected.scores == first.selected.scores
    assert torch.equal(again.found.model.coefficients, first.found.model.coefficients)
    assert torch.equal(again.found.model.log_views, first.found.model.log_views)
    assert torch.equal(again.found.rotations, first.found.rotations)
    assert torch.equal(again.found.shifts_px, first.found.shifts_px)


def test_the_plan_is_followed(first):
    steps: dict[str, list[int]] = {}
    for stage, images in first.stages:
        steps.setdefault(stage, []).append(images)
    start = [80] * 40 + [200] * 8
    assert steps.pop("start 1") == start
    assert steps.pop("start 2") == start
    # One of the two starts goes on, the better one on particles that no start has seen.
    assert steps.pop(f"select {first.selected.chosen + 1}") == [150] * 15
    assert first.selected.scores[first.selected.chosen] == max(first.selected.scores)
    assert steps == {"march to bandwidth 10": [80] * 10, "march to bandwidth 12": [80] * 10}
    assert first.found.level.bandwidth == 12.0
    assert first.selected.level.bandwidth == 10.0


def test_the_selected_model_explains_particles_better_than_none(first):
    level, rows = first.selected.level, torch.arange(100)

    def likelihood(model: VolumeAndViews) -> float:
        return held_out_likelihood(first.data, level, model, first.centring.centres, rows)

    faint = level.random_model(torch.Generator().manual_seed(5), first.data.ctf2_over_noise(rows).mean(0))
    nothing = VolumeAndViews(torch.zeros_like(faint.coefficients), faint.log_views)
    assert likelihood(nothing) == pytest.approx(0, abs=1e-3)
    assert likelihood(first.selected.model) > likelihood(faint) + 50


def test_climbing_discounts_what_it_has_seen(first):
    level, centres, (a, b) = first.selected.level, first.centring.centres, torch.arange(60).split(30)

    def seen(rows: Tensor, model: VolumeAndViews) -> Statistics:
        observed = first.data.observations(rows, level.grid, centres[rows], NO_SHIFT, torch.zeros(1))
        return level.expectation(model, observed)[0]

    start = seen(a, first.selected.model)
    model = level.maximisation(first.selected.model, start)
    expected = level.maximisation(model, start.scaled(0.7).merge(seen(b, model)))
    batches = iter([(a, 0.3), (b, 0.7)])  # there is nothing to keep at the first batch
    climbed = climb(first.data, level, first.selected.model, centres, batches, lambda *_: None)
    assert torch.equal(climbed.coefficients, expected.coefficients)
    assert torch.equal(climbed.log_views, expected.log_views)


def test_batches_are_drawn_without_replacement():
    pool = torch.arange(100, 130)
    drawn = list(random_batches(pool, 12, 5, 0.9, torch.Generator().manual_seed(1)))
    assert len(drawn) == 5
    for rows, keep in drawn:
        assert keep == 0.9
        assert len(set(rows.tolist())) == 12
        assert set(rows.tolist()) <= set(pool.tolist())
    assert len(torch.cat([rows for rows, _ in drawn]).unique()) > 20
    ((rows, _),) = random_batches(pool, 50, 1, 0.9, torch.Generator().manual_seed(1))
    assert sorted(rows.tolist()) == pool.tolist()


def test_a_march_without_bandwidths_is_refused(first):
    schedule = Schedule(march=())
    particles = ParticleState(first.centring.centres, 1.0)
    with pytest.raises(ValueError, match="at least one bandwidth"):
        march(
            first.data, RADIUS, first.selected.level, first.selected.model, particles, schedule,
            RunState(torch.Generator().manual_seed(1)), lambda *_: None,
        )  # fmt: skip


def test_shifts_are_sought_under_a_gaussian_prior_once_directions_are_known():
    grid = PolarGrid.for_radius(28, 1.2, RADIUS + 3)
    level = ResolutionLevel.at(grid, RADIUS, 8.0)
    particles = ParticleState(torch.zeros(4, 2, dtype=torch.float64), residual_px=0.9)
    none, certain = shift_search(level, particles)
    assert none.tolist() == [[0.0, 0.0]]
    assert certain.tolist() == [0.0]
    particles.directions = torch.ones(4, len(level.directions))
    shifts, log_prior = shift_search(level, particles)
    assert len(shifts) > 1
    assert float(log_prior.exp().sum()) == pytest.approx(1, abs=1e-6)
    at_zero = log_prior[shifts.norm(dim=1) == 0]
    expected = at_zero - shifts.square().sum(1) / (2 * 0.9**2)
    assert torch.allclose(log_prior.double(), expected.double(), atol=1e-6)

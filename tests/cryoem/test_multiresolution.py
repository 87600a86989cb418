import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.centring import Centring, centre
from orbitrec.cryoem.config import AbInitioConfig, Schedule
from orbitrec.cryoem.pipeline import marching_plan
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.likelihood import centred_likelihood, searched_likelihood
from orbitrec.cryoem.search.multi_start import Selection, held_out_likelihood, multi_start
from orbitrec.cryoem.search.multiresolution import PosedVolume, Search, SearchState, frequency_marching
from orbitrec.cryoem.search.pose_search import ParticleState, candidate_directions, shift_search, with_trials
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import geodesic_distance, in_plane, random_rotations
from orbitrec.inference.likelihood import Statistics, expectation, scores
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.optim.driver import continued
from orbitrec.optim.online import OnlineEM
from orbitrec.runtime.progress import RunState, Stage
from orbitrec.volumes.gaussians import GaussianMixture

N, RADIUS, COUNT, SNR, SHIFT_PX = 28, 9.0, 400, 2.0, 1.0
SCHEDULE = Schedule(
    start_bandwidth=10.0, start_steps=40, start_batch=80, settle_steps=8, settle_batch=200, select_bandwidth=10.0,
    select_steps=15, select_batch=150, held_out=80, bandwidths=(10.0, 12.0), passes=2, candidates=16, batch=200,
)  # fmt: skip
CONFIG = AbInitioConfig(matched=0, random=2, schedule=SCHEDULE)


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


@dataclass
class Watched(RunState):
    """The state of a run that writes down how many images each step of a stage has seen."""

    steps: list[tuple[Stage, str, float]] = field(default_factory=list)

    def advance(self, stage: Stage, images: int | float, part: str = "") -> None:
        self.steps.append((stage, part, round(images, 6)))
        super().advance(stage, images, part)


@dataclass(frozen=True)
class Run:
    data: ParticleModes
    rotations: Tensor
    shifts_px: Tensor
    centring: Centring
    selection: Selection
    found: PosedVolume
    state: Watched


def simulated(seed: int) -> tuple[ParticleModes, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rotations, shifts_px = random_poses(COUNT, generator, shift_px=SHIFT_PX)
    simulation = ParticleSimulation(hook(), N, 1.0, rotations, shifts_px)
    noise = NoiseSpectrum.white(N, simulation.signal_variance() / SNR)
    images = simulation.clean(torch.arange(COUNT)) + noise.sample(COUNT, generator)
    grid, power = PolarGrid.for_radius(N, max(SCHEDULE.bandwidths) / RADIUS, RADIUS + 3), 1 / noise.pixel_variance
    filters, index = torch.full((1, grid.node_count), power), torch.zeros(COUNT, dtype=torch.long)
    return ParticleModes(grid, grid.from_images(images) * power, filters, index, noise, 1.0), rotations, shifts_px


def run(seed: int) -> Run:
    data, rotations, shifts_px = simulated(seed)
    state = Watched(torch.Generator().manual_seed(seed))
    centring = centre(data, 6 / RADIUS, prior_px=1.4)
    selection = multi_start(data, RADIUS, centring.centres, CONFIG, SCHEDULE, state)
    begun = SearchState(selection.model, ParticleState(centring.centres, centring.residual_px))
    search = Search(data, SCHEDULE.candidates, state, Stage.MARCHING)
    found = frequency_marching(
        "frequency marching", search, selection.level, begun, marching_plan(search, CONFIG, SCHEDULE)
    )
    return Run(data, rotations, shifts_px, centring, selection, found, state)


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


def test_starts_end_where_the_best_two_of_the_first_half_agree():
    data, _, _ = simulated(1)
    centres = torch.zeros(len(data), 2, dtype=torch.float64)
    config = replace(CONFIG, random=8)

    def found(model: Callable[[int, VolumeAndViews], VolumeAndViews]) -> Selection:
        def went_on(number: int, level: ResolutionLevel, start: VolumeAndViews) -> tuple[VolumeAndViews, float]:
            return model(number, start), float(number)

        state = Watched(torch.Generator().manual_seed(1))
        schedule = replace(SCHEDULE, start_steps=1, settle_steps=0)
        selection = multi_start(data, RADIUS, centres, config, schedule, state, went_on=went_on)
        totals.append(state.total)
        return selection

    totals: list[float] = []
    seen: list[VolumeAndViews] = []

    def the_first(number: int, start: VolumeAndViews) -> VolumeAndViews:
        seen.append(start)
        return seen[0]

    agreed = found(the_first)
    assert (len(agreed.scores), len(agreed.kinds), len(agreed.candidates)) == (4, 4, 2)
    others = found(lambda number, start: start)
    assert (len(others.scores), len(others.candidates)) == (8, 4)
    assert totals[0] < totals[1]
    assert others.chosen == max(each.start for each in others.candidates)


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


@pytest.mark.parametrize("narrowed", [False, True])
def test_what_a_pass_knows_of_a_particle_is_its_posterior_over_all_samples(first, narrowed):
    """Against the scores of every direction, angle and displacement that the particle is compared with."""
    level, model = first.found.level, first.found.model
    centres, rows = first.centring.centres, torch.arange(20)
    before = replace(first.found.particles, residual_px=1.0) if narrowed else ParticleState(centres, 1.0)
    data, before = first.data.subset(rows), before.subset(rows)
    data = replace(data, log_outlier=torch.linspace(-30, 30, 20))
    search = Search(data, 16, RunState(torch.Generator()), Stage.MARCHING, counted=True)
    found = search.pose_search(level, SearchState(model, before)).particles.posterior
    bank = searched_likelihood(data, level, before, 16).bank(level.unknowns(model))
    shifts, log_shift = shift_search(level, before)
    assert (len(shifts) > 1) == narrowed
    score = scores(data.observations(rows, level.grid, before.centres, shifts, log_shift), bank).double()
    for row, own in enumerate(candidate_directions(level, before, 16)):
        p = score[row, :, own].flatten().softmax(0).sort(descending=True).values
        likelihood = score[row, :, own].flatten().logsumexp(0)
        assert float(found.log_likelihood[row]) == pytest.approx(float(likelihood), abs=1e-3)
        assert float(found.max_probability[row]) == pytest.approx(float(p[0]), rel=1e-3)
        counts = [int((p.cumsum(0) <= share).sum()) + 1 for share in (0.999 - 1e-5, 0.999 + 1e-5)]
        assert counts[0] <= int(found.significant_samples[row]) <= counts[1]
        odds = float(likelihood) - float(data.log_outlier[row])
        assert float(found.inlier_probability[row]) == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-3)


def test_marching_finds_shifts_by_itself(first):
    # From uncentred particles; the first pass is without shifts, the second finds them on a lattice whose cell,
    # 1.2/k_max wide, is 0.3 px a coordinate.
    particles = ParticleState(torch.zeros(COUNT, 2, dtype=torch.float64), SHIFT_PX)
    search = Search(first.data, 16, RunState(torch.Generator().manual_seed(3)), Stage.MARCHING)
    plan = [(10.0, search.online_pass(200))] * 2
    found = frequency_marching(
        "frequency marching", search, first.selection.level, SearchState(first.selection.model, particles), plan
    )
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
    assert again.selection.chosen == first.selection.chosen
    assert again.selection.scores == first.selection.scores
    assert torch.equal(again.found.model.coefficients, first.found.model.coefficients)
    assert torch.equal(again.found.model.log_views, first.found.model.log_views)
    assert torch.equal(again.found.rotations, first.found.rotations)
    assert torch.equal(again.found.shifts_px, first.found.shifts_px)


def test_the_plan_is_followed(first):
    steps: dict[tuple[Stage, str], list[float]] = {}
    for stage, part, images in first.state.steps:
        steps.setdefault((stage, part), []).append(images)
    start, chosen = [80] * 40 + [200] * 8, first.selection.chosen
    assert steps.pop((Stage.STARTS, "start 1")) == start
    assert steps.pop((Stage.STARTS, "start 2")) == start
    # One of the two starts goes on, the better one on particles that no start has seen.
    assert steps.pop((Stage.SELECTION, f"start {chosen + 1}")) == [150] * 15
    assert first.selection.scores[chosen] == max(first.selection.scores)
    # Two passes of five batches at each of two bandwidths.
    assert steps == {(Stage.MARCHING, ""): [80] * 20}
    rows = [row for row in first.state.history if row.stage is Stage.MARCHING]
    resolutions = [2 * math.pi * RADIUS / bandwidth for bandwidth in SCHEDULE.bandwidths]
    assert [row.resolution_A for row in rows] == pytest.approx([resolutions[0]] * 10 + [resolutions[1]] * 10, rel=0.1)
    assert [row.step for row in rows] == [*range(1, 11)] * 2
    assert Counter(row.alternative for row in first.state.history if row.stage is Stage.STARTS) == {"1": 48, "2": 48}
    assert first.found.level.bandwidth == 12.0
    assert first.selection.level.bandwidth == 10.0


def test_the_selected_model_explains_particles_better_than_none(first):
    level, rows = first.selection.level, torch.arange(100)

    def likelihood(model: VolumeAndViews) -> float:
        return held_out_likelihood(first.data, level, model, first.centring.centres, rows)

    weak = level.random_model(torch.Generator().manual_seed(5), first.data.ctf2_over_noise(rows).mean(0))
    nothing = VolumeAndViews(torch.zeros_like(weak.coefficients), weak.log_views)
    assert likelihood(nothing) == pytest.approx(0, abs=1e-3)
    assert likelihood(first.selection.model) > likelihood(weak) + 50


def test_starts_discount_what_they_have_seen(first):
    """Two batches by hand, from sums over particles that know nothing of means and of flat vectors."""
    level, pool = first.selection.level, torch.arange(60)
    problem = centred_likelihood(first.data, level, first.centring.centres, pool)
    begun = level.unknowns(first.selection.model)
    draws = torch.Generator().manual_seed(4)
    a, b = (torch.randperm(60, generator=draws)[:30] for _ in range(2))

    def maximised(sums: Statistics, w: Tensor) -> Tensor:
        parts = [level.projector.adjoint(sums.first), sums.second.flatten(), sums.occupancy.flatten()]
        return problem.maximisation(torch.cat(parts).double() / sums.count, w, terms=sums.count)

    start = problem.statistics(begun, a)
    w = maximised(start, begun)
    expected = level.model(maximised(start.scaled(0.7).merge(problem.statistics(w, b)), w))
    solver, generator = OnlineEM(30, kept=0.7, passes=False), torch.Generator().manual_seed(4)
    ended = continued(solver, problem, solver.init(problem, begun), generator, 2)
    found = level.model(ended.w)
    scale = float(expected.coefficients.abs().max())
    assert torch.allclose(found.coefficients, expected.coefficients, rtol=0, atol=1e-4 * scale)
    assert torch.allclose(found.log_views, expected.log_views, atol=1e-4)
    assert not torch.allclose(found.coefficients, level.model(w).coefficients, rtol=0, atol=1e-2 * scale)
    assert torch.equal(generator.get_state(), draws.get_state())


@pytest.mark.parametrize("bandwidth", [10.5, 12.0])
def test_a_plan_may_begin_at_a_finer_level_than_its_state(first, bandwidth):
    """As one does whose finest resolution lies between the last two bandwidths of a schedule."""
    level, model = first.selection.level, first.selection.model
    begun = SearchState(model, ParticleState(first.centring.centres, 1.0))
    seen: list[tuple[float, SearchState]] = []

    def step(at: ResolutionLevel, state: SearchState) -> SearchState:
        seen.append((at.bandwidth, state))
        return replace(state, rotations=first.found.rotations, shifts_px=first.found.shifts_px)

    search = Search(first.data, 16, RunState(torch.Generator().manual_seed(1)), Stage.MARCHING)
    found = frequency_marching("frequency marching", search, level, begun, [(bandwidth, step)])
    ((at, state),) = seen
    assert at == found.level.bandwidth == bandwidth
    assert len(state.model.log_views) == len(found.level.directions)
    before, after = level.volume(model).to_grid(N), found.level.volume(state.model).to_grid(N)
    assert float((before - after).abs().max()) < 1e-6 * float(before.abs().max())


def test_a_plan_without_steps_is_refused(first):
    search = Search(first.data, 16, RunState(torch.Generator().manual_seed(1)), Stage.MARCHING)
    begun = SearchState(first.selection.model, ParticleState(first.centring.centres, 1.0))
    with pytest.raises(ValueError, match="at least one step"):
        frequency_marching("frequency marching", search, first.selection.level, begun, [])


def test_shifts_are_sought_under_a_gaussian_prior_once_directions_are_known():
    grid = PolarGrid.for_radius(28, 1.2, RADIUS + 3)
    level = ResolutionLevel.at(grid, RADIUS, 8.0)
    particles = ParticleState(torch.zeros(4, 2, dtype=torch.float64), residual_px=0.9)
    none, certain = shift_search(level, particles)
    assert none.tolist() == [[0.0, 0.0]]
    assert certain.tolist() == [0.0]
    particles = replace(particles, directions=torch.ones(4, len(level.directions)))
    shifts, log_prior = shift_search(level, particles)
    assert len(shifts) > 1
    assert float(log_prior.exp().sum()) == pytest.approx(1, abs=1e-6)
    at_zero = log_prior[shifts.norm(dim=1) == 0]
    expected = at_zero - shifts.square().sum(1) / (2 * 0.9**2)
    assert torch.allclose(log_prior.double(), expected.double(), atol=1e-6)


def test_trials_visit_displacements_by_their_posterior(first):
    """Of copies of one particle, beside the posterior over a fine lattice; 80 passes are for coming there."""
    copies, passes, spread = 200, 120, 1.0
    level = first.selection.level
    model = first.selection.model
    data = first.data.subset(torch.full((copies,), 3))
    centres = torch.tensor([0.5, -0.3], dtype=torch.float64).expand(copies, 2)
    points = 0.25 * torch.cartesian_prod(*[torch.arange(-24, 25, dtype=torch.float64)] * 2)
    log_prior = torch.log_softmax(-points.square().sum(1) / (2 * spread**2), dim=0)
    bank = centred_likelihood(data, level, centres, torch.arange(copies)).bank(level.unknowns(model))
    one = data.observations(torch.tensor([0]), level.grid, centres[:1], points, log_prior)
    exact = expectation(one, bank)[1].shift[0].double()

    particles, generator, visited = ParticleState(centres, spread), torch.Generator().manual_seed(1), []
    for number in range(passes):
        particles = with_trials(replace(particles, directions=None), generator)
        assert particles.trials is not None
        shifts, log_shift = shift_search(level, particles)
        observed = data.observations(torch.arange(copies), level.grid, centres, shifts, log_shift)
        tried = expectation(observed, bank)[1].shift
        particles = replace(particles, tried=tried)
        if number >= 80:
            visited.append((tried.double()[..., None] * particles.trials).sum(1))
    means = torch.stack(visited).mean(0)  # copies are independent of one another, passes are not
    error = means.std(0) / math.sqrt(copies)
    assert bool(((means.mean(0) - exact @ points).abs() < 4 * error).all())
    assert float((exact @ points).norm()) > 20 * float(error.max())  # the prior's mean, zero, would not pass


def trial_search(result: Run) -> tuple[Search, SearchState]:
    """A search of uncentred particles whose displacements are drawn, and where it begins."""
    search = Search(result.data, 16, RunState(torch.Generator().manual_seed(4)), Stage.MARCHING)
    particles = ParticleState(torch.zeros(COUNT, 2, dtype=torch.float64), SHIFT_PX)
    return search, SearchState(result.selection.model, with_trials(particles, search.run.generator))


def test_passes_with_drawn_displacements_find_them(first):
    search, begun = trial_search(first)
    found = frequency_marching("trials", search, first.selection.level, begun, [(12.0, search.trial_pass(80))] * 8)
    error, truth = shift_errors(found, first.shifts_px), first.shifts_px
    assert float(error.square().mean()) < 0.5 * float(truth.square().mean())
    spread = found.particles.residual_px  # of the displacements, which EM has learnt
    assert abs(spread / float(truth.square().mean().sqrt()) - 1) < 0.25
    assert found.particles.centres.eq(0).all()


def test_a_search_that_begins_anew_forgets_poses_and_keeps_the_model(first):
    coarse, fine = first.selection.level, first.found.level
    state = SearchState(first.found.model, first.found.particles, first.found.rotations, first.found.shifts_px)
    anew = state.reopened(fine, coarse, SHIFT_PX)
    assert anew.particles.centres.eq(0).all()
    assert anew.rotations is None
    assert candidate_directions(coarse, anew.particles, 4).shape[1] == len(coarse.directions)
    shifts, _ = shift_search(coarse, anew.particles)
    assert float(shifts.norm(dim=1).max()) > 2 * SHIFT_PX
    density, kept = fine.volume(first.found.model).to_grid(N), coarse.volume(anew.model).to_grid(N)
    # The part at the coarser resolution is an orthogonal projection.
    inner = float((density * kept).sum() / kept.square().sum())
    assert inner == pytest.approx(1, abs=0.02)
    assert float(anew.model.log_views.exp().sum()) == pytest.approx(1, abs=1e-5)

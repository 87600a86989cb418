"""The ab initio search: stack → modes → centres → starts → frequency marching → poses → map."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from orbitrec.cryoem.centring import Centring, centred
from orbitrec.cryoem.config import FEWEST_PARTICLES, AbInitioConfig, Schedule
from orbitrec.cryoem.halves import joined, placed
from orbitrec.cryoem.image_statistics import image_statistics
from orbitrec.cryoem.memory import require_memory
from orbitrec.cryoem.outliers import energy_outliers, outlier_odds
from orbitrec.cryoem.pose_refinement import Poses
from orbitrec.cryoem.preprocess import ParticleModes, preprocess
from orbitrec.cryoem.result import PosedMap, Session, half_sets
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.multi_start import Selection, multi_start
from orbitrec.cryoem.search.multiresolution import PosedVolume, Search, SearchState, frequency_marching
from orbitrec.cryoem.search.pose_search import ParticleState, with_trials
from orbitrec.cryoem.search.starts import matched_starts
from orbitrec.cryoem.symmetry import SymmetryCheck, impose_symmetry, symmetry_evidence
from orbitrec.errors import InputError
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Callback, RunState, Stage, ignore


def initial_model(
    stack: ParticleStack,
    config: AbInitioConfig,
    callback: Callback = ignore,
    checkpoints: Checkpoints | None = None,
) -> PosedMap:
    """A 3-D map and the pose of every particle, from a particle stack alone.

    Args:
        stack: the particles, with their CTF if they have one.
        config: of the search; the same seed gives the same result on one machine.
        callback: called with the status of the run whenever work has been done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Returns:
        Map, poses, and how they were found.

    Raises:
        InputError: for too few particles, bad images, or a configuration that does not fit the stack.
    """
    if len(stack) < FEWEST_PARTICLES:
        raise InputError(f"{len(stack)} particles are too few for an initial model; give at least {FEWEST_PARTICLES}")
    halves, statistics = half_sets(stack), image_statistics(stack)
    stack, config = statistics.applied(stack), config.with_diameter(statistics.diameter_A)
    radius, schedule = config.radius_px(stack), config.schedule_for(stack)
    generator = torch.Generator().manual_seed(config.seed)
    run = RunState(generator, _total_work(len(stack), config, schedule), callback, checkpoints or Checkpoints())
    shift_px = config.shift_px if config.shift_px is not None else 0.05 * stack.n

    finest = max(schedule.bandwidths)
    k_max = finest / radius
    # A half-set that is searched alone is held beside all particles.
    require_memory(stack, k_max, radius, copies=1.5 if config.independent_halves else 1.0)
    data = preprocess(stack, k_max, radius + 3, progress=run.counter(Stage.READING), device=config.device)
    data = replace(data, log_outlier=outlier_odds(energy_outliers(data, radius)))
    run.timer("read")
    centring = centred(data, radius, finest, shift_px, run)
    run.timer("centre")
    session = Session(stack, data, statistics, config, run)
    particles = ParticleState(centring.centres, max(centring.residual_px, 0.4 / k_max))
    if config.solver is None and not centring.tells(schedule.start_bandwidth / radius):
        # The fitted centres are what the images' noise says: given as prior, it would be believed twice.
        particles = with_trials(ParticleState(torch.zeros_like(centring.centres), centring.prior_px), generator)
        schedule = replace(schedule, select_bandwidth=schedule.start_bandwidth)
    if not config.independent_halves:
        found = searched(session, config, schedule, torch.arange(len(stack)), particles)
        return _told(centring, particles, session.result(found.poses, halves, found.selection, found.symmetry, None))
    parts = []
    for half in (1, 2):
        rows = (halves == half).nonzero().flatten()
        with run.working_on(f"half {half}"):
            parts.append(searched(session, config, schedule, rows, particles.subset(rows)))
    first, second = parts
    moved = placed(second.poses, second.volume, first.volume, apart=True)
    poses = joined(halves, (first.poses, moved.poses))
    found = session.result(poses, halves, first.selection, first.symmetry, moved.agreement)
    return _told(centring, particles, found)


def _told(centring: Centring, particles: ParticleState, found: PosedMap) -> PosedMap:
    """The result, with a sentence if displacements had to be drawn."""
    if particles.trials is None:
        return found
    sentence = (
        f"The images show where their content lies to {centring.residual_px:.1f} pixels only, so displacements were "
        "unknowns of the search, which took several times as long; more or cleaner particles help."
    )
    return replace(found, checks=[*found.checks, sentence])


@dataclass(frozen=True)
class Searched:
    """What a search on some of the particles found.

    Attributes:
        selection: the starts.
        symmetry: how symmetric the chosen start was; None without a symmetry.
        volume: the volume at the end of frequency marching, with the poses of the search.
        poses: refined.
    """

    selection: Selection
    symmetry: SymmetryCheck | None
    volume: PosedVolume
    poses: Poses


def searched(
    session: Session, config: AbInitioConfig, schedule: Schedule, rows: Int[Tensor, "n"], particles: ParticleState
) -> Searched:
    """Starts, frequency marching and refined poses of some of the particles.

    Args:
        session: the run.
        config: of the search.
        schedule: its sizes.
        rows: (n,) indices of the particles.
        particles: what is known of them, above all where they are centred; trials, if displacements are to be drawn.

    Returns:
        Volume and poses.
    """
    run, whole = session.run, len(rows) == len(session.data)
    data = session.data if whole else session.data.subset(rows)
    radius = config.radius_px(session.stack)
    used = rows[data.inliers()]
    selection = multi_start(
        data, radius, particles.centres, config, schedule, run,
        matched=lambda level: matched_starts(
            config.start, session.stack, used, level, config.matched, run.generator
        ),
    )  # fmt: skip
    run.timer("starts")
    level, model, symmetry = _symmetric(selection, config, schedule, data, particles, run)
    search = Search(data, schedule.candidates, run, Stage.MARCHING)
    plan = trial_plan(search, schedule) if particles.trials is not None else marching_plan(search, config, schedule)
    found = frequency_marching("frequency marching", search, level, SearchState(model, particles), plan)
    run.timer("frequency marching")
    poses = session.refined_poses(found, "poses", data)
    run.timer("poses")
    return Searched(selection, symmetry, found, poses)


def _symmetric(
    selection: Selection,
    config: AbInitioConfig,
    schedule: Schedule,
    data: ParticleModes,
    particles: ParticleState,
    run: RunState,
) -> tuple[ResolutionLevel, VolumeAndViews, SymmetryCheck | None]:
    """Level and model with the symmetry of the configuration, and what speaks for it; None without a symmetry."""
    level, model = selection.level, selection.model
    if level.basis.group.order == 1:
        return impose_symmetry(level, model, config.group, data, particles.centres)

    def judged() -> dict[str, object]:
        found = symmetry_evidence(level, model, data, particles.centres, schedule, run.generator)
        return {"score": found.score, "kept": found.kept}

    return level, model, SymmetryCheck(level.basis.group, **run.step("symmetry", judged))


def marching_plan(
    search: Search, config: AbInitioConfig, schedule: Schedule
) -> list[tuple[float, Callable[[ResolutionLevel, SearchState], SearchState]]]:
    """The steps of frequency marching, each with its bandwidth.

    A pass of online EM both searches poses and updates the volume. Another solver needs candidates that do not change
    while it works: each pass is then a pose search followed by the solver's own passes, and a last search finds the
    poses.

    Args:
        search: makes the steps.
        config: names the solver.
        schedule: the bandwidths, and the passes at each.

    Returns:
        Bandwidth (radius · k_max) and step, in order.
    """
    solver = config.solver
    if solver is None:
        return [(b, search.online_pass(schedule.batch)) for b in schedule.bandwidths for _ in range(schedule.passes)]
    plan: list[tuple[float, Callable[[ResolutionLevel, SearchState], SearchState]]] = []
    for bandwidth in schedule.bandwidths:
        for number in range(schedule.passes):
            name = f"solver at {bandwidth:g}, pass {number + 1}"
            plan.append((bandwidth, search.pose_search))
            plan.append((bandwidth, search.solved(solver, schedule.round_passes, config.seed, name)))
    return [*plan, (schedule.bandwidths[-1], search.pose_search)]


def trial_plan(
    search: Search, schedule: Schedule
) -> list[tuple[float, Callable[[ResolutionLevel, SearchState], SearchState]]]:
    """The steps of frequency marching where displacements are drawn, each with its bandwidth.

    EM converges slowly where most of what would make the likelihood complete is missing, so a level has as many passes
    as gain likelihood.

    Args:
        search: makes the steps.
        schedule: the bandwidths, and the most passes at each.

    Returns:
        Bandwidth (radius · k_max) and step, in order.
    """
    bandwidths = sorted({schedule.start_bandwidth, *schedule.bandwidths})
    return [(b, search.trial_pass(schedule.trial_batch)) for b in bandwidths for _ in range(schedule.trial_passes)]


def _total_work(count: int, config: AbInitioConfig, schedule: Schedule) -> float:
    """Of a run on so many particles, in the units of :attr:`Stage.cost`."""
    if config.independent_halves:
        alone = replace(config, independent_halves=False)
        return 2 * _total_work(count // 2, alone, schedule)
    pool = count - schedule.held_out_of(count)
    start, settle, select = (
        steps * min(batch, pool)
        for steps, batch in (
            (schedule.start_steps, schedule.start_batch),
            (schedule.settle_steps, schedule.settle_batch),
            (schedule.select_steps, schedule.select_batch),
        )
    )
    passes = float(len(schedule.bandwidths) * schedule.passes)
    if config.solver is not None:
        rounds = schedule.rounds * schedule.round_passes * pool
        start, settle, select = rounds, 0.0, rounds
        passes *= 1 + schedule.round_passes
    selected = math.ceil(config.starts / 2)
    starts = Stage.STARTS.cost * config.starts * (start + settle) + Stage.SELECTION.cost * selected * select
    ends = Stage.READING.cost + Stage.POSE_REFINEMENT.cost + Stage.RECONSTRUCTION.cost
    return starts + (Stage.MARCHING.cost * passes + ends) * count

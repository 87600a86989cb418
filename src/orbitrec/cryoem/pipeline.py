"""The ab initio search: stack → modes → centres → starts → frequency marching → poses → map."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from orbitrec.cryoem.ball import with_ball
from orbitrec.cryoem.beginning import Beginning, beginning, beginnings_of_halves, some_of
from orbitrec.cryoem.centring import Centring, centred
from orbitrec.cryoem.config import FEWEST_AVERAGES, AbInitioConfig, Schedule, fewest_images
from orbitrec.cryoem.halves import joined, placed
from orbitrec.cryoem.image_statistics import image_statistics
from orbitrec.cryoem.memory import require_memory, small_enough
from orbitrec.cryoem.outliers import with_outliers
from orbitrec.cryoem.pose_refinement import Poses
from orbitrec.cryoem.preprocess import preprocess
from orbitrec.cryoem.result import PosedMap, Session, half_sets
from orbitrec.cryoem.search.level import ResolutionLevel
from orbitrec.cryoem.search.multi_start import work_of_starts
from orbitrec.cryoem.search.multiresolution import Plan, PosedVolume, Search, SearchState, stepped
from orbitrec.cryoem.search.pose_search import ParticleState, with_trials
from orbitrec.errors import InputError
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Callback, RunState, Stage, ignore

GAIN = 0.05
"""Log-likelihood of one particle that finer shells must add. Poses that fit noise have gained up to 0.05."""


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
    if len(stack) < fewest_images(stack):
        raise InputError(
            f"{len(stack)} particles are too few for an initial model; give at least {fewest_images(stack)}"
            + (f", or {FEWEST_AVERAGES} class averages, which have no CTF" if stack.ctf is not None else "")
        )
    halves, statistics = half_sets(stack), image_statistics(stack)
    stack = statistics.applied(stack)
    shift_px = config.shift_px if config.shift_px is not None else 0.05 * stack.n
    if config.start_group.polyhedral and config.diameter_A is None:
        statistics = with_ball(stack, statistics, config, shift_px)
    config = config.with_diameter(statistics.diameter_A)
    radius, schedule = config.radius_px(stack), config.schedule_for(stack)
    generator = torch.Generator().manual_seed(config.seed)
    apart = config.searches_halves(len(stack), told=True)
    run = RunState(generator, total_work(len(stack), config, schedule, apart), callback, checkpoints or Checkpoints())

    copies = 1.5 if apart else 1.0  # a half-set that is searched alone is held beside all particles
    schedule = replace(schedule, finer=small_enough(stack, schedule.finer, radius, copies))
    finest = max(*schedule.bandwidths, *schedule.finer)
    k_max = finest / radius
    require_memory(stack, k_max, radius, copies)
    data = preprocess(stack, k_max, radius + 3, progress=run.counter(Stage.READING), device=config.device)
    data = with_outliers(data, radius)
    run.timer("read")
    centring = centred(data, radius, finest, shift_px, run)
    run.timer("centre")
    session = Session(stack, data, statistics, config, run)
    particles = ParticleState(centring.centres, max(centring.residual_px, 0.4 / k_max))
    told = centring.tells(schedule.start_bandwidth / radius)
    apart = config.searches_halves(len(stack), told)
    if config.solver is None and not told:
        # The fitted centres are what the images' noise says: given as prior, it would be believed twice.
        particles = with_trials(ParticleState(torch.zeros_like(centring.centres), centring.prior_px), generator)
        run.total = total_work(len(stack), config, schedule, apart, drawn=True)
    found = _in_halves if apart else _together
    return _told(centring, particles, found(session, config, schedule, particles, halves))


def _together(
    session: Session, config: AbInitioConfig, schedule: Schedule, particles: ParticleState, halves: Int[Tensor, "N"]
) -> PosedMap:
    """The result of one search on all particles."""
    rows = torch.arange(len(session.data))
    begun = beginning(session, config, schedule, rows, particles)
    (found,) = marched(session, config, schedule, {"": (rows, begun)})
    return session.result(found.poses, found.volume.level, halves, begun.selection, begun.symmetry)


def _in_halves(
    session: Session, config: AbInitioConfig, schedule: Schedule, particles: ParticleState, halves: Int[Tensor, "N"]
) -> PosedMap:
    """The result of a search on each half-set."""
    parts = [(halves == half).nonzero().flatten() for half in (1, 2)]
    begun = beginnings_of_halves(session, config, schedule, parts, particles)
    sets = {f"half {i + 1}": (parts[i], begun.of_halves[i]) for i in (0, 1)}
    first, second = marched(session, config, schedule, sets)
    moved = placed(second.poses, second.volume, first.volume, apart=begun.apart)
    chosen, together = begun.of_halves[0], joined(halves, (first.poses, moved.poses))
    result = session.result(
        together, first.volume.level, halves, chosen.selection, chosen.symmetry, agreement=moved.agreement
    )
    return replace(result, checks=[*result.checks, *begun.checks])


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
class Marched:
    """Where frequency marching of some of the particles ended.

    Attributes:
        volume: at the finest bandwidth, with the poses of the search.
        poses: refined.
    """

    volume: PosedVolume
    poses: Poses


def marched(
    session: Session,
    config: AbInitioConfig,
    schedule: Schedule,
    sets: Mapping[str, tuple[Int[Tensor, "n"], Beginning]],
) -> list[Marched]:
    """Frequency marching of sets of particles to one resolution, and their refined poses.

    Beyond the schedule's bandwidths it goes on for as long as finer shells add :data:`GAIN` to the likelihood of
    particles that have no part in them (:meth:`Search.finer_pass`).

    Args:
        session: the run.
        config: of the search.
        schedule: its sizes.
        sets: names of the sets; indices (n,) of the particles of each, and what it begins with.

    Returns:
        Volume and poses of each set.
    """
    run = session.run
    searches = {
        name: Search(some_of(session, rows), schedule.candidates, run, Stage.MARCHING)
        for name, (rows, _) in sets.items()
    }

    def climbed(record: str, plan: Callable[[Search], Plan], states: States) -> States:
        ended = {}
        for name, (level, state) in states.items():
            with run.working_on(name):
                ended[name] = stepped(record, searches[name], level, state, plan(searches[name]))
        return ended

    begun = {name: (begun.level, begun.state) for name, (_, begun) in sets.items()}
    found = climbed("frequency marching", lambda search: marching_plan(search, config, schedule), begun)
    reached = schedule.bandwidths[-1]
    for number, bandwidth in enumerate(schedule.finer if config.solver is None else (), start=1):
        finer = climbed(f"finer {number}", _finer_plan(schedule, bandwidth, reached), found)
        if _gain(finer) < GAIN:
            run.total -= Stage.MARCHING.cost * (len(schedule.finer) - number) * len(session.data)
            break
        reached, found = bandwidth, finer
    run.timer("frequency marching")
    ended = []
    for name, (level, state) in found.items():
        with run.working_on(name):
            volume = PosedVolume.of(level, state)
            ended.append(Marched(volume, session.refined_poses(volume, "poses", searches[name].data)))
    run.timer("poses")
    return ended


States = Mapping[str, tuple[ResolutionLevel, SearchState]]
"""Where sets of particles are in frequency marching."""


def _gain(states: States) -> float:
    """Log-likelihood of one particle that the last bandwidth added, the mean over all sets."""
    counts = [len(state.particles.centres) for _, state in states.values()]
    return sum(n * state.gain for n, (_, state) in zip(counts, states.values(), strict=True)) / sum(counts)


def _finer_plan(schedule: Schedule, bandwidth: float, before: float) -> Callable[[Search], Plan]:
    """One pass at a bandwidth beyond ``before``, which may be the last."""
    return lambda search: [(bandwidth, replace(search, counted=True).finer_pass(schedule.batch, before))]


def marching_plan(search: Search, config: AbInitioConfig, schedule: Schedule) -> Plan:
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
        plan = [(b, search.online_pass(schedule.batch)) for b in schedule.bandwidths for _ in range(schedule.passes)]
        return [*plan[:-1], (schedule.bandwidths[-1], replace(search, counted=True).online_pass(schedule.batch))]
    plan = []
    for bandwidth in schedule.bandwidths:
        for number in range(schedule.passes):
            name = f"solver at {bandwidth:g}, pass {number + 1}"
            plan.append((bandwidth, search.pose_search))
            plan.append((bandwidth, search.solved(solver, schedule.round_passes, config.seed, name)))
    return [*plan, (schedule.bandwidths[-1], replace(search, counted=True).pose_search)]


def total_work(count: int, config: AbInitioConfig, schedule: Schedule, apart: bool, drawn: bool = False) -> float:
    """Of a run on so many particles, in the units of :attr:`Stage.cost`.

    Args:
        count: of the particles.
        config: of the run.
        schedule: its sizes.
        apart: whether each half-set is searched by itself.
        drawn: whether displacements are drawn.

    Returns:
        Cost of an image times images, summed over stages.
    """
    ends = Stage.READING.cost + Stage.POSE_REFINEMENT.cost + Stage.RECONSTRUCTION.cost
    passes = float(len(schedule.bandwidths) * schedule.passes)
    passes = passes + len(schedule.finer) if config.solver is None else passes * (1 + schedule.round_passes)
    sets = 2 if apart and not drawn else 1
    starts = sets * work_of_starts(config.starts, count // sets, config, schedule, drawn)
    return starts + (Stage.MARCHING.cost * passes + ends) * count

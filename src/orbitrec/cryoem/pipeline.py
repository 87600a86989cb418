"""The ab initio search: stack → modes → centres → starts → frequency marching → poses → map."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from orbitrec.cryoem.ball import with_ball
from orbitrec.cryoem.beginning import Beginning, BeginningsOfHalves, beginning, beginnings_of_halves, some_of
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

FIT_TO_NOISE, LEAST_SHARE = 0.05, 0.005
"""What finer shells must add to the log-likelihood of one particle: more than poses gain by fitting noise, and this
share of it. Where they added a hundredth of it maps were better, and no better where they added a two-thousandth."""

At = tuple[ResolutionLevel, SearchState]
"""Where frequency marching is."""
Sets = dict[str, tuple[Int[Tensor, "n"], At]]
"""Names of sets of particles; the indices of the particles of each, and where it is."""


@dataclass(frozen=True)
class Marched:
    """Where frequency marching of some of the particles ended.

    Attributes:
        volume: at the finest bandwidth, with the poses of the search.
        poses: refined.
    """

    volume: PosedVolume
    poses: Poses


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
    copies = 1.5 if apart else 1.0  # a half-set that is searched alone is held beside all particles
    schedule = replace(schedule, finer=small_enough(stack, schedule.finer, radius, copies))
    run = RunState(generator, total_work(len(stack), config, schedule, apart), callback, checkpoints or Checkpoints())

    finest = max((*schedule.bandwidths, *schedule.finer))
    k_max = finest / radius
    require_memory(stack, k_max, radius, copies=copies)
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
    halved = _in_halves if particles.trials is None else _parted
    found = (halved if apart else _together)(session, config, schedule, particles, halves)
    return _told(centring, particles, found)


def _together(
    session: Session, config: AbInitioConfig, schedule: Schedule, particles: ParticleState, halves: Int[Tensor, "N"]
) -> PosedMap:
    """The result of one search on all particles."""
    rows = torch.arange(len(session.data))
    begun = beginning(session, config, schedule, rows, particles)
    drawn = particles.trials is not None
    at = _climbed_anew(session, schedule, begun) if drawn else _climbed(session, config, schedule, rows, begun)
    (found,) = _finished(session, config, schedule, {"": (rows, at)})
    return session.result(found.poses, found.volume.level, halves, begun.selection, begun.symmetry)


def _in_halves(
    session: Session, config: AbInitioConfig, schedule: Schedule, particles: ParticleState, halves: Int[Tensor, "N"]
) -> PosedMap:
    """The result of a search on each half-set."""
    parts = {half: (halves == half).nonzero().flatten() for half in (1, 2)}
    begun = beginnings_of_halves(session, config, schedule, [parts[1], parts[2]], particles)
    sets: Sets = {}
    for half, rows in parts.items():
        with session.run.working_on(f"half {half}"):
            at = _climbed(session, config, schedule, rows, begun.of_halves[half - 1])
            sets[f"half {half}"] = rows, at
    return _of_halves(session, _finished(session, config, schedule, sets), halves, begun)


def _parted(
    session: Session, config: AbInitioConfig, schedule: Schedule, particles: ParticleState, halves: Int[Tensor, "N"]
) -> PosedMap:
    """The result of one search on all particles as far as the schedule goes, and of each half-set beyond.

    That is for images that tell little: from half of them the search might not find what it does from all. Half-sets
    part as after a low-pass filtered reference (Scheres and Chen, Nat. Methods 9, 2012).
    """
    begun = beginning(session, config, schedule, torch.arange(len(session.data)), particles)
    level, state = _climbed_anew(session, schedule, begun)
    sets: Sets = {}
    for half in (1, 2):
        own = (halves == half).nonzero().flatten()
        sets[f"half {half}"] = own, (level, state.of(own))
    sentence = (
        "The images tell too little for half of them to be searched alone: the half-sets have one model, to "
        f"{session.data.resolution_A(level.basis.k_max):.0f} Å, and what they agree in up to there is no witness."
    )
    shared = BeginningsOfHalves((begun, begun), apart=False, checks=[sentence])
    return _of_halves(session, _finished(session, config, schedule, sets), halves, shared)


def _of_halves(session: Session, found: list[Marched], halves: Int[Tensor, "N"], begun: BeginningsOfHalves) -> PosedMap:
    """The result of two half-sets, in the frame of the first."""
    first, second = found
    moved = placed(second.poses, second.volume, first.volume, apart=begun.apart)
    chosen, together = begun.of_halves[0], joined(halves, (first.poses, moved.poses))
    result = session.result(
        together, first.volume.level, halves, chosen.selection, chosen.symmetry, agreement=moved.agreement
    )
    return result.noted(*begun.checks)


def _told(centring: Centring, particles: ParticleState, found: PosedMap) -> PosedMap:
    """The result, with a sentence if displacements had to be drawn."""
    if particles.trials is None:
        return found
    sentence = (
        f"The images show where their content lies to {centring.residual_px:.1f} pixels only, so displacements were "
        "unknowns of the search, which took several times as long; more or cleaner particles help."
    )
    return found.noted(sentence)


def _climbed(
    session: Session, config: AbInitioConfig, schedule: Schedule, rows: Int[Tensor, "n"], begun: Beginning
) -> At:
    """Where some of the particles are after the schedule's bandwidths."""
    search = _search(session, schedule, rows)
    plan = marching_plan(search, config, schedule)
    found = stepped("frequency marching", search, begun.level, begun.state, plan)
    session.run.timer("frequency marching")
    return found


def _climbed_anew(session: Session, schedule: Schedule, begun: Beginning) -> At:
    """The same of all particles, where images do not tell their displacements: one pass at each bandwidth, from anew.

    Poses that the first model mistook are not mended from near them. A better one is compared with all of them again.
    """
    search, spread_px = _search(session, schedule, torch.arange(len(session.data))), begun.state.particles.residual_px
    level, state = begun.level, begun.state
    for number in range(1, schedule.passes + 1):
        if number > 1:
            state = state.reopened(level, begun.level, spread_px)
        plan = [(bandwidth, search.online_pass(schedule.batch)) for bandwidth in schedule.bandwidths[:-1]]
        last = replace(search, counted=number == schedule.passes)
        plan.append((schedule.bandwidths[-1], last.online_pass(schedule.batch)))
        level, state = stepped(f"frequency marching {number}", search, begun.level, state, plan)
    session.run.timer("frequency marching")
    return level, state


def _search(session: Session, schedule: Schedule, rows: Int[Tensor, "n"]) -> Search:
    """What makes passes over some of the particles."""
    return Search(some_of(session, rows), schedule.candidates, session.run, Stage.MARCHING)


def _finished(session: Session, config: AbInitioConfig, schedule: Schedule, sets: Sets) -> list[Marched]:
    """Frequency marching of sets of particles beyond the schedule's bandwidths, and their refined poses.

    All sets go on for as long as finer shells add enough to the likelihood of particles that have no part in them
    (:meth:`Search.finer_pass`, :data:`LEAST_SHARE`).
    """
    run, reached = session.run, schedule.bandwidths[-1]
    searches = {name: _search(session, schedule, rows) for name, (rows, _) in sets.items()}
    for number, bandwidth in enumerate(schedule.finer if config.solver is None else (), start=1):
        finer: Sets = {}
        for name, (rows, at) in sets.items():
            step = replace(searches[name], counted=True).finer_pass(schedule.batch, reached)
            with run.working_on(name):
                finer[name] = rows, stepped(f"finer {number}", searches[name], *at, [(bandwidth, step)])
        if not _gained(finer):
            run.total -= Stage.MARCHING.cost * (len(schedule.finer) - number) * len(session.data)
            break
        reached, sets = bandwidth, finer
    run.timer("frequency marching")
    found = []
    for name, (_, at) in sets.items():
        with run.working_on(name):
            volume = PosedVolume.of(*at)
            found.append(Marched(volume, session.refined_poses(volume, "poses", searches[name].data)))
    run.timer("poses")
    return found


def _gained(sets: Sets) -> bool:
    """Whether the last bandwidth's shells added enough to the likelihood of the particles of all sets."""
    total = sum(len(rows) for rows, _ in sets.values())
    gain = sum(len(rows) * state.gain for rows, (_, state) in sets.values()) / total
    likelihood = sum(len(rows) * state.log_likelihood for rows, (_, state) in sets.values()) / total
    return gain > max(FIT_TO_NOISE, LEAST_SHARE * likelihood)


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

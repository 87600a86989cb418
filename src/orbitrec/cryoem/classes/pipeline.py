"""The classification: stack → modes → centres → random averages → frequency marching → averages → which to keep."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.cryoem.centring import Centring, centred
from orbitrec.cryoem.classes.averages import MeasuredClasses, measured_classes
from orbitrec.cryoem.classes.config import ClassesConfig, ClassSchedule
from orbitrec.cryoem.classes.level import ClassLevel
from orbitrec.cryoem.classes.membership import Membership
from orbitrec.cryoem.classes.ranking import Ranking, ranked
from orbitrec.cryoem.classes.search import ClassSearch, ClassState, in_centre, random_averages
from orbitrec.cryoem.image_statistics import CLEAR, ImageStatistics, image_statistics
from orbitrec.cryoem.memory import require_memory
from orbitrec.cryoem.outliers import with_outliers
from orbitrec.cryoem.preprocess import ParticleModes, preprocess
from orbitrec.cryoem.reconstruct import alternate_halves
from orbitrec.io.particles import ParticleStack
from orbitrec.optim.multiresolution import MultiResolution
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Callback, HistoryRow, RunState, Stage, ignore

Step = Callable[[ClassLevel, ClassState], ClassState]


@dataclass(frozen=True, eq=False)
class Classification:
    """What :func:`classified` finds.

    Attributes:
        measured: the classes, by falling size.
        ranking: which of them show the molecule.
        image_statistics: of the images, before the run.
        radius_px: of the averages' disc, in pixels.
        resolution_A: finest of the averages, in Å.
        history: every step.
        seconds: of each part of the run.
    """

    measured: MeasuredClasses
    ranking: Ranking
    image_statistics: ImageStatistics
    radius_px: float
    resolution_A: float
    history: list[HistoryRow]
    seconds: dict[str, float]

    @property
    def images(self) -> Float[Tensor, "d n n"]:
        """The averages (y, x), dense bright where the images show the contrast, and as in the images otherwise."""
        dark = self.image_statistics.contrast < -CLEAR
        return -self.measured.images if dark else self.measured.images

    @property
    def classes(self) -> Int[Tensor, "N"]:
        """Class of every particle, counted from 0."""
        return self.measured.found.most_probable

    @property
    def probability(self) -> Float[Tensor, "N"]:
        """Posterior probability that a particle belongs to its class, and shows what the class shows."""
        return self.measured.found.classes.max(1).values * self.measured.found.inlier

    @property
    def kept(self) -> Bool[Tensor, "N"]:
        """Which particles are probably a view of the molecule: members of good classes."""
        return self.ranking.good[self.classes] & self.measured.found.likely


def classified(
    stack: ParticleStack,
    config: ClassesConfig,
    callback: Callback = ignore,
    checkpoints: Checkpoints | None = None,
) -> Classification:
    """Sort the particles of a stack into two-dimensional classes.

    Args:
        stack: the particles, with their CTF if they have one.
        config: of the classification; the same seed gives the same result on one machine.
        callback: called with the status of the run whenever work has been done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Returns:
        The classes.

    Raises:
        InputError: for too few particles, bad images, or a configuration that does not fit the stack.
    """
    config.check_count(stack)
    statistics = image_statistics(stack)
    stack = statistics.applied(stack)
    if config.diameter_A is None:
        config = replace(config, diameter_A=statistics.diameter_A)
    radius, schedule = config.radius_px(stack), config.schedule_for(stack)
    generator = torch.Generator().manual_seed(config.seed)
    run = RunState(generator, _total_work(len(stack), config.classes, schedule), callback, checkpoints or Checkpoints())
    finest = max(schedule.bandwidths)
    require_memory(stack, finest / radius, radius)
    data = preprocess(stack, finest / radius, radius + 3, progress=run.counter(Stage.READING))
    data = with_outliers(data, radius)
    run.timer("read")
    shift_px = config.shift_px if config.shift_px is not None else 0.05 * stack.n
    centring = centred(data, radius, finest, shift_px, run)
    run.timer("centre")
    known = first_membership(centring, schedule.bandwidths[0] / radius)
    level, state = searched(data, radius, config.classes, schedule, known, run)
    run.timer("classes")
    halves = alternate_halves(int(stack.image_numbers().max()) + 1)[stack.image_numbers()]
    measured = measured_classes(data, level, state.averages, state.known, halves, stack.n).sorted()
    run.advance(Stage.MARCHING, len(data))
    run.timer("averages")
    resolution_A = data.resolution_A(level.basis.k_max)
    ranking = ranked(measured, stack.pixel_size_A, radius)
    return Classification(measured, ranking, statistics, radius, resolution_A, run.history, run.timers)


def first_membership(centring: Centring, k_max: float) -> Membership:
    """What is known of particles before the first pass.

    Args:
        centring: of the images.
        k_max: highest frequency of the first level, in radians per pixel.

    Returns:
        Particles at the centres that were found, or at those of their images where these do not tell.
    """
    if centring.tells(k_max):
        return Membership(centring.centres, max(centring.residual_px, 0.4 / k_max))
    return Membership(torch.zeros_like(centring.centres), centring.prior_px)


def searched(
    data: ParticleModes, radius: float, classes: int, schedule: ClassSchedule, known: Membership, run: RunState
) -> tuple[ClassLevel, ClassState]:
    """Averages by frequency marching, with a random part of the particles at first where there are many.

    Args:
        data: the particles.
        radius: of the averages' disc, in pixels.
        classes: how many.
        schedule: bandwidths and passes.
        known: where the particles are centred.
        run: random numbers, records and history.

    Returns:
        The finest level and the state at its end, of all particles.
    """
    *coarse, (last, last_passes) = zip(schedule.bandwidths, schedule.passes, strict=True)

    def level(bandwidth: float) -> ClassLevel:
        return ClassLevel.at(data.grid, radius, bandwidth, classes)

    def marched(
        name: str, part: ParticleModes, state: ClassState, plan: list[float], narrowed: bool
    ) -> tuple[ClassLevel, ClassState]:
        step = ClassSearch(part, run).online_pass(schedule.batch, narrowed)
        return MultiResolution(name, [(bandwidth, step) for bandwidth in plan], level, prolongated).run(state, run)

    order = torch.randperm(len(data), generator=run.generator)
    rows = order[: schedule.pool * classes].sort().values
    pool = data if len(rows) == len(data) else data.subset(rows)
    own = Membership(known.centres[rows], known.residual_px)
    begin = level(schedule.bandwidths[0])
    start = random_averages(pool, begin, own.centres, schedule.start_members, run.generator)
    plan = [bandwidth for bandwidth, passes in coarse for _ in range(passes)] or [last]
    at, state = marched("classes of a part", pool, ClassState(start, own), plan, narrowed=False)
    finest = level(last)
    state = prolongated(at, finest, state)
    if len(rows) < len(data):
        state = ClassState(state.averages, known)
    if last_passes == 0:
        return finest, state
    # Those that no pass has seen yet are compared with all classes in the first.
    return marched("classes", data, state, [last] * last_passes, narrowed=True)


def prolongated(level: ClassLevel, finer: ClassLevel, state: ClassState) -> ClassState:
    """The state at a finer level, every average's density brought to the centre.

    Args:
        level: of the state.
        finer: the level that is next.
        state: at ``level``.

    Returns:
        The state at ``finer``.
    """
    centred = in_centre(level, state)
    return ClassState(level.prolongated(centred.averages, finer), centred.known)


def _total_work(count: int, classes: int, schedule: ClassSchedule) -> float:
    """Of a run on so many particles, in the units of :attr:`Stage.cost`."""
    part = min(count, schedule.pool * classes)
    passes = part * sum(schedule.passes[:-1]) + count * (schedule.passes[-1] + 1)
    return Stage.READING.cost * count + Stage.MARCHING.cost * passes

"""Several structures in one stack: parting → a run of each class's particles → all particles compared with all maps.

The structures are different particles, or junk: each class has a search of its own, with its own ball, from random
volumes and moments of its own particles. Conformations of one complex, which at low resolution are one structure, are
not told apart.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.centring import centred
from orbitrec.cryoem.config import SIZE, AbInitioConfig, fewest_images
from orbitrec.cryoem.image_statistics import image_statistics
from orbitrec.cryoem.memory import require_memory
from orbitrec.cryoem.outliers import with_outliers
from orbitrec.cryoem.pipeline import initial_model
from orbitrec.cryoem.preprocess import preprocess
from orbitrec.cryoem.result import PosedMap, half_sets
from orbitrec.cryoem.search.pose_search import ParticleState
from orbitrec.cryoem.species.comparison import Comparison, class_posterior
from orbitrec.cryoem.species.parting import Parted, parted, work_of_parting
from orbitrec.cryoem.species.rebuilding import Change, rebuilt
from orbitrec.cryoem.species.sameness import same_maps
from orbitrec.errors import InputError
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Callback, RunState, Stage, Status, ignore

PARTING_SHARE, COMPARISON_SHARE = 0.2, 0.15
"""Of a run's work, for the progress bar: of the stages before and after the runs of the classes."""
RESIDUAL = 1.0
"""Standard deviation of what is left of displacements once a class's run has found them, times the highest frequency:
a particle of another class is displaced by what the maps' centres differ in."""


@dataclass(frozen=True, eq=False)
class OfClass:
    """One structure.

    Attributes:
        rows: (n,) its particles, counted from 0, in increasing order.
        stack: these alone.
        found: map and poses of its particles.
        moved: particles that the last comparison gave to it.
    """

    rows: Int[Tensor, "n"]
    stack: ParticleStack
    found: PosedMap
    moved: int


@dataclass(frozen=True, eq=False)
class Separated:
    """Several structures, by falling number of particles.

    Attributes:
        classes: of which there may be fewer than asked for.
        posterior: (N, K) probability that each particle is of each class, given that it is of one.
        log_likelihood: (N, K) of each image as a view of each class's map, over that of noise alone.
        parted: what the first stage found.
        checks: what may be wrong with the classes as such, one sentence each.
        seconds: of each part of the run.
    """

    classes: tuple[OfClass, ...]
    posterior: Float[Tensor, "N c"]
    log_likelihood: Float[Tensor, "N c"]
    parted: Parted
    checks: list[str]
    seconds: dict[str, float]

    @property
    def members(self) -> Int[Tensor, "N"]:
        """Class of every particle, counted from 0."""
        members = torch.zeros(len(self.posterior), dtype=torch.long)
        for number, each in enumerate(self.classes):
            members[each.rows] = number
        return members


def separated(
    stack: ParticleStack,
    config: AbInitioConfig,
    classes: int,
    callback: Callback = ignore,
    checkpoints: Checkpoints | None = None,
) -> Separated:
    """A map of each of several structures, and which particle is of which, from a stack alone.

    Args:
        stack: the particles, with their CTF if they have one.
        config: of the search of each class; the same seed gives the same result on one machine.
        classes: how many structures, two or more.
        callback: called with the status of the run whenever work has been done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Returns:
        The classes; fewer where too few particles were left to one of them.

    Raises:
        InputError: for too few particles, bad images, or a configuration that does not fit the stack.
    """
    SIZE.check("classes", classes)
    fewest = fewest_images(stack)
    if len(stack) < classes * fewest:
        raise InputError(
            f"{len(stack)} particles are too few for {classes} structures, of which each needs {fewest}; ask for fewer "
            "`classes`"
        )
    half_sets(stack)  # what is wrong with them is said before hours of work
    kept = checkpoints or Checkpoints()
    run = RunState(torch.Generator().manual_seed(config.seed), 1.0, _part_of(callback, 0.0, PARTING_SHARE), kept)
    first = _parted(stack, config, classes, run)
    begun = large_enough(first.posterior, stack.image_numbers(), fewest)
    found = []
    for number, own in enumerate(begun, start=1):
        width = (1 - PARTING_SHARE - COMPARISON_SHARE) / len(begun)
        shown = _part_of(callback, PARTING_SHARE + (number - 1) * width, width, f"class {number}")
        try:
            found.append(initial_model(stack.subset(own), config, shown, kept.of(f"class {number}")))
        except InputError as error:
            raise InputError(f"class {number} of {len(own)} particles: {error}") from error
    run.timer("classes")
    run.callback, run.total = _part_of(callback, 1 - COMPARISON_SHARE, COMPARISON_SHARE), _work(len(stack), len(begun))
    members = _compared(stack, config, begun, found, run)
    run.timer("comparison")
    return _in_order(members, first, classes, run, stack)


def _part_of(callback: Callback, start: float, width: float, name: str = "") -> Callback:
    """A callback of a part of the run's work, which is a run by itself."""

    def shown(status: Status) -> None:
        part = f"{name}, {status.part}" if name and status.part else name or status.part
        callback(Status(status.stage, part, start + width * status.share))

    return shown


def _work(count: int, classes: int) -> float:
    """Of the last comparison, in the units of :attr:`Stage.cost`."""
    each = Stage.READING.cost + 2 * Stage.POSE_SEARCH.cost + Stage.RECONSTRUCTION.cost / classes
    return classes * count * each


def _parted(stack: ParticleStack, config: AbInitioConfig, classes: int, run: RunState) -> Parted:
    """The first stage, in a ball that holds all of the structures."""
    statistics = image_statistics(stack)
    stack, config = statistics.applied(stack), config.with_diameter(statistics.diameter_A)
    radius, schedule = config.radius_px(stack), config.schedule_for(stack)
    require_memory(stack, max(schedule.bandwidths) / radius, radius, classes=classes)
    finest = schedule.select_bandwidth
    run.total = work_of_parting(len(stack), classes, schedule)
    data = preprocess(stack, finest / radius, radius + 3, progress=run.counter(Stage.READING), device=config.device)
    data = with_outliers(data, radius)
    shift_px = config.shift_px if config.shift_px is not None else 0.05 * stack.n
    centring = centred(data, radius, finest, shift_px, run)
    particles = ParticleState(centring.centres, max(centring.residual_px, 0.4 * radius / finest))
    found = parted(data, radius, particles, classes, schedule, run)
    run.timer("parting")
    return found


def large_enough(posterior: Float[Tensor, "N c"], images: Int[Tensor, "N"], fewest: int) -> list[Int[Tensor, "_"]]:
    """Rows of each class, the largest first; the particles of a class that has too few go to their next likely one.

    Args:
        posterior: (N, c) of the classes.
        images: (N,) number of each row's image, which copies share.
        fewest: images that a class needs.

    Returns:
        The rows of the classes that are left, at least one.
    """
    left = list(range(posterior.shape[1]))
    while True:
        most = posterior[:, left].argmax(1)
        rows = [(most == place).nonzero().flatten() for place in range(len(left))]
        counts = [len(images[own].unique()) for own in rows]
        smallest = min(range(len(left)), key=lambda place: counts[place])
        if counts[smallest] >= fewest or len(left) == 1:
            return sorted(rows, key=len, reverse=True)
        del left[smallest]


def _compared(
    stack: ParticleStack,
    config: AbInitioConfig,
    begun: list[Int[Tensor, "_"]],
    found: list[PosedMap],
    run: RunState,
) -> "list[Member]":
    """All particles compared with all maps; maps of classes that lost or won some are made anew."""
    shifts = torch.zeros(len(stack), 2, dtype=torch.float64)
    for own, each in zip(begun, found, strict=True):
        shifts[own] = each.shifts_px
    compared = []
    for number, each in enumerate(found, start=1):
        comparison = Comparison.of(stack, each, config)
        particles = ParticleState(shifts, RESIDUAL / float(comparison.coarse.grid.nodes[-1]))
        with run.working_on(f"class {number}"):
            compared.append(comparison.made(particles, config.schedule.candidates, run))
    counts = torch.tensor([len(own) for own in begun]).double()
    posterior = class_posterior(compared, counts / counts.sum())
    most, images, fewest = posterior.argmax(1), stack.image_numbers(), fewest_images(stack)
    rows = [(most == number).nonzero().flatten() for number in range(len(begun))]
    if min(len(images[own].unique()) for own in rows) < fewest:  # one of the maps is of no particles: all stay
        rows = begun
    members = []
    for number, own in enumerate(rows):
        change = Change(begun[number], own, compared[number])
        with run.working_on(f"class {number + 1}"):
            renewed = rebuilt(stack, config, found[number], change, run)
        members.append(Member(own, renewed, change.moved, posterior[:, number], compared[number].log_likelihood))
    return members


@dataclass(frozen=True, eq=False)
class Member:
    """A class of a comparison: rows, map, particles moved; its posterior and likelihood, (N,)."""

    rows: Int[Tensor, "n"]
    found: PosedMap
    moved: int
    posterior: Float[Tensor, "N"]
    log_likelihood: Float[Tensor, "N"]


def _in_order(members: list[Member], first: Parted, asked: int, run: RunState, stack: ParticleStack) -> Separated:
    """The classes by falling number of particles, and what is to be said of them."""
    members = sorted(members, key=lambda each: len(each.rows), reverse=True)
    classes = tuple(OfClass(each.rows, stack.subset(each.rows), each.found, each.moved) for each in members)
    checks = []
    if len(members) < asked:
        checks.append(
            f"{len(members)} of {asked} classes are left: the others had too few particles for a map, which are now of "
            "the class that is next likely."
        )
    checks += same_maps([each.found for each in members], stack.pixel_size_A)
    run.timer("checks")
    posterior, likelihood = (
        torch.stack([getattr(each, name) for each in members], dim=1) for name in ("posterior", "log_likelihood")
    )
    return Separated(classes, posterior, likelihood, first, checks, run.timers)

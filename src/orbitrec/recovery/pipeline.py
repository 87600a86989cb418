"""The main job: stack → modes → centres → starts → march → poses → map."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.checkpoints import Checkpoints
from orbitrec.io.particles import ParticleStack
from orbitrec.models.noise import Noise
from orbitrec.recovery.abinitio import AbInitio, Report, Schedule, Selected, best_start, march
from orbitrec.recovery.centring import Centring, centre_marching
from orbitrec.recovery.journal import POSE, READ, REBUILD, SELECT, START, SWEEP, Journal, Stage
from orbitrec.recovery.poses import Poses, refine_poses
from orbitrec.recovery.preparation import ParticleModes, prepare
from orbitrec.recovery.reconstruction import Reconstruction, alternate_halves, combined, half_map
from orbitrec.recovery.search import Model, SearchLevel
from orbitrec.recovery.starts import moment_starts
from orbitrec.recovery.survey import DIAMETER_SHARE, Survey, survey
from orbitrec.recovery.sweep import ParticleState

FEWEST_PARTICLES = 100
NYQUIST_SHARE = 0.9
CENTRING_BANDWIDTHS = (6.0, 9.0, 12.0)
"""Images are centred at these in turn, none above the finest of the march."""


@dataclass(frozen=True)
class Options:
    """What a person may set; ``None`` is chosen from the data.

    ``diameter_A``: of a ball that holds the particle; ``resolution_A``: finest resolution of the search over poses (the
    final map goes to Nyquist); ``shift_px``: first guess of the shifts' standard deviation per axis.
    """

    diameter_A: float | None = None
    resolution_A: float | None = None
    shift_px: float | None = None
    seed: int = 1
    schedule: Schedule = field(default_factory=Schedule)
    dense_is_dark: bool | None = None
    """In the images; where None, the sign that makes the map look like a particle."""

    def completed(self, found: Survey) -> "Options":
        """With the diameter that was found where none is given."""
        return self if self.diameter_A is not None else replace(self, diameter_A=found.diameter_A)

    def radius_px(self, stack: ParticleStack) -> float:
        """Radius of the particle's ball in pixels.

        Raises:
            InputError: if the diameter does not fit the box.
        """
        if self.diameter_A is None:
            return DIAMETER_SHARE * stack.n / 2
        radius = self.diameter_A / stack.pixel_size_A / 2
        if not 2 <= radius <= 0.48 * stack.n:
            raise InputError(
                f"a diameter of {self.diameter_A:g} Å does not fit a box of {stack.n * stack.pixel_size_A:.0f} Å; "
                "choose one between 4 pixels and 0.96 of the box"
            )
        return radius

    def bandwidths(self, stack: ParticleStack) -> Schedule:
        """The schedule with its bandwidths cut at Nyquist and at ``resolution_A``.

        Raises:
            InputError: if that leaves too little to recover anything from.
        """
        radius = self.radius_px(stack)
        limit = NYQUIST_SHARE * math.pi * radius
        planned = self.schedule.march
        if self.resolution_A is not None:
            wanted = 2 * math.pi * radius * stack.pixel_size_A / self.resolution_A
            limit = min(limit, wanted)
            planned = (*(b for b in planned if b < 0.95 * limit), limit)
        if limit < 6:
            raise InputError(
                f"{stack.n} px of {stack.pixel_size_A:g} Å hold the particle to fewer than two resolved shells at this "
                "resolution; give a finer resolution, a larger diameter or a larger box"
            )
        cut = [b for b in planned if b < limit] + ([limit] if max(planned) >= limit else [])
        return replace(
            self.schedule,
            start_bandwidth=min(self.schedule.start_bandwidth, limit),
            select_bandwidth=min(self.schedule.select_bandwidth, limit),
            march=tuple(cut),
        )


@dataclass(frozen=True)
class InitialModel:
    """The result of the main job.

    ``reconstruction``: map and half-maps in the sign of the particle (dense is positive); ``inverted``: the images show
    dense as dark; ``rotations``: (N, 3, 3); ``shifts_px``: (N, 2) content displacement; ``search_resolution_A``: finest
    resolution used to find poses; ``start_scores``: held-out log-likelihood of each start, ``start_kinds``: where it is
    from, ``chosen_start``: which, counted from one, became the map; ``seconds``: of each stage; ``survey``: what the
    images looked like before.
    """

    reconstruction: Reconstruction
    inverted: bool
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    radius_px: float
    search_resolution_A: float
    shift_spread_px: float
    start_scores: list[float]
    start_kinds: list[str]
    chosen_start: int
    history: list[Stage]
    seconds: dict[str, float]
    survey: Survey


def _total_work(count: int, schedule: Schedule) -> float:
    pool = count - schedule.held_out_of(count)
    start, settle, select = (
        steps * min(batch, pool)
        for steps, batch in (
            (schedule.start_steps, schedule.start_batch),
            (schedule.settle_steps, schedule.settle_batch),
            (schedule.select_steps, schedule.select_batch),
        )
    )
    begun = schedule.matched + schedule.starts
    starts = START * begun * (start + settle) + SELECT * math.ceil(begun / 2) * select
    sweeps = SWEEP * len(schedule.march) * schedule.sweeps * count
    return starts + sweeps + (READ + POSE + REBUILD) * count


def initial_model(
    stack: ParticleStack,
    options: Options = Options(),
    listen: Callable[[str, float], None] = lambda stage, share: None,
    checkpoints: Checkpoints | None = None,
) -> InitialModel:
    """A 3-D map and the pose of every particle from a stack and nothing else.

    Args:
        stack: the particles, with their CTF if they have one.
        options: see :class:`Options`; the same seed gives the same result on one machine.
        listen: told the stage and the share of the work done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Raises:
        InputError: for too few particles, bad images, or options that do not fit the stack.
    """
    if len(stack) < FEWEST_PARTICLES:
        raise InputError(f"{len(stack)} particles are too few for an initial model; give at least {FEWEST_PARTICLES}")
    looked = survey(stack)
    stack, options = looked.applied(stack), options.completed(looked)
    radius, schedule = options.radius_px(stack), options.bandwidths(stack)
    generator = torch.Generator().manual_seed(options.seed)
    journal = Journal(generator, _total_work(len(stack), schedule), listen, checkpoints or Checkpoints())
    shift_px = options.shift_px if options.shift_px is not None else 0.05 * stack.n

    finest = max(schedule.march)
    k_max = finest / radius
    data = prepare(stack, k_max, radius + 3, progress=journal.reader("reading particles", READ))
    journal.lap("read")
    centring = centred(data, radius, finest, shift_px, journal)
    journal.lap("centre")

    report = _climb_writer(journal, data.pixel_size_A)
    selected = best_start(
        data, radius, centring.centres, schedule, journal, report,
        matched=lambda level: moment_starts(stack, level, schedule.matched, generator),
    )  # fmt: skip
    journal.lap("starts")
    particles = ParticleState(centring.centres, max(centring.residual_px, 0.4 / k_max))
    found = march(data, radius, selected.level, selected.model, particles, schedule, journal, report)
    journal.lap("march")
    poses = refined_poses(data, found, journal, "poses")
    journal.lap("poses")
    halves = half_sets(stack)
    rebuilt = rebuilt_map(stack, data.noise, poses, halves, radius, journal)
    return finished(stack, data, poses, halves, rebuilt, selected, journal, looked, options)


def centred(data: ParticleModes, radius: float, finest: float, shift_px: float, journal: Journal) -> Centring:
    """The particles' centres, found at rising bandwidths up to ``finest``."""
    at = sorted({min(bandwidth, finest) / radius for bandwidth in CENTRING_BANDWIDTHS})
    return Centring(**journal.step("centring", lambda: vars(centre_marching(data, at, prior_px=shift_px))))


def half_sets(stack: ParticleStack) -> Int[Tensor, "N"]:
    """Half-set of every particle, 1 or 2."""
    return alternate_halves(len(stack))


def refined_poses(data: ParticleModes, found: AbInitio, journal: Journal, name: str) -> Poses:
    """Poses climbed off the grid from those ``found``."""
    return Poses(**journal.step(name, lambda: vars(refine_poses(
        data, found.level.grid, found.level.volume(found.model), found.rotations, found.shifts_px,
        progress=journal.reader("refining poses", POSE),
    ))))  # fmt: skip


def rebuilt_map(
    stack: ParticleStack, noise: Noise, poses: Poses, halves: Int[Tensor, "N"], radius: float, journal: Journal
) -> Reconstruction:
    """The map from all frequencies."""
    maps = [
        journal.step(f"half map {half}", lambda half=half: {"map": half_map(
            stack, noise, (halves == half).nonzero().flatten(), poses.rotations, poses.shifts_px,
            progress=journal.reader("reconstructing", REBUILD),
        )})["map"]
        for half in (1, 2)
    ]  # fmt: skip
    journal.lap("map")
    return combined((maps[0], maps[1]), stack.n, radius)


def finished(
    stack: ParticleStack,
    data: ParticleModes,
    poses: Poses,
    halves: Int[Tensor, "N"],
    rebuilt: Reconstruction,
    selected: Selected,
    journal: Journal,
    looked: Survey,
    options: Options,
) -> InitialModel:
    """The result, in the sign of the particle."""
    skewness = float((rebuilt.volume - rebuilt.volume.mean()).pow(3).mean())
    inverted = skewness < 0 if options.dense_is_dark is None else options.dense_is_dark
    return InitialModel(
        reconstruction=rebuilt.negated() if inverted else rebuilt,
        inverted=inverted,
        rotations=poses.rotations,
        shifts_px=poses.shifts_px,
        radius_px=options.radius_px(stack),
        search_resolution_A=2 * math.pi * stack.pixel_size_A / float(data.grid.k_max),
        shift_spread_px=float((poses.shifts_px - poses.shifts_px.mean(0)).square().mean().sqrt()),
        start_scores=selected.scores,
        start_kinds=selected.kinds,
        chosen_start=selected.chosen + 1,
        history=journal.history,
        seconds=journal.laps,
        survey=looked,
    )


def _climb_writer(journal: Journal, pixel_size_A: float) -> Report:
    def report(stage: str, level: SearchLevel, model: Model, likelihood: float, images: int) -> None:
        resolution = 2 * math.pi * pixel_size_A / level.basis.k_max
        journal.climbed(stage, journal.steps_of(stage) + 1, resolution, likelihood)
        cost = {"start": START, "select": SELECT, "march": SWEEP}[stage.split()[0]]
        journal.advance(stage, cost * images)

    return report

"""The main job: stack → modes → centres → starts → march → poses → map."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.particles import ParticleStack
from orbitrec.recovery.abinitio import AbInitio, Report, Schedule, Selected, best_start, march
from orbitrec.recovery.centring import centre_marching
from orbitrec.recovery.poses import refine_poses
from orbitrec.recovery.preparation import ParticleModes, prepare
from orbitrec.recovery.reconstruction import Reconstruction, reconstruct
from orbitrec.recovery.search import Model, SearchLevel
from orbitrec.recovery.starts import moment_starts
from orbitrec.recovery.sweep import ParticleState

FEWEST_PARTICLES = 100
DIAMETER_SHARE = 0.625
"""Particle diameter over the box when none is given: boxes are commonly cut at one and a half diameters."""
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
class Stage:
    """One step of the history: where the climb was and how well it explained the particles it saw."""

    stage: str
    step: int
    resolution_A: float
    log_likelihood: float
    seconds: float


@dataclass(frozen=True)
class InitialModel:
    """The result of the main job.

    ``reconstruction``: map and half-maps in the sign of the particle (dense is positive); ``inverted``: the images show
    dense as dark; ``rotations``: (N, 3, 3); ``shifts_px``: (N, 2) content displacement; ``search_resolution_A``: finest
    resolution used to find poses; ``start_scores``: held-out log-likelihood of each start, ``start_kinds``: where it is
    from, ``chosen_start``: which, counted from one, became the map; ``seconds``: of each stage.
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


@dataclass
class Progress:
    """Tells a listener ``(stage, share of the whole work done)``; shares weigh stages by their usual cost."""

    listen: Callable[[str, float], None]
    total: float
    done: float = 0.0

    def advance(self, stage: str, work: float) -> None:
        """``work`` units of ``stage`` have been done."""
        self.done += work
        self.listen(stage, min(1.0, self.done / self.total))


# Work of one image in each stage, in milliseconds of one core at the usual sizes: for the progress bar only.
READ, START, SELECT, SWEEP, POSE, REBUILD = 0.3, 0.17, 0.4, 2.0, 3.0, 1.0


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
    stack: ParticleStack, options: Options = Options(), listen: Callable[[str, float], None] = lambda stage, share: None
) -> InitialModel:
    """A 3-D map and the pose of every particle from a stack and nothing else.

    Args:
        stack: the particles, with their CTF if they have one.
        options: see :class:`Options`; the same seed gives the same result on one machine.
        listen: told the stage and the share of the work done.

    Raises:
        InputError: for too few particles, bad images, or options that do not fit the stack.
    """
    if len(stack) < FEWEST_PARTICLES:
        raise InputError(f"{len(stack)} particles are too few for an initial model; give at least {FEWEST_PARTICLES}")
    radius, schedule = options.radius_px(stack), options.bandwidths(stack)
    generator = torch.Generator().manual_seed(options.seed)
    progress = Progress(listen, _total_work(len(stack), schedule))
    clock = Clock()
    shift_px = options.shift_px if options.shift_px is not None else 0.05 * stack.n

    finest = max(schedule.march)
    k_max = finest / radius
    data = prepare(stack, k_max, radius + 3, progress=lambda count: progress.advance("reading particles", READ * count))
    clock.lap("read")
    centring_at = sorted({min(bandwidth, finest) for bandwidth in CENTRING_BANDWIDTHS})
    centring = centre_marching(data, [bandwidth / radius for bandwidth in centring_at], prior_px=shift_px)
    clock.lap("centre")

    history: list[Stage] = []
    report = _history_writer(history, data.pixel_size_A, progress, schedule, clock)
    selected = best_start(
        data, radius, centring.centres, schedule, generator, report,
        matched=lambda level: moment_starts(stack, level, schedule.matched, generator),
    )  # fmt: skip
    clock.lap("starts")
    particles = ParticleState(centring.centres, max(centring.residual_px, 0.4 / k_max))
    found = march(data, radius, selected.level, selected.model, particles, schedule, generator, report)
    clock.lap("march")

    return finished_model(stack, data, found, radius, selected, history, clock, progress)


def finished_model(
    stack: ParticleStack,
    data: ParticleModes,
    found: AbInitio,
    radius: float,
    selected: Selected,
    history: list[Stage],
    clock: "Clock",
    progress: Progress,
) -> InitialModel:
    """The last two stages: continuous poses from those ``found``, and the map from all frequencies."""
    poses = refine_poses(
        data, found.level.grid, found.level.volume(found.model), found.rotations, found.shifts_px,
        progress=lambda count: progress.advance("refining poses", POSE * count),
    )  # fmt: skip
    clock.lap("poses")
    rebuilt = reconstruct(
        stack, data.noise, poses.rotations, poses.shifts_px, radius,
        progress=lambda count: progress.advance("reconstructing", REBUILD * count),
    )  # fmt: skip
    clock.lap("map")
    inverted = bool((rebuilt.volume - rebuilt.volume.mean()).pow(3).mean() < 0)
    return InitialModel(
        reconstruction=rebuilt.negated() if inverted else rebuilt,
        inverted=inverted,
        rotations=poses.rotations,
        shifts_px=poses.shifts_px,
        radius_px=radius,
        search_resolution_A=2 * math.pi * stack.pixel_size_A / float(data.grid.k_max),
        shift_spread_px=float((poses.shifts_px - poses.shifts_px.mean(0)).square().mean().sqrt()),
        start_scores=selected.scores,
        start_kinds=selected.kinds,
        chosen_start=selected.chosen + 1,
        history=history,
        seconds=clock.laps,
    )


class Clock:
    """Seconds of every stage of a run."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The stage ``name`` has ended."""
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now

    def elapsed(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._start


def _history_writer(
    history: list[Stage], pixel_size_A: float, progress: Progress, schedule: Schedule, clock: Clock
) -> Report:
    steps: dict[str, int] = {}

    def report(stage: str, level: SearchLevel, model: Model, likelihood: float, images: int) -> None:
        steps[stage] = steps.get(stage, 0) + 1
        resolution = 2 * math.pi * pixel_size_A / level.basis.k_max
        history.append(Stage(stage, steps[stage], resolution, likelihood, clock.elapsed()))
        cost = {"start": START, "select": SELECT, "march": SWEEP}[stage.split()[0]]
        progress.advance(stage, cost * images)

    return report

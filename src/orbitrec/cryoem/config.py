"""Settings of the tasks: one validated record for each."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar

import torch

from orbitrec.errors import InputError
from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.io.particles import ParticleStack
from orbitrec.optim.solvers import Solver, em

FEWEST_PARTICLES = 100
FEWEST_AVERAGES = 20
"""Least number of images where they have no CTF: then they may be class averages, each of which stands for many."""
FEWEST_OF_HALF = 1000
"""Particles of a half-set below which it is searched by itself only where that is asked for."""
NYQUIST_SHARE = 0.9
DIAMETER_SHARE = 0.625
"""Particle diameter over the box if the images do not show it: boxes are commonly one and a half diameters wide."""
FEWEST_SHELLS = 6.0
"""Least bandwidth that a search can work at: two resolved shells."""


C = TypeVar("C", bound="SearchConfig")


class Constraint(NamedTuple):
    """What a field may be: a test of its value, and the same in words."""

    holds: Callable[[Any], bool]
    words: str

    def or_none(self) -> "Constraint":
        """The same constraint, or None."""
        return Constraint(lambda value: value is None or self.holds(value), self.words)

    def check(self, name: str, value: object) -> None:
        """Check the value of a parameter.

        Raises:
            InputError: if it is not what it may be.
        """
        if not self.holds(value):
            shown = format(value, "g") if isinstance(value, float) else repr(value)
            raise InputError(f"`{name}` must be {self.words}, not {shown}")


def _is_positive(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def _is_whole(value: object, least: int, most: int | None = None) -> bool:
    if not isinstance(value, Integral) or isinstance(value, bool):
        return False
    return least <= int(value) and (most is None or int(value) <= most)


def _is_device(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(torch.device(value).type)
    except RuntimeError:
        return False


def _ascends(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(map(_is_positive, value)) and [*value] == sorted(value)


def fewest_images(stack: ParticleStack) -> int:
    """Least number of images that a map is made from."""
    return FEWEST_AVERAGES if stack.ctf is None else FEWEST_PARTICLES


def instance(kind: type, words: str) -> Constraint:
    """The constraint to instances of a type."""
    return Constraint(lambda value: isinstance(value, kind), words)


POSITIVE = Constraint(_is_positive, "a positive number")
NOT_NEGATIVE = Constraint(lambda value: value == 0 or _is_positive(value), "zero or a positive number")
COUNT = Constraint(lambda value: _is_whole(value, 0), "a whole number, zero or more")
SIZE = Constraint(lambda value: _is_whole(value, 1), "a whole number, one or more")
SEED = Constraint(lambda value: _is_whole(value, 0, 2**32 - 1), "a whole number from 0 to 2³² − 1")
BANDWIDTHS = Constraint(_ascends, "a tuple of positive numbers, none smaller than the one before")
FLAG = instance(bool, "True or False")
DEVICE = Constraint(_is_device, "a device of torch, such as cpu or cuda:0")
SOLVER = Constraint(
    lambda value: isinstance(value, Solver) and not isinstance(value, type),
    "a solver with init and step, such as orbitrec.solvers.em()",
)


def check_fields(record: object, constraints: Mapping[str, Constraint]) -> None:
    """Check the fields of a record, each as :meth:`Constraint.check` does."""
    for name, constraint in constraints.items():
        constraint.check(name, getattr(record, name))


class StartKind(StrEnum):
    """How starts are made from the stack's moments: by matching, by the pretrained network, or not at all."""

    moments = "moments"
    momnet = "momnet"
    random = "random"

    def at_most(self, count: int) -> int:
        """How many starts of the kind there are if ``count`` are wanted; the network gives only one."""
        return {StartKind.moments: count, StartKind.momnet: min(count, 1), StartKind.random: 0}[self]


@dataclass(frozen=True)
class Schedule:
    """Sizes of the search; bandwidths are ``radius · k_max``.

    Attributes:
        start_bandwidth: of the first level, at which all starts are improved.
        start_steps: EM steps of every start there.
        start_batch: particles of such a step.
        settle_steps: EM steps on larger batches after these.
        settle_batch: particles of such a step.
        select_bandwidth: of the second level, at which the better half of the starts goes on.
        select_steps: EM steps there.
        select_batch: particles of such a step.
        held_out: particles whose likelihood ranks the starts.
        bandwidths: of frequency marching, which the best start goes through.
        passes: over the particles at each of these.
        finer: bandwidths beyond these, a pass at each, for as long as the likelihood of the particles gains.
        candidates: directions that a particle is compared with once its search has been narrowed.
        batch: particles after which the model is updated.
        first_trials: where images do not tell their displacements, so that those are drawn
            (:func:`orbitrec.cryoem.search.pose_search.with_trials`): passes at the first level of every start that goes
            on.
        second_trials: its passes at the second level, before the starts are compared.
        trial_batch: particles after which the model is then updated.
        rounds: for a solver other than online EM, which makes no such steps: its rounds with every start, each with the
            prior of the present volume.
        round_passes: data passes of a round; in frequency marching every pass is followed by so many of the solver's.

    Raises:
        InputError: if a size is out of range.
    """

    start_bandwidth: float = 14.0
    start_steps: int = 80
    start_batch: int = 100
    settle_steps: int = 10
    settle_batch: int = 500
    select_bandwidth: float = 19.0
    select_steps: int = 40
    select_batch: int = 300
    held_out: int = 1000
    bandwidths: tuple[float, ...] = (19.0, 24.0, 28.0)
    passes: int = 2
    finer: tuple[float, ...] = (32.0, 37.0, 42.0, 48.0, 55.0)
    candidates: int = 32
    batch: int = 1000
    first_trials: int = 5
    second_trials: int = 2
    trial_batch: int = 250
    rounds: int = 6
    round_passes: float = 3.0

    def __post_init__(self) -> None:
        check_fields(self, _SCHEDULE)

    def held_out_of(self, count: int) -> int:
        """How many of ``count`` particles are held out to rank the starts: at most a fifth."""
        return min(self.held_out, count // 5)

    def limited(self, limit: float) -> "Schedule":
        """The schedule with no bandwidth above ``limit``, and no start above those of frequency marching."""
        cut = [b for b in self.bandwidths if b < limit] + ([limit] if max(self.bandwidths) >= limit else [])
        return replace(
            self,
            start_bandwidth=min(self.start_bandwidth, cut[-1]),
            select_bandwidth=min(self.select_bandwidth, cut[-1]),
            bandwidths=tuple(cut),
            finer=tuple(b for b in self.finer if cut[-1] < b <= limit),
        )

    def under(self, group: PointGroup) -> "Schedule":
        """The schedule for volumes that have a symmetry from their start.

        Of the functions up to a bandwidth T, O and I leave a share of one over their order, and at the first bandwidths
        hardly any but the spherical ones: all bandwidths are higher, by the fourth root of the order, which is 2.2 for
        O. Frequency marching then is at the second, where it would not be beyond it.
        """
        if not group.polyhedral:
            return self
        factor = group.order**0.25
        second = factor * self.select_bandwidth
        bandwidths = tuple(sorted({max(b, second) for b in self.bandwidths}))
        return replace(
            self, start_bandwidth=factor * self.start_bandwidth, select_bandwidth=second, bandwidths=bandwidths
        )


_SCHEDULE = {
    **dict.fromkeys(("start_bandwidth", "select_bandwidth", "round_passes"), POSITIVE),
    **dict.fromkeys(("start_steps", "settle_steps", "select_steps"), COUNT),
    **dict.fromkeys(("start_batch", "settle_batch", "select_batch"), SIZE),
    **dict.fromkeys(("held_out", "passes", "candidates", "batch", "rounds"), SIZE),
    **dict.fromkeys(("first_trials", "second_trials", "trial_batch"), SIZE),
    "bandwidths": BANDWIDTHS,
    "finer": Constraint(lambda value: value == () or _ascends(value), f"an empty tuple, or {BANDWIDTHS.words}"),
}


@dataclass(frozen=True)
class SearchConfig:
    """Settings of every search for poses. Where a field is None, its value is chosen from the data.

    Attributes:
        diameter_A: diameter in Å of a ball that holds the particle.
        resolution_A: finest resolution of the search for poses, in Å; the map has all frequencies up to Nyquist.
        shift_px: first guess of the shifts' standard deviation per axis, in pixels; a twentieth of the box if None.
        seed: of all random numbers. The same seed gives the same result on one machine.
        group: symmetry of the particle, if it is known.
        dense_is_dark: whether dense parts of the particle are dark in the images; if None, the sign that makes the map
            look like a particle.
        flip: return the map of the opposite handedness, with its poses.
        device: where images are compared with templates: ``cpu``, ``cuda:0`` …
        schedule: sizes of the search.

    Raises:
        InputError: if a field has another type, or is out of range.
    """

    diameter_A: float | None = None
    resolution_A: float | None = None
    shift_px: float | None = None
    seed: int = 1
    group: PointGroup = NO_SYMMETRY
    dense_is_dark: bool | None = None
    flip: bool = False
    device: str = "cpu"
    schedule: Schedule = field(default_factory=lambda: Schedule())

    def __post_init__(self) -> None:
        check_fields(self, _SEARCH)
        if self.flip and self.group.name in {"I3", "I4"}:
            raise InputError(f"a mirrored map would have {self.group}'s axes elsewhere; give I1 or I2, or do not flip")

    def with_diameter(self: C, found_A: float) -> C:
        """The settings with the diameter ``found_A`` (Å), unless they have one."""
        return self if self.diameter_A is not None else replace(self, diameter_A=found_A)

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

    def schedule_for(self, stack: ParticleStack) -> Schedule:
        """The schedule with its bandwidths limited by Nyquist and by ``resolution_A``.

        Raises:
            InputError: if what is left is too coarse to recover anything.
        """
        radius, schedule = self.radius_px(stack), self.schedule
        limit = NYQUIST_SHARE * math.pi * radius
        if self.resolution_A is not None:
            limit = min(limit, 2 * math.pi * radius * stack.pixel_size_A / self.resolution_A)
            schedule = replace(schedule, bandwidths=(*(b for b in schedule.bandwidths if b < 0.95 * limit), limit))
        if limit < FEWEST_SHELLS:
            raise InputError(
                f"{stack.n} px of {stack.pixel_size_A:g} Å hold the particle to fewer than two resolved shells at this "
                "resolution; give a finer resolution, a larger diameter or a larger box"
            )
        return schedule.limited(limit)


_SEARCH = {
    **dict.fromkeys(("diameter_A", "resolution_A", "shift_px"), POSITIVE.or_none()),
    "seed": SEED,
    "group": instance(PointGroup, "a point group, such as orbitrec.geometry.point_groups.PointGroup.named('C4')"),
    "dense_is_dark": FLAG.or_none(),
    "flip": FLAG,
    "device": DEVICE,
    "schedule": instance(Schedule, "an orbitrec.cryoem.config.Schedule"),
}


@dataclass(frozen=True)
class AbInitioConfig(SearchConfig):
    """Settings of the search for an initial model.

    Attributes:
        start: how starts are made from the stack's moments.
        matched: how many such starts.
        random: how many random starts.
        independent_halves: whether each half-set is searched by itself, so that the half-maps' correlation measures the
            resolution and their agreement whether the map is right. It takes up to twice as long. If None, they are
            where half of the particles are enough (:meth:`searches_halves`).
        solver: for the likelihood at every resolution, any of :mod:`orbitrec.optim.solvers` or your own. None is EM on
            batches with discounted statistics (:class:`orbitrec.optim.online.OnlineEM`), which updates the poses in the
            same pass.

    Raises:
        InputError: if a field has another type or is out of range, or there is no start.
    """

    start: StartKind = StartKind.moments
    matched: int = 2
    random: int = 6
    independent_halves: bool | None = None
    solver: Solver | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, _AB_INITIO)
        if self.starts < 1:
            raise InputError("there is nothing to start from: ask for at least one start, `matched` or `random`")

    def searches_halves(self, count: int, told: bool) -> bool:
        """Whether each half-set is searched by itself.

        Args:
            count: of the particles.
            told: whether images tell where their content is. Where they do not, half of the particles can miss what
                all of them find.
        """
        enough = told and count >= 2 * FEWEST_OF_HALF
        return enough if self.independent_halves is None else self.independent_halves

    def schedule_for(self, stack: ParticleStack) -> Schedule:
        """The schedule under the symmetry of the starts, limited as for every search.

        Raises:
            InputError: if what is left is too coarse to recover anything.
        """
        own = replace(self, schedule=self.schedule.under(self.start_group))
        return SearchConfig.schedule_for(own, stack)

    @property
    def starts(self) -> int:
        """Number of starts of all kinds."""
        return self.start.at_most(self.matched) + self.random

    @property
    def start_group(self) -> PointGroup:
        """The symmetry that starts have already: T, O and I.

        A shell, as such particles often are, looks the same from everywhere at low resolution, and a search without its
        symmetry collapses on few views. Axes of Cn and Dn are better found in a start that is free.
        """
        return self.group if self.group.polyhedral else NO_SYMMETRY


_AB_INITIO = {
    "start": instance(StartKind, "one of orbitrec.cryoem.config.StartKind"),
    "matched": COUNT,
    "random": COUNT,
    "independent_halves": FLAG.or_none(),
    "solver": SOLVER.or_none(),
}


@dataclass(frozen=True)
class RefineConfig(SearchConfig):
    """Settings of the refinement of a given map.

    Attributes:
        solver: for the likelihood at every resolution, any of :mod:`orbitrec.optim.solvers` or your own.
        passes: its data passes at each resolution, at least two.

    Raises:
        InputError: if a field has another type or is out of range, or there are fewer passes.
    """

    solver: Solver = field(default_factory=em)
    passes: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, {"solver": SOLVER, "passes": POSITIVE})
        if self.passes < 2:
            raise InputError(f"`passes` must be at least 2, one to judge where a step led, not {self.passes:g}")

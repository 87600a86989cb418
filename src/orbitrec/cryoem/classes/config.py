"""Settings of a classification."""

import math
from dataclasses import dataclass, field, replace

from orbitrec.cryoem.config import (
    BANDWIDTHS,
    COUNT,
    FEWEST_SHELLS,
    NYQUIST_SHARE,
    POSITIVE,
    SEED,
    SIZE,
    SearchConfig,
    check_fields,
    instance,
)
from orbitrec.errors import InputError
from orbitrec.io.particles import ParticleStack

FEWEST_IMAGES = 20
"""Least number of images of a classification."""
FEWEST_MEMBERS = 2
"""Least mean number of particles of a class."""


@dataclass(frozen=True)
class ClassSchedule:
    """Sizes of a classification; bandwidths are ``radius · k_max``.

    Attributes:
        bandwidths: of frequency marching, rising.
        passes: of online EM over the particles of a level, for each bandwidth.
        start_members: particles in the random average that a class starts from.
        pool: most particles for each class in the passes before the last bandwidth: classes are found with a random
            subset, and then shown to all.
        batch: particles after which the averages are updated.

    Raises:
        InputError: if a size is out of range, or there are not as many passes as bandwidths.
    """

    bandwidths: tuple[float, ...] = (14.0, 19.0, 24.0)
    passes: tuple[int, ...] = (6, 4, 2)
    start_members: int = 4
    pool: int = 400
    batch: int = 500

    def __post_init__(self) -> None:
        check_fields(self, {"bandwidths": BANDWIDTHS, **dict.fromkeys(("start_members", "pool", "batch"), SIZE)})
        if len(self.passes) != len(self.bandwidths):
            raise InputError(f"`passes` must be {len(self.bandwidths)} numbers, one for each bandwidth")
        for number in self.passes:
            COUNT.check("passes", number)

    def limited(self, limit: float) -> "ClassSchedule":
        """The schedule with no bandwidth above ``limit``."""
        return replace(self, bandwidths=tuple(min(bandwidth, limit) for bandwidth in self.bandwidths))


@dataclass(frozen=True)
class ClassesConfig:
    """Settings of :func:`orbitrec.classify2d`. Where a field is None, its value is chosen from the data.

    Attributes:
        classes: how many, K.
        diameter_A: diameter in Å of a disc that holds the particle.
        resolution_A: finest resolution of the averages, in Å.
        shift_px: first guess of the shifts' standard deviation per axis, in pixels; a twentieth of the box if None.
        seed: of all random numbers. The same seed gives the same result on one machine.
        schedule: sizes of the classification.

    Raises:
        InputError: if a field has another type, or is out of range.
    """

    classes: int = 50
    diameter_A: float | None = None
    resolution_A: float | None = None
    shift_px: float | None = None
    seed: int = 1
    schedule: ClassSchedule = field(default_factory=ClassSchedule)

    def __post_init__(self) -> None:
        check_fields(
            self,
            {
                "classes": SIZE,
                **dict.fromkeys(("diameter_A", "resolution_A", "shift_px"), POSITIVE.or_none()),
                "seed": SEED,
                "schedule": instance(ClassSchedule, "an orbitrec.cryoem.classes.config.ClassSchedule"),
            },
        )

    def check_count(self, stack: ParticleStack) -> None:
        """Check that there are enough particles.

        Raises:
            InputError: if there are not.
        """
        if len(stack) < max(FEWEST_IMAGES, FEWEST_MEMBERS * self.classes):
            raise InputError(
                f"{len(stack)} particles are too few for {self.classes} classes; give at least {FEWEST_IMAGES}, and "
                f"{FEWEST_MEMBERS} for each class, or ask for fewer `classes`"
            )

    def radius_px(self, stack: ParticleStack) -> float:
        """Radius of the particle's disc in pixels.

        Raises:
            InputError: if the diameter does not fit the box.
        """
        return SearchConfig(diameter_A=self.diameter_A).radius_px(stack)

    def schedule_for(self, stack: ParticleStack) -> ClassSchedule:
        """The schedule with its bandwidths limited by Nyquist and by ``resolution_A``.

        Raises:
            InputError: if what is left is too coarse to show anything.
        """
        radius = self.radius_px(stack)
        limit = NYQUIST_SHARE * math.pi * radius
        if self.resolution_A is not None:
            limit = min(limit, 2 * math.pi * radius * stack.pixel_size_A / self.resolution_A)
        if limit < FEWEST_SHELLS:
            raise InputError(
                f"{stack.n} px of {stack.pixel_size_A:g} Å hold the particle to fewer than two resolved shells at this "
                "resolution; give a finer resolution, a larger diameter or a larger box"
            )
        return self.schedule.limited(limit)

"""What a person may set of a run."""

import math
from dataclasses import dataclass, field, replace

from orbitrec.cryoem.image_statistics import DIAMETER_SHARE, ImageStatistics
from orbitrec.cryoem.multiresolution import Schedule
from orbitrec.cryoem.starts import StartKind
from orbitrec.errors import InputError
from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.io.particles import ParticleStack

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
    start: StartKind = StartKind.moments
    """Where the schedule's matched starts are from."""
    dense_is_dark: bool | None = None
    """In the images; where None, the sign that makes the map look like a particle."""
    flip: bool = False
    """Give the map of the other hand, with its poses."""
    group: PointGroup = NO_SYMMETRY
    """Of the particle, where it is known."""
    device: str = "cpu"
    """Where images are compared with templates: ``cpu``, ``cuda:0`` …"""

    def completed(self, found: ImageStatistics) -> "Options":
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

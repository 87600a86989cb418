"""Memory of a run, estimated before it begins from the number of particles, their box and the bandwidth."""

import math
from dataclasses import dataclass, replace

from orbitrec.cryoem.config import FEWEST_PARTICLES, FEWEST_SHELLS
from orbitrec.cryoem.reconstruct import LARGEST_BOX
from orbitrec.errors import InputError
from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.memory import GIB, available_GiB

PROGRAM_GiB = 0.4
"""Libraries."""
SEARCH_GiB, SEARCH_BANDWIDTH = 0.6, 28.0
"""Templates, and the particles that are compared with them: runs of 5000 particles have taken 1.1 GiB in all, and 2.3
GiB to bandwidth 42."""
FINER_GiB = 1.0
"""Of particles' modes, above which a search is not tried at bandwidths beyond the usual ones."""
BYTES_PER_VOXEL = 350
"""Of a map's reconstruction: three complex grids of twice the box and the non-uniform FFT's own, finer by a quarter."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What a run needs.

    Attributes:
        count: particles.
        box: pixels along an edge of an image.
        bandwidth: radius · k_max of the finest search.
        radius: of the particle's ball, in pixels.
        margin: pixels beyond the radius that images are kept to.
        copies: of the particles' modes that are held.
        classes: structures whose templates are held at once.
    """

    count: int
    box: int
    bandwidth: float
    radius: float
    margin: float = 3.0
    copies: float = 1.0
    classes: int = 1

    @property
    def bytes_per_particle(self) -> float:
        """Of its circular modes, complex64."""
        grid = PolarGrid.for_radius(self.box, self.bandwidth / self.radius, self.radius + self.margin)
        return 8.0 * self.copies * (grid.max_mode + 1) * grid.radial_nodes

    @property
    def fixed_GiB(self) -> float:
        """What is needed however few particles there are."""
        search = self.classes * SEARCH_GiB * (self.bandwidth / SEARCH_BANDWIDTH) ** 2
        return PROGRAM_GiB + max(search, BYTES_PER_VOXEL * min(self.box, LARGEST_BOX) ** 3 / GIB)

    @property
    def GiB(self) -> float:
        """The estimate."""
        return self.fixed_GiB + self.count * self.bytes_per_particle / GIB

    def most_particles(self, available_GiB: float) -> int:
        """How many particles fit."""
        return max(0, math.floor((available_GiB - self.fixed_GiB) * GIB / self.bytes_per_particle))

    def widest(self, available_GiB: float) -> float | None:
        """The largest bandwidth, to 2 %, at which all particles fit; None where none does that recovers anything."""
        bandwidth = self.bandwidth
        while bandwidth >= FEWEST_SHELLS:
            tried = replace(self, bandwidth=bandwidth)
            if tried.GiB <= available_GiB:
                return bandwidth
            bandwidth *= 0.98
        return None


def small_enough(
    stack: ParticleStack, bandwidths: tuple[float, ...], radius: float, copies: float
) -> tuple[float, ...]:
    """The bandwidths at which the particles' modes take at most :data:`FINER_GiB`.

    They do not depend on what memory is free, so that a stack has the same result wherever it is worked on.

    Args:
        stack: the particles.
        bandwidths: to choose from.
        radius: of the particle's ball, in pixels.
        copies: of the modes that the run holds.

    Returns:
        Those that are small enough, in their order.
    """
    estimates = (MemoryEstimate(len(stack), stack.n, b, radius, copies=copies) for b in bandwidths)
    return tuple(e.bandwidth for e in estimates if e.count * e.bytes_per_particle <= FINER_GiB * GIB)


def require_memory(stack: ParticleStack, k_max: float, radius: float, copies: float = 1.0, classes: int = 1) -> None:
    """Refuse a run that does not fit into memory before it begins, and say what would fit.

    Args:
        stack: the particles.
        k_max: highest frequency of the search, in radians per pixel.
        radius: of the particle's ball, in pixels.
        copies: of the particles' modes that the run holds.
        classes: structures whose templates it holds at once.

    Raises:
        InputError: if the estimate is above what is available.
    """
    needs, available = (
        MemoryEstimate(len(stack), stack.n, radius * k_max, radius, copies=copies, classes=classes),
        available_GiB(),
    )
    if needs.GiB <= available:
        return
    particles, bandwidth = needs.most_particles(available), needs.widest(available)
    fits = []
    if particles >= FEWEST_PARTICLES:
        fits.append(f"at most {particles} particles")
    if bandwidth is not None:
        # Rounded up: a coarser one needs less.
        fits.append(f"a `resolution_A` of {math.ceil(20 * math.pi * stack.pixel_size_A * radius / bandwidth) / 10:g}")
    advice = f"give {' or '.join(fits)}" if fits else "take a machine with more, or images of a smaller box"
    raise InputError(
        f"{stack.table.path}: {len(stack)} particles of {stack.n} px need about {needs.GiB:.2g} GiB of memory at "
        f"{2 * math.pi * stack.pixel_size_A / k_max:.1f} Å, and {available:.2g} GiB are free; {advice}"
    )

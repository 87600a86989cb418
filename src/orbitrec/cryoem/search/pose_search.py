"""The pose of each particle: what an E-step finds of it, and how that narrows the next search.

The first pass compares every particle with all directions and finds its posterior over them. From there on the search
is narrowed to the directions near those of high posterior, and to shifts around the particle's present centre.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.centring import shift_grid
from orbitrec.cryoem.preprocess import NO_SHIFT
from orbitrec.cryoem.search.level import ResolutionLevel
from orbitrec.geometry.rotations import direction_frames, in_plane
from orbitrec.inference.likelihood import Assignment
from orbitrec.runtime.distributed import fill_in

KEPT, COUNTED = 0.97, 1000
"""Mean posterior of the directions that a narrowed search keeps, and about how many particles it is taken from."""


@dataclass(frozen=True, eq=False)
class ParticleState:
    """What is known of each particle between passes.

    Attributes:
        centres: (N, 2) displacement (x, y) of its content, in pixels.
        residual_px: standard deviation of the true shifts around these centres, per axis, in pixels.
        directions: (N, d) posterior of its viewing direction; None before the first pass.
        inlier: (N,) posterior probability that it is a view of the particle; None before the first pass.
    """

    centres: Float[Tensor, "N 2"]
    residual_px: float
    directions: Float[Tensor, "N d"] | None = None
    inlier: Float[Tensor, "N"] | None = None

    def subset(self, rows: Int[Tensor, "n"]) -> "ParticleState":
        """The particles ``rows`` alone."""
        directions, inlier = (None if each is None else each[rows] for each in (self.directions, self.inlier))
        return ParticleState(self.centres[rows], self.residual_px, directions, inlier)

    def prolongated(self, level: ResolutionLevel, finer: ResolutionLevel) -> "ParticleState":
        """The same particles, with their posteriors on the directions of a finer level."""
        if self.directions is None:
            return self
        directions = self.directions @ finer.directional_kernel(level).mT
        return replace(self, directions=directions)


def shift_search(level: ResolutionLevel, particles: ParticleState) -> tuple[Float[Tensor, "s 2"], Float[Tensor, "s"]]:
    """Displacements (s, 2) around a particle's centre, in pixels, and their log prior.

    Only the zero displacement before a first pass has narrowed the directions.
    """
    if particles.directions is None:
        return NO_SHIFT, torch.zeros(1)
    k_max = float(level.grid.nodes[-1])
    shifts = shift_grid(min(2.5 * particles.residual_px, 10 / k_max), 1.2 / k_max)
    return shifts, torch.log_softmax(-shifts.square().sum(1) / (2 * particles.residual_px**2), dim=0)


def candidate_directions(level: ResolutionLevel, particles: ParticleState, count: int) -> Int[Tensor, "N c"]:
    """The directions that each particle is compared with: all of them until a posterior narrows the search.

    Args:
        level: the resolution.
        particles: what is known of them.
        count: directions of each particle, once it has a posterior.

    Returns:
        Indices (N, c) into the level's directions, the most probable ones first.
    """
    if particles.directions is None or count >= len(level.directions):
        return torch.arange(len(level.directions)).expand(len(particles.centres), -1)
    return particles.directions.topk(max(count, likely_directions(particles.directions)), dim=1).indices


def likely_directions(posterior: Float[Tensor, "N d"]) -> int:
    """How many of its most probable directions a particle needs so that the mean posterior in them is :data:`KEPT`.

    Args:
        posterior: (N, d) of the viewing direction of each particle.

    Returns:
        The number, between 1 and d.
    """
    rows = torch.linspace(0, len(posterior) - 1, min(COUNTED, len(posterior))).long()
    held = posterior[rows].sort(dim=1, descending=True).values.cumsum(1).mean(0) / posterior[rows].sum(1).mean()
    return min(int((held < KEPT).sum()) + 1, posterior.shape[1])


def images_at_once(level: ResolutionLevel, shifts: int) -> int:
    """How many images take about 64 MiB when each is held at so many ``shifts``."""
    return max(1, (1 << 26) // (8 * shifts * (level.grid.max_mode + 1) * level.grid.node_count))


class PosesFound:
    """Collects what the E-steps of one pass over the particles find of each of them.

    Args:
        level: the resolution of the search.
        particles: what was known of them before.
        candidates: directions that each particle is compared with once its search has been narrowed.

    Attributes:
        rotations: (N, 3, 3) most probable rotation of each particle so far.
        shifts_px: (N, 2) most probable displacement (x, y) of its content, in pixels.
    """

    def __init__(self, level: ResolutionLevel, particles: ParticleState, candidates: int) -> None:
        count = len(particles.centres)
        self._level, self._before = level, particles
        self._shifts = shift_search(level, particles)[0]
        self._nearest = candidate_directions(level, particles, candidates)
        self.rotations = torch.zeros(count, 3, 3, dtype=torch.float64)
        self.shifts_px = torch.zeros(count, 2, dtype=torch.float64)
        self._directions = torch.zeros(count, len(level.directions))
        self._centres = torch.zeros(count, 2, dtype=torch.float64)
        self._variance = torch.zeros(count, dtype=torch.float64)
        self._inlier = torch.zeros(count)

    def record(self, rows: Int[Tensor, "b"], assigned: Assignment) -> None:
        """Enter the posterior of the particles ``rows``."""
        assigned, own = assigned.to("cpu"), self._nearest[rows]
        displaced = self._before.centres[rows][:, None] + self._shifts
        s, c, a = assigned.best.unbind(1)
        d = own.gather(1, c[:, None]).squeeze(1)
        angle = self._level.circle.in_plane_angles[a]
        self.rotations[rows] = direction_frames(self._level.directions[d]) @ in_plane(-angle)
        self.shifts_px[rows] = displaced[torch.arange(len(rows)), s]
        self._directions[rows] = self._directions[rows].scatter(1, own, assigned.direction)
        weight = assigned.shift.double()[..., None]
        mean = (weight * displaced).sum(1)
        self._centres[rows] = mean
        self._inlier[rows] = assigned.inlier.float()
        self._variance[rows] = (weight * (displaced - mean[:, None]).square()).sum((1, 2)) / 2

    def state(self) -> ParticleState:
        """What is known of the particles after the pass, the same in every process."""
        fill_in(self.rotations, self.shifts_px, self._directions, self._centres, self._variance, self._inlier)
        residual = self._before.residual_px
        # The lattice of shifts cannot resolve less than its own spacing, nor should the next search be narrower.
        if len(self._shifts) > 1:
            spread = float(self._inlier.double() @ self._variance / self._inlier.double().sum())
            residual = max(spread**0.5, 0.4 / float(self._level.grid.nodes[-1]))
        smoothed = self._directions @ self._level.directional_kernel(self._level).mT
        return ParticleState(self._centres, residual, smoothed, self._inlier)

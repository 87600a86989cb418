"""What is known of each particle of a classification: its class, in-plane angle and displacement."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.cryoem.centring import shift_grid
from orbitrec.cryoem.classes.level import ClassLevel
from orbitrec.cryoem.preprocess import NO_SHIFT
from orbitrec.cryoem.search.pose_search import likely_directions
from orbitrec.geometry.grids import pixel_vectors
from orbitrec.inference.likelihood import Assignment
from orbitrec.runtime.distributed import fill_in

LIKELY = 0.5
"""Probability of holding what its class shows, above which a particle is a member of it."""
FEWEST_CANDIDATES = 4
"""Classes that a particle is compared with at least, however sure its class is."""
NARROWED = 0.4
"""Share of the classes above which comparing with all of them is as quick."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """What a pass has found of each particle.

    Attributes:
        classes: (N, d) posterior of its class.
        inlier: (N,) posterior probability that it holds something that a class shows.
        angles: (N,) most probable in-plane angle α in radians: by it the average's content is rotated, from x towards
            y, to be the particle's.
        shifts_px: (N, 2) most probable displacement (x, y) of its content, in pixels.
        log_likelihood: (N,) of the particle, over that of an image of noise.
    """

    classes: Float[Tensor, "N d"]
    inlier: Float[Tensor, "N"]
    angles: Float[Tensor, "N"]
    shifts_px: Float[Tensor, "N 2"]
    log_likelihood: Float[Tensor, "N"]

    @property
    def most_probable(self) -> Int[Tensor, "N"]:
        """Class of every particle."""
        return self.classes.argmax(1)

    @property
    def likely(self) -> Bool[Tensor, "N"]:
        """Which particles probably hold what their class shows."""
        return self.inlier >= LIKELY

    @property
    def sizes(self) -> Float[Tensor, "d"]:
        """Expected number of members of every class (float64)."""
        return self.inlier.double() @ self.classes.double()


@dataclass(frozen=True, eq=False)
class Membership:
    """What is known of the particles between passes.

    Attributes:
        centres: (N, 2) posterior mean of the displacement (x, y) of the content of each, in pixels.
        residual_px: standard deviation of the true displacements around these, per axis, in pixels.
        found: by the last pass; None before the first.
    """

    centres: Float[Tensor, "N 2"]
    residual_px: float
    found: Posterior | None = None


def shift_lattice(level: ClassLevel, residual_px: float) -> tuple[Float[Tensor, "s 2"], Float[Tensor, "s"]]:
    """Displacements around a particle's centre, in pixels, and their log prior, Gaussian of ``residual_px``."""
    k_max = float(level.grid.nodes[-1])
    shifts = shift_grid(2.5 * residual_px, 1.2 / k_max)
    if len(shifts) == 1:
        return NO_SHIFT, torch.zeros(1)
    return shifts, torch.log_softmax(-shifts.square().sum(1) / (2 * residual_px**2), dim=0)


def candidate_classes(known: Membership) -> Int[Tensor, "N c"] | None:
    """The classes that each particle is compared with; None for all of them."""
    if known.found is None:
        return None
    posterior = known.found.classes
    wanted = max(FEWEST_CANDIDATES, likely_directions(posterior))
    return None if wanted > NARROWED * posterior.shape[1] else posterior.topk(wanted, dim=1).indices


class MembersFound:
    """Collects what the E-steps of one pass over the particles find of each of them.

    Args:
        level: the resolution.
        before: what was known of the particles.
        candidates: (N, c) the classes that each is compared with; None for all.
        shifts: (s, 2) displacements around its centre, in pixels.
    """

    def __init__(
        self,
        level: ClassLevel,
        before: Membership,
        candidates: Int[Tensor, "N c"] | None,
        shifts: Float[Tensor, "s 2"],
    ) -> None:
        count = len(before.centres)
        self._level, self._before, self._candidates, self._shifts = level, before, candidates, shifts
        self._classes = torch.zeros(count, level.projector.classes)
        self._inlier, self._log_likelihood = torch.zeros(count), torch.zeros(count)
        self._angles, self._variance = (torch.zeros(count, dtype=torch.float64) for _ in range(2))
        self._centres, self._best = (torch.zeros(count, 2, dtype=torch.float64) for _ in range(2))

    def record(self, rows: Int[Tensor, "b"], assigned: Assignment) -> None:
        """Enter the posterior of the particles ``rows``."""
        found = assigned.to("cpu")
        displaced = self._before.centres[rows][:, None] + self._shifts
        s, _, a = found.best.unbind(1)
        own = found.direction
        if self._candidates is not None:
            own = torch.zeros(len(rows), self._classes.shape[1]).scatter(1, self._candidates[rows], own.float())
        weight = found.shift.double()[..., None]
        mean = (weight * displaced).sum(1)
        self._classes[rows] = own.float()
        self._inlier[rows], self._log_likelihood[rows] = found.inlier.float(), found.log_likelihood.float()
        self._angles[rows] = self._level.circle.in_plane_angles[a]
        self._best[rows] = displaced[torch.arange(len(rows)), s]
        self._centres[rows] = mean
        self._variance[rows] = (weight * (displaced - mean[:, None]).square()).sum((1, 2)) / 2

    def membership(self) -> Membership:
        """What is known of the particles after the pass, the same in every process."""
        found = self.posterior()
        fill_in(self._centres, self._variance)
        spread = float(found.inlier.double() @ self._variance / found.inlier.double().sum().clamp(min=1e-9))
        # A lattice resolves no less than its own spacing, nor should the next one be narrower.
        residual = max(math.sqrt(spread), 0.5 / float(self._level.grid.nodes[-1]))
        return Membership(self._centres, residual, found)

    def posterior(self) -> Posterior:
        """What the pass has found, the same in every process."""
        results = (self._classes, self._inlier, self._angles, self._best, self._log_likelihood)
        fill_in(*results)
        return Posterior(*results)


def recentred(known: Membership, offsets_px: Float[Tensor, "d 2"]) -> Membership:
    """The particles' displacements after the content of every average was moved by minus its offset.

    A particle is its average rotated by α and then moved by c, so that its displacement becomes ``c + R_α offset``.
    """
    if known.found is None:
        return known
    x, y = offsets_px[known.found.most_probable].double().unbind(1)
    cos, sin = known.found.angles.cos(), known.found.angles.sin()
    moved = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)
    found = replace(known.found, shifts_px=known.found.shifts_px + moved)
    return Membership(known.centres + moved, known.residual_px, found)


def centroids(images: Float[Tensor, "d n n"]) -> Float[Tensor, "d 2"]:
    """Centre (x, y) of what is bright in each image, weighted by its square, in pixels from the origin."""
    weight = images.clamp(min=0).square().flatten(1).double()
    total = weight.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return weight @ pixel_vectors(images.shape[-1]).reshape(-1, 2) / total

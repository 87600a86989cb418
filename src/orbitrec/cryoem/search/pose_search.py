"""The pose of each particle: what an E-step finds of it, and how that narrows the next search.

The first pass compares every particle with all directions and finds its posterior over them. From there on the search
is narrowed to the directions near those of high posterior, and to shifts around the particle's present centre.
"""

import math
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
FEWEST_TRIALS, MOST_TRIALS = 2, 32
"""Displacements of a particle that are drawn for a pass."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """The posterior of each particle over all samples of a pass: directions, in-plane angles and displacements.

    Attributes:
        log_likelihood: (N,) of each image, marginal over the samples, over that of noise alone.
        inlier_probability: (N,) that it is a view of the particle.
        max_probability: (N,) of the most probable sample, given that it is one.
        significant_samples: (N,) how many samples make up 99.9 % of it; zeros where they were not counted.
    """

    log_likelihood: Float[Tensor, "N"]
    inlier_probability: Float[Tensor, "N"]
    max_probability: Float[Tensor, "N"]
    significant_samples: Int[Tensor, "N"]

    @classmethod
    def unknown(cls, count: int) -> "Posterior":
        """Room for those of so many particles, filled with zeros."""
        likelihood, inlier, highest = torch.zeros(3, count)
        return cls(likelihood, inlier, highest, torch.zeros(count, dtype=torch.long))

    def record(self, rows: Int[Tensor, "b"], assigned: Assignment) -> None:
        """Enter what an E-step found of the particles ``rows``."""
        found = (assigned.log_likelihood, assigned.inlier, assigned.max_probability, assigned.significant)
        for whole, part in zip(vars(self).values(), found, strict=True):
            whole[rows] = part.to(whole.dtype)

    def subset(self, rows: Int[Tensor, "n"]) -> "Posterior":
        """Those of the particles ``rows`` alone."""
        return Posterior(*(each[rows] for each in vars(self).values()))


@dataclass(frozen=True, eq=False)
class ParticleState:
    """What is known of each particle between passes.

    Attributes:
        centres: (N, 2) displacement (x, y) of its content, in pixels.
        residual_px: standard deviation of the true shifts around these centres, per axis, in pixels.
        directions: (N, d) posterior of its viewing direction; None before the first pass.
        posterior: what the last pass found of it beside that; None before the first.
        trials: (N, s, 2) displacements around its centre at which it is compared, if :func:`with_trials` drew some;
            None where a lattice has them (:func:`shift_search`).
        tried: (N, s) posterior of these; None before they have been compared.
    """

    centres: Float[Tensor, "N 2"]
    residual_px: float
    directions: Float[Tensor, "N d"] | None = None
    posterior: Posterior | None = None
    trials: Float[Tensor, "N s 2"] | None = None
    tried: Float[Tensor, "N s"] | None = None

    def subset(self, rows: Int[Tensor, "n"]) -> "ParticleState":
        """The particles ``rows`` alone."""
        directions, trials, tried = (
            None if each is None else each[rows] for each in (self.directions, self.trials, self.tried)
        )
        posterior = None if self.posterior is None else self.posterior.subset(rows)
        return ParticleState(self.centres[rows], self.residual_px, directions, posterior, trials, tried)

    def on_lattice(self, level: ResolutionLevel) -> "ParticleState":
        """The same particles, with the displacements of a lattice to be compared instead of drawn ones.

        Args:
            level: the resolution of their posteriors. Directions that are not known are all as likely as one another.
        """
        directions, count = self.directions, len(level.directions)
        if directions is None:
            directions = torch.full((len(self.centres), count), 1 / count)
        return replace(self, directions=directions, trials=None, tried=None)

    def prolongated(self, level: ResolutionLevel, finer: ResolutionLevel) -> "ParticleState":
        """The same particles, with their posteriors on the directions of a finer level."""
        if self.directions is None:
            return self
        directions = self.directions @ finer.directional_kernel(level).mT
        return replace(self, directions=directions)


def with_trials(particles: ParticleState, generator: torch.Generator) -> ParticleState:
    """The particles with displacements to be tried at the next pass: the present one, and others drawn from the prior.

    This is iterated sampling importance resampling (Andrieu, Lee and Vihola 2018): of the displacements that were
    compared at the last pass one is drawn by its posterior, and joined by fresh ones. However few they are, passes then
    visit displacements by their posterior, so that EM's sums have the expectation that marginalising over all of them
    would give, at a fraction of the cost. Two are enough where images say little of their displacements; as the
    directions narrow, more of them cost the same.

    Args:
        particles: what is known of them; displacements are Gaussian around their centres, with ``residual_px``.
        generator: source of randomness.

    Returns:
        Particles with trials.
    """
    count = FEWEST_TRIALS
    if particles.directions is not None:
        share = likely_directions(particles.directions) / particles.directions.shape[1]
        count = min(max(round(0.5 / share), count), MOST_TRIALS)
    draws = torch.randn(len(particles.centres), count, 2, generator=generator, dtype=torch.float64)
    fresh = particles.residual_px * draws
    if particles.trials is None or particles.tried is None:
        return replace(particles, trials=fresh, tried=None)
    chosen = torch.multinomial(particles.tried, 1, generator=generator)[..., None]
    present = particles.trials.gather(1, chosen.expand(-1, -1, 2))
    return replace(particles, trials=torch.cat([present, fresh], dim=1), tried=None)


def shift_search(
    level: ResolutionLevel, particles: ParticleState
) -> tuple[Float[Tensor, "s 2"] | Float[Tensor, "N s 2"], Float[Tensor, "s"]]:
    """Displacements around a particle's centre, in pixels, and their log prior.

    They are the particle's own trials, (N, s, 2), if it has some. Otherwise they are a lattice, (s, 2), the same for
    all; only the zero displacement before a first pass has narrowed the directions.
    """
    if particles.trials is not None:
        tries = particles.trials.shape[1]
        return particles.trials, torch.full((tries,), -math.log(tries))
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
    wanted, shifts = max(count, likely_directions(particles.directions)), shift_search(level, particles)[0].shape[-2]
    # Templates of some directions are copied for each particle, those of all are not, and opposite ones are compared
    # together. The two ways cost the same at a sixth of the directions for three displacements, and at half for nine.
    if wanted >= len(level.directions) * min(shifts / 18, 0.5):
        return torch.arange(len(level.directions)).expand(len(particles.centres), -1)
    return particles.directions.topk(wanted, dim=1).indices


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
        self._posterior = Posterior.unknown(count)
        self._tried = torch.zeros(count, self._shifts.shape[-2])

    def record(self, rows: Int[Tensor, "b"], assigned: Assignment) -> None:
        """Enter the posterior of the particles ``rows``."""
        assigned, own = assigned.to("cpu"), self._nearest[rows]
        shifts = self._shifts if self._before.trials is None else self._shifts[rows]
        displaced = self._before.centres[rows][:, None] + shifts
        s, c, a = assigned.best.unbind(1)
        d = own.gather(1, c[:, None]).squeeze(1)
        angle = self._level.circle.in_plane_angles[a]
        self.rotations[rows] = direction_frames(self._level.directions[d]) @ in_plane(-angle)
        self.shifts_px[rows] = displaced[torch.arange(len(rows)), s]
        self._directions[rows] = self._directions[rows].scatter(1, own, assigned.direction)
        weight = assigned.shift.double()[..., None]
        mean = (weight * displaced).sum(1)
        self._centres[rows] = mean
        self._posterior.record(rows, assigned)
        self._tried[rows] = assigned.shift.float()
        self._variance[rows] = (weight * (displaced - mean[:, None]).square()).sum((1, 2)) / 2

    def state(self) -> ParticleState:
        """What is known of the particles after the pass, the same in every process."""
        fill_in(self.rotations, self.shifts_px, self._directions, self._centres, self._variance, self._tried)
        fill_in(*vars(self._posterior).values())
        inlier = self._posterior.inlier_probability.double()
        residual = self._before.residual_px
        smoothed = self._directions @ self._level.directional_kernel(self._level).mT
        if self._before.trials is not None:  # the centres stay: the spread around them is what EM updates
            square = (self._tried.double() * self._before.trials.square().sum(-1)).sum(1) / 2
            spread = float(inlier @ square / inlier.sum()) ** 0.5
            return ParticleState(
                self._before.centres, spread, smoothed, self._posterior, self._before.trials, self._tried
            )
        # The lattice of shifts cannot resolve less than its own spacing, nor should the next search be narrower.
        if len(self._shifts) > 1:
            spread = float(inlier @ self._variance / inlier.sum())
            residual = max(spread**0.5, 0.4 / float(self._level.grid.nodes[-1]))
        return ParticleState(self._centres, residual, smoothed, self._posterior)

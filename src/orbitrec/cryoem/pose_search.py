"""One sweep over all particles: where each is, which way it looks, and what that says of the model.

The first sweep looks at every direction and finds a posterior for each particle. From there on the search is narrowed
to the directions near those that posterior favoured, and to shifts around the particle's present centre.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.centring import shift_grid
from orbitrec.cryoem.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.geometry.rotations import direction_frames, in_plane
from orbitrec.inference.likelihood import Assignment, Statistics, expectation, summed_statistics
from orbitrec.inference.template_bank import TemplateBank
from orbitrec.runtime.distributed import FEWEST, fill_in, shards

Report = Callable[[ResolutionLevel, VolumeAndViews, float, int], None]
"""Called after every batch with (level, model, log-likelihood per particle, number of particles seen)."""

NO_SHIFT = torch.zeros(1, 2, dtype=torch.float64)


@dataclass
class ParticleState:
    """What is known of each particle between levels: centre (N, 2) px and direction posterior (N, d)."""

    centres: Float[Tensor, "N 2"]
    residual_px: float
    directions: Float[Tensor, "N d"] | None = None


@runtime_checkable
class Climbing(Protocol):
    """A model, and what becomes of it when a share of the particles has been seen."""

    @property
    def model(self) -> VolumeAndViews:
        """The present model."""
        ...

    def step(self, level: ResolutionLevel, statistics: Statistics, keep: float) -> None:
        """Update the model with new statistics, keeping a share ``keep`` of the old ones."""
        ...


@dataclass(frozen=True)
class Fixed:
    """A model that stays as it is: a sweep then only learns of the particles."""

    model: VolumeAndViews

    def step(self, level: ResolutionLevel, statistics: Statistics, keep: float) -> None:
        """Nothing."""


def shift_search(level: ResolutionLevel, particles: ParticleState) -> tuple[Float[Tensor, "s 2"], Float[Tensor, "s"]]:
    """Displacements around a particle's centre and their log prior; none before directions have been narrowed."""
    if particles.directions is None:
        return NO_SHIFT, torch.zeros(1)
    k_max = float(level.grid.nodes[-1])
    shifts = shift_grid(min(2.5 * particles.residual_px, 10 / k_max), 1.2 / k_max)
    return shifts, torch.log_softmax(-shifts.square().sum(1) / (2 * particles.residual_px**2), dim=0)


@dataclass
class _Found:
    """What one sweep finds of every particle."""

    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    directions: Float[Tensor, "N d"]
    centres: Float[Tensor, "N 2"]
    variance: Float[Tensor, "N"]

    @classmethod
    def nothing(cls, count: int, directions: int) -> "_Found":
        poses = torch.zeros(count, 3, 3, dtype=torch.float64), torch.zeros(count, 2, dtype=torch.float64)
        spread = torch.zeros(count, 2, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        return cls(*poses, torch.zeros(count, directions), *spread)

    def exchange(self) -> None:
        """Fill in what other processes have found."""
        fill_in(self.rotations, self.shifts_px, self.directions, self.centres, self.variance)

    def record(
        self,
        rows: Int[Tensor, "b"],
        assigned: Assignment,
        level: ResolutionLevel,
        own: Int[Tensor, "b c"],
        displaced: Float[Tensor, "b s 2"],
    ) -> None:
        """Enter the posterior of ``rows``, whose content was sought at the ``displaced`` positions."""
        s, c, a = assigned.best.unbind(1)
        d = own.gather(1, c[:, None]).squeeze(1)
        self.rotations[rows] = direction_frames(level.directions[d]) @ in_plane(-level.circle.in_plane_angles[a])
        self.shifts_px[rows] = displaced[torch.arange(len(rows)), s]
        self.directions[rows] = self.directions[rows].scatter(1, own, assigned.direction)
        weight = assigned.shift.double()[..., None]
        mean = (weight * displaced).sum(1)
        self.centres[rows] = mean
        self.variance[rows] = (weight * (displaced - mean[:, None]).square()).sum((1, 2)) / 2


def sweep(
    data: ParticleModes,
    level: ResolutionLevel,
    climbing: Climbing,
    particles: ParticleState,
    order: Int[Tensor, "N"],
    report: Report,
    *,
    candidates: int,
    batch: int,
) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]]:
    """One sweep that brings the model and the particles' state up to date; returns the most probable poses.

    Args:
        data: the particles.
        level: the resolution of the search.
        climbing: the model, and what each batch does to it.
        particles: what is known of them; updated.
        order: in which they are seen.
        report: called after every batch.
        candidates: directions that a particle looks at once its search has been narrowed.
        batch: particles between two steps of the model, at most a fifth of all.
    """
    found = _Found.nothing(len(data), len(level.directions))
    shifts, log_shift = shift_search(level, particles)
    nearest = candidate_directions(level, particles, candidates)

    def look(bank: TemplateBank, shard: Int[Tensor, "b"]) -> Statistics:
        parts = []
        for part in shard.split(images_at_once(level, len(shifts))):
            own, centres = nearest[part], particles.centres[part]
            observed = data.observations(part, level.grid, centres, shifts, log_shift)
            narrowed = own if own.shape[1] < len(level.directions) else None
            statistics, assigned = expectation(observed, bank, candidates=narrowed)
            found.record(part, assigned.to("cpu"), level, own, centres[:, None] + shifts)
            parts.append(statistics)
        return reduce(Statistics.merge, parts)

    for rows in order.split(min(batch, math.ceil(len(data) / 5))):
        total = summed_statistics(shards(rows, FEWEST), partial(look, level.bank(climbing.model)))
        climbing.step(level, total, 1 - len(rows) / len(data))
        likelihood = total.log_likelihood / len(rows)
        report(level, climbing.model, likelihood, len(rows))
    found.exchange()
    particles.centres = found.centres
    # The lattice of shifts cannot tell less than its own spacing, nor should the next search be narrower than it.
    if len(shifts) > 1:
        particles.residual_px = max(float(found.variance.mean()) ** 0.5, 0.4 / float(level.grid.nodes[-1]))
    particles.directions = found.directions @ level.directional_kernel(level).mT
    return found.rotations, found.shifts_px


def images_at_once(level: ResolutionLevel, shifts: int) -> int:
    """How many images, moved by every shift, take about 64 MiB."""
    return max(1, (1 << 26) // (8 * shifts * (level.grid.max_mode + 1) * level.grid.node_count))


def candidate_directions(level: ResolutionLevel, particles: ParticleState, count: int) -> Int[Tensor, "N c"]:
    """The directions each particle is to look at: all of them until a posterior narrows the search."""
    if particles.directions is None or count >= len(level.directions):
        return torch.arange(len(level.directions)).expand(len(particles.centres), -1)
    return particles.directions.topk(count, dim=1).indices

"""The map of a class that has lost particles to others, or won some."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from orbitrec.cryoem.config import AbInitioConfig
from orbitrec.cryoem.pose_refinement import Poses
from orbitrec.cryoem.result import PosedMap, Session, half_sets
from orbitrec.cryoem.species.comparison import Compared, Comparison
from orbitrec.io.particle_table import ParticleStatistics
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.progress import RunState

MANY = 0.05
"""Share of particles that were posed by the whole map above which half-maps agree by more than their signal."""


@dataclass(frozen=True, eq=False)
class Change:
    """Which particles a class has.

    Attributes:
        before: (n,) rows of the stack in increasing order, when its map was made.
        now: (m,) the same after the comparison.
        compared: what the comparison of all particles with its map found.
    """

    before: Int[Tensor, "n"]
    now: Int[Tensor, "m"]
    compared: Compared

    @property
    def new(self) -> Bool[Tensor, "m"]:
        """Which of the present particles the class did not have before."""
        return ~torch.isin(self.now, self.before)

    @property
    def moved(self) -> int:
        """How many particles came from other classes."""
        return int(self.new.sum())

    def joined(self, found: PosedMap, comparison: Comparison) -> Poses:
        """Poses of the present particles, which the comparison has: those that are new are refined from it."""
        old, place = ~self.new, torch.searchsorted(self.before, self.now)
        kept = place[old]
        if self.moved == 0:
            return Poses(found.rotations[kept], found.shifts_px[kept], found.statistics.subset(kept))
        added = comparison.refined(self.compared, self.now[self.new], self.new.nonzero().flatten())
        rotations = found.rotations.new_zeros(len(self.now), 3, 3)
        shifts_px = found.shifts_px.new_zeros(len(self.now), 2)
        rotations[old], rotations[~old] = found.rotations[kept], added.rotations
        shifts_px[old], shifts_px[~old] = found.shifts_px[kept], added.shifts_px
        columns = []
        for before, fresh in zip(vars(found.statistics).values(), vars(added.statistics).values(), strict=True):
            column = before.new_zeros(len(self.now))
            column[old], column[~old] = before[kept], fresh.to(before)
            columns.append(column)
        return Poses(rotations, shifts_px, ParticleStatistics(*columns))

    def halves(self, stack: ParticleStack, found: PosedMap) -> Int[Tensor, "m"]:
        """Half-sets of the present particles: those that stay keep theirs."""
        halves, old = half_sets(stack)[self.now], ~self.new
        halves[old] = found.half_sets[torch.searchsorted(self.before, self.now)[old]]
        return halves


def rebuilt(stack: ParticleStack, config: AbInitioConfig, found: PosedMap, change: Change, run: RunState) -> PosedMap:
    """The map of a class's present particles; that of its own run where these are the same.

    Args:
        stack: all particles, as they are on disk.
        config: of the run.
        found: by the class's own run.
        change: of its particles.
        run: keeps the records.

    Returns:
        Map and poses.
    """
    if change.moved == 0 and len(change.now) == len(change.before):
        return found
    read = found.image_statistics
    comparison = Comparison.of(stack.subset(change.now), found, config)
    # The poses are those of the map as it is.
    settings = replace(config.with_diameter(read.diameter_A), flip=False, dense_is_dark=found.inverted)
    own_run = RunState(run.generator, checkpoints=run.checkpoints.of(f"{run.part} rebuilt"))
    own_run.history, own_run.timers = list(found.history), dict(found.seconds)
    session = Session(comparison.stack, comparison.data, read, settings, own_run)
    again = session.result(
        change.joined(found, comparison), comparison.fine, change.halves(stack, found), found.selection,
        found.symmetry, agreement=found.agreement,
    )  # fmt: skip
    notes = list(found.told)
    if found.independent and change.moved > MANY * len(change.now):
        notes.append(
            f"{change.moved} of {len(change.now)} particles came from other classes, posed by the whole map: the "
            "half-maps are no longer quite independent; refine the class."
        )
    return replace(again, search_resolution_A=found.search_resolution_A).noted(*notes)

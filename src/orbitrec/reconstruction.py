"""A map with its poses in Python: what a task on particles returns, and the maps that it is given."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from orbitrec.cryoem.config import SearchConfig
from orbitrec.cryoem.result import PosedMap
from orbitrec.evaluation.fsc import FSC
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import RunFolder, new_run
from orbitrec.report.notebook import notebook_html
from orbitrec.report.run import KnownMap, compared_with_truth, summary_of, write_run
from orbitrec.report.summary import RunKind, Summary

MapLike = Float[Tensor, "n n n"] | Path | str | KnownMap
"""A map: density (z, y, x), dense positive, at the box and pixel size of the particles; or an MRC file of any.
:meth:`orbitrec.report.run.KnownMap.read` reads a file whose header has a wrong voxel size."""


class Poses(NamedTuple):
    """The poses of particles.

    Attributes:
        rotations: (N, 3, 3) RELION's rotation of each.
        shifts_px: (N, 2) displacement (x, y) of its content, in pixels.
    """

    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What :func:`abinitio` and :func:`refine` return. A notebook shows it as pictures and quality checks.

    Attributes:
        particles: the stack.
        config: of the run.
        found: everything that the run found.
        kind: an initial model, or a refined map.
        truth: a true map to compare with, where there is one.
    """

    particles: ParticleStack
    config: SearchConfig
    found: PosedMap
    kind: RunKind
    truth: KnownMap | None = None

    @property
    def map(self) -> Float[Tensor, "n n n"]:
        """Density (z, y, x), dense positive, within the particle's ball, filtered by the half-maps' correlation."""
        return self.found.combined.volume

    @property
    def voxel_size_A(self) -> float:
        """Edge of a voxel in Å."""
        return self.particles.pixel_size_A

    @property
    def half_maps(self) -> tuple[Float[Tensor, "n n n"], Float[Tensor, "n n n"]]:
        """The maps of the two half-sets, neither masked nor filtered."""
        return self.found.combined.half_maps

    @property
    def mask(self) -> Float[Tensor, "n n n"]:
        """Soft mask, 1 where the particle is."""
        return self.found.combined.mask

    @property
    def poses(self) -> Poses:
        """Rotation and shift of every particle."""
        return Poses(self.found.rotations, self.found.shifts_px)

    @property
    def fsc(self) -> FSC:
        """Correlation of the half-maps within the mask, corrected for it (Chen et al. 2013)."""
        return self.found.combined.masked.corrected

    @property
    def checks(self) -> tuple[str, ...]:
        """One sentence for each reason to doubt the result; most results have none."""
        return self.summary.checks

    @cached_property
    def summary(self) -> Summary:
        """The facts of the run, as ``summary.json`` has them."""
        truth = None if self.truth is None else compared_with_truth(self.map, self.voxel_size_A, self.truth)[1]
        return summary_of(self.particles, self.config, self.found, truth)

    def save(self, folder: Path | str) -> Summary:
        """Write the files of the run into a new folder: map, half-maps, mask, posed particles, numbers, report.

        Raises:
            InputError: if the folder holds something already or cannot be made.
            WriteError: if the disk is full.
        """
        with new_run(folder) as run:
            return self.write(run)

    def write(self, run: RunFolder) -> Summary:
        """Write the same files into the folder of a run."""
        return write_run(run, self.particles, self.config, self.found, self.truth, self.kind)

    def __repr__(self) -> str:
        """One line, since a map and thousands of poses are nothing to read."""
        resolution, count = self.found.combined.masked.corrected.cutoff_A(0.143, self.voxel_size_A), len(self.checks)
        told = "no quality check" if count == 0 else f"{count} quality check{'s' * (count > 1)}"
        return (
            f"<{type(self).__name__} of {len(self.particles):,} particles: {self.particles.n}³ voxels of "
            f"{self.voxel_size_A:g} Å, half-maps agree to {resolution:.1f} Å, {told} to read>"
        )

    def _repr_html_(self) -> str:
        return notebook_html(self.map, self.voxel_size_A, self.fsc, self.poses.rotations, self.checks, self.summary)


def noted(found: PosedMap, *maps: KnownMap | None) -> PosedMap:
    """The result, with the notes on the maps that it was made from or is compared with among its checks."""
    notes = [
        f"{note}; if that is wrong, so is what the map was used for." for known in maps if known for note in known.notes
    ]
    return replace(found, checks=[*notes, *found.checks])


def known_map(known: MapLike, stack: ParticleStack) -> KnownMap:
    """A map, brought to the grid of a stack where it is a file.

    Raises:
        InputError: if it cannot be used with these particles.
    """
    if isinstance(known, KnownMap):
        return known
    if isinstance(known, Tensor):
        return KnownMap.given(known, stack)
    return KnownMap.read(Path(known), stack)

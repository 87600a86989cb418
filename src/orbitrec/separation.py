"""Several structures of one stack in Python: what :func:`orbitrec.abinitio` returns where there are ``classes``."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.config import AbInitioConfig
from orbitrec.cryoem.species.pipeline import Separated
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import RunFolder, new_run
from orbitrec.reconstruction import Reconstruction
from orbitrec.report.structures.files import StructuresSummary, structures_summary, write_structures
from orbitrec.report.summary import RunKind


@dataclass(frozen=True, eq=False)
class Structures:
    """Several structures, by falling number of particles.

    Attributes:
        particles: the stack.
        config: of the search of each class.
        asked: how many classes were asked for.
        found: everything that the run found.
    """

    particles: ParticleStack
    config: AbInitioConfig
    asked: int
    found: Separated

    @cached_property
    def classes(self) -> tuple[Reconstruction, ...]:
        """Map and poses of each class's particles."""
        kind = RunKind.INITIAL_MODEL
        return tuple(Reconstruction(each.stack, self.config, each.found, kind) for each in self.found.classes)

    @property
    def members(self) -> Int[Tensor, "N"]:
        """Class of every particle, counted from 0."""
        return self.found.members

    @property
    def posterior(self) -> Float[Tensor, "N c"]:
        """Probability that a particle is of each class, given that it is of one."""
        return self.found.posterior

    @property
    def checks(self) -> tuple[str, ...]:
        """One sentence for each reason to doubt the result."""
        return self.summary.checks

    @cached_property
    def summary(self) -> StructuresSummary:
        """The facts of the run, as ``summary.json`` has them."""
        return structures_summary(self.particles, self.config, self.asked, self.found)

    def save(self, folder: Path | str) -> StructuresSummary:
        """Write the files of the run into a new folder: a run's folder for each class, all particles, numbers, report.

        Raises:
            InputError: if the folder holds something already or cannot be made.
            WriteError: if the disk is full.
        """
        with new_run(folder) as run:
            return self.write(run)

    def write(self, run: RunFolder) -> StructuresSummary:
        """Write the same files into the folder of a run."""
        return write_structures(run, self.particles, self.config, self.summary, self.found)

    def __repr__(self) -> str:
        """One line."""
        counts = ", ".join(f"{len(each.rows):,}" for each in self.found.classes)
        return f"<{type(self).__name__} of {len(self.particles):,} particles: classes of {counts}>"

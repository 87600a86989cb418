"""Two-dimensional classes in Python: :func:`classify2d` and what it returns."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.cryoem.classes.config import ClassesConfig
from orbitrec.cryoem.classes.pipeline import Classification, classified
from orbitrec.cryoem.config import instance
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import RunFolder, new_run
from orbitrec.report.classes import ClassesSummary, classes_summary, write_classes
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Callback, ignore


@dataclass(frozen=True, eq=False)
class Classes:
    """What :func:`classify2d` returns.

    Attributes:
        particles: the stack.
        config: of the run.
        found: everything that the run found.
    """

    particles: ParticleStack
    config: ClassesConfig
    found: Classification

    @property
    def averages(self) -> Float[Tensor, "d n n"]:
        """The averages (y, x) by falling size, corrected for the CTF."""
        return self.found.images

    @property
    def classes(self) -> Int[Tensor, "N"]:
        """Class of every particle, counted from 0."""
        return self.found.classes

    @property
    def probability(self) -> Float[Tensor, "N"]:
        """Posterior probability of that class."""
        return self.found.probability

    @property
    def good(self) -> Bool[Tensor, "d"]:
        """Which classes look like a molecule."""
        return self.found.ranking.good

    @property
    def kept(self) -> Bool[Tensor, "N"]:
        """Which particles are members of good classes."""
        return self.found.kept

    @cached_property
    def summary(self) -> ClassesSummary:
        """The facts of the run, as ``summary.json`` has them."""
        return classes_summary(self.particles, self.config, self.found)

    def save(self, folder: Path | str) -> ClassesSummary:
        """Write the files of the run into a new folder: averages, particles with classes, numbers, report.

        Raises:
            InputError: if the folder holds something already or cannot be made.
            WriteError: if the disk is full.
        """
        with new_run(folder) as run:
            return self.write(run)

    def write(self, run: RunFolder) -> ClassesSummary:
        """Write the same files into the folder of a run."""
        return write_classes(run, self.particles, self.config, self.found)

    def __repr__(self) -> str:
        """One line."""
        return (
            f"<{type(self).__name__} of {len(self.particles):,} particles: {int(self.good.sum())} of {len(self.good)} "
            f"classes are good, with {int(self.kept.sum()):,} particles>"
        )


def classify2d(
    particles: ParticleStack | Path | str,
    config: ClassesConfig | None = None,
    *,
    callback: Callback = ignore,
    checkpoints: Checkpoints | None = None,
) -> Classes:
    """Two-dimensional classes of a particle stack: averages of particles that show one view, and which to keep.

    Args:
        particles: a stack, or the table that lists it with its CTF.
        config: of the classification; every field has a default.
        callback: called with the status of the run whenever work has been done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Returns:
        Averages, members, and which classes look like a molecule.

    Raises:
        InputError: for too few particles, bad images, or a configuration that does not fit the stack.
    """
    stack = particles if isinstance(particles, ParticleStack) else ParticleStack.open(particles)
    config = ClassesConfig() if config is None else config
    instance(ClassesConfig, "a ClassesConfig").check("config", config)
    return Classes(stack, config, classified(stack, config, callback, checkpoints))

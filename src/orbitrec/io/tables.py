"""What any table of particles says, whatever program wrote it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.models.ctf import CTFParameters


@dataclass(frozen=True, eq=False)
class ImageSources:
    """Where N images are: row j is section ``section[j]``, from 0, of the file that ``names[stack[j]]`` means."""

    names: Sequence[str]
    stack: Int[np.ndarray, "N"]
    section: Int[np.ndarray, "N"]


@runtime_checkable
class ParticleTable(Protocol):
    """N particles as a file lists them; reads no image. Lengths are in Å, whatever the file has."""

    @property
    def path(self) -> Path:
        """The file that was read."""
        ...

    @property
    def dialect(self) -> str:
        """Whose format it is, as people call it."""
        ...

    @property
    def suffix(self) -> str:
        """Of the file that :meth:`write_posed` writes."""
        ...

    def __len__(self) -> int:
        """Number of particles."""
        ...

    def sources(self) -> ImageSources:
        """Where the images are."""
        ...

    def pixel_sizes_A(self) -> Float[np.ndarray, "N"]:
        """Pixel size of every image."""
        ...

    def groups(self) -> Int[np.ndarray, "N"]:
        """The optics group of every particle, counted from 0."""
        ...

    def signs(self) -> Float[np.ndarray, "N"]:
        """What an image is to be multiplied by to show dense as bright, as far as the file knows: 1 or −1."""
        ...

    def stated_boxes(self) -> Float[np.ndarray, "N"] | None:
        """Box in pixels that the file states for every image."""
        ...

    def missing_ctf_columns(self) -> list[str]:
        """The columns that a CTF needs and the file does not have."""
        ...

    def ctf(self) -> CTFParameters:
        """CTF parameters of every particle."""
        ...

    def premultiplied(self) -> Bool[np.ndarray, "N"]:
        """Which images have been multiplied by their CTF."""
        ...

    def poses(self) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]] | None:
        """Rotations, and displacements (x, y) of the content in Å; None where the file has no angles."""
        ...

    def halves(self) -> Float[np.ndarray, "N"] | None:
        """The half-set of every particle, which should be 1 or 2; None where the file has not split them."""
        ...

    def ignored_columns(self) -> list[str]:
        """Columns that change how an image is formed and that orbitrec does not model, where they are not neutral."""
        ...

    def write_posed(
        self,
        path: Path | str,
        rotations: Float[Tensor, "N 3 3"],
        shifts_A: Float[Tensor, "N 2"],
        stacks: Sequence[Path],
        halves: Int[Tensor, "N"] | None,
    ) -> None:
        """Write the table again, in its own dialect, with these poses, atomically; all else stays as it is.

        Args:
            path: the file to write.
            rotations: RELION's rotation of every particle.
            shifts_A: displacement (x, y) of every particle's content in Å.
            stacks: the file that each of ``sources().names`` was found to be.
            halves: the half-set of every particle, 1 or 2; left as in the file where None.
        """
        ...

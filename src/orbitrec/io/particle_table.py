"""What every table of particles says, whatever program wrote it: the protocol that its readers implement."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.models.aberrations import Aberrations
from orbitrec.models.ctf import CTFParameters


class Dialect(StrEnum):
    """Whose format a table is in. The values are written to ``summary.json`` and shown to people."""

    RELION_3_0 = "RELION 3.0"
    RELION_3_1 = "RELION 3.1 or later"
    """With optics groups. RELION 3.1, 4 and 5 differ in nothing that is read here."""
    CRYOSPARC = "cryoSPARC"
    MRC_STACK = "image stack"
    """A stack of images without a table."""


@dataclass(frozen=True, eq=False)
class ImageSources:
    """Where the images of N particles are.

    Attributes:
        names: the distinct stack files, as the table names them.
        stack: for every particle, the position of its stack in ``names``.
        section: for every particle, its section in that stack, counted from 0.
    """

    names: Sequence[str]
    stack: Int[np.ndarray, "N"]
    section: Int[np.ndarray, "N"]


@dataclass(frozen=True, eq=False)
class ParticleStatistics:
    """What a run knows of each of N particles beside its pose.

    Images are compared with projections of the map, with their CTF, in units where the noise has variance one.

    Attributes:
        log_likelihood: (N,) of each image, marginal over the poses that were searched, over that of noise alone.
        inlier_probability: (N,) that it is a view of the map.
        max_probability: (N,) largest posterior probability of a pose that was searched: a sample of the orientations
            and displacements.
        significant_samples: (N,) how many such samples make up 99.9 % of the posterior.
        cross_correlation: (N,) inner product of the image and the projection at its refined pose.
        slice_power: (N,) half the square of the projection's norm.
    """

    log_likelihood: Float[Tensor, "N"]
    inlier_probability: Float[Tensor, "N"]
    max_probability: Float[Tensor, "N"]
    significant_samples: Int[Tensor, "N"]
    cross_correlation: Float[Tensor, "N"]
    slice_power: Float[Tensor, "N"]

    @property
    def scale(self) -> Float[Tensor, "N"]:
        """(N,) contrast of each image over that of the map: the factor of its projection that fits best."""
        return self.cross_correlation / (2 * self.slice_power).clamp(min=torch.finfo(self.slice_power.dtype).tiny)

    def subset(self, rows: Int[Tensor, "n"]) -> "ParticleStatistics":
        """Those of the particles ``rows`` alone, in that order."""
        return ParticleStatistics(*(each[rows] for each in vars(self).values()))


@runtime_checkable
class ParticleTable(Protocol):
    """N particles as a file lists them.

    No image is read. Lengths are in Å, angles in degrees and poses in RELION's convention, whatever the file has. Å are
    those of :meth:`pixel_sizes_A`; in the file, origins are in the Å of the pixel size that the file itself states.
    """

    @property
    def path(self) -> Path:
        """The file that was read."""
        ...

    @property
    def dialect(self) -> Dialect:
        """Whose format it is."""
        ...

    @property
    def suffix(self) -> str:
        """Suffix, with its dot, of the file that :meth:`write_posed` writes."""
        ...

    @property
    def companions(self) -> tuple[str, ...]:
        """Suffixes of further files that :meth:`write_posed` and :meth:`write_rows` write beside it."""
        ...

    def __len__(self) -> int:
        """Number of particles."""
        ...

    def sources(self) -> ImageSources:
        """Where the images are; raises an InputError where the table does not say."""
        ...

    def stated_pixel_sizes_A(self) -> Float[np.ndarray, "N"] | None:
        """Pixel size in Å that the file states for every image; None where it states none."""
        ...

    def pixel_sizes_A(self) -> Float[np.ndarray, "N"]:
        """Pixel size of every image in Å: the one that was given, or else the file's."""
        ...

    def groups(self) -> Int[np.ndarray, "N"]:
        """The optics group of every particle, counted from 0."""
        ...

    def signs(self) -> Float[np.ndarray, "N"]:
        """Factor, 1 or −1, that makes dense matter bright in each image, as far as the file knows."""
        ...

    def stated_boxes(self) -> Float[np.ndarray, "N"] | None:
        """Box in pixels that the file states for every image; None where it states none."""
        ...

    def missing_ctf_columns(self) -> list[str]:
        """Names of the columns that a CTF needs and the file does not have."""
        ...

    def ctf(self) -> CTFParameters:
        """CTF parameters of every particle; raises an InputError where columns are missing or values cannot be."""
        ...

    def aberrations(self) -> Aberrations | None:
        """What the CTF leaves out, of each optics group; None where the file states nothing of the kind.

        Raises an InputError where values are not numbers.
        """
        ...

    def doubtful_values(self) -> list[str]:
        """One sentence for each column of the CTF that is possible and yet looks like one in another unit."""
        ...

    def premultiplied(self) -> Bool[np.ndarray, "N"]:
        """Which images have already been multiplied by their CTF."""
        ...

    def phase_flipped(self) -> Bool[np.ndarray, "N"]:
        """Which images have had their phases flipped: multiplied by the sign of their CTF."""
        ...

    def poses(self) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]] | None:
        """Rotations, and displacements (x, y) of the images' content in Å; None where the file has no angles."""
        ...

    def halves(self) -> Float[np.ndarray, "N"] | None:
        """Half-set of every particle, which should be 1 or 2; None where the file does not split the particles.

        A file in which all particles have one value does not split them: programs write such columns before a split.
        """
        ...

    def ignored_columns(self) -> list[str]:
        """Columns that change how an image is formed and that orbitrec does not model, where they are not neutral."""
        ...

    def write_posed(
        self,
        path: Path | str,
        rotations: Float[Tensor, "N 3 3"],
        shifts_A: Float[Tensor, "N 2"],
        stacks: Sequence[Path] | None,
        halves: Int[Tensor, "N"] | None,
        rows: Int[Tensor, "N"] | None = None,
        statistics: ParticleStatistics | None = None,
    ) -> None:
        """Write the table again with these poses, in its own dialect and atomically; everything else is kept.

        Args:
            path: the file to write.
            rotations: rotation matrix of every particle, in RELION's convention.
            shifts_A: displacement (x, y) of every particle's content in Å.
            stacks: the stack file found for each of ``sources().names``; None keeps the names.
            halves: half-set of every particle, 1 or 2; None keeps those of the file.
            rows: the rows that are written, ascending, as often as named; the poses are theirs. None writes all.
            statistics: what else is known of every particle; None adds no columns.
        """
        ...

    def write_rows(self, path: Path | str, rows: Int[Tensor, "K"]) -> None:
        """Write some of the particles in the table's own dialect and atomically, with all their columns as they are.

        Args:
            path: the file to write.
            rows: which particles, counted from 0, in increasing order.
        """
        ...

    def identities(self) -> Mapping[str, Sequence[Hashable]]:
        """What the particles can be told from others by, the surest first: its name → a value for every particle.

        Where images are is not among them; it is what is left where two tables have nothing of this in common.
        """
        ...


def require_new(path: Path, table: ParticleTable) -> None:
    """Refuse to write a table where it would replace a file, itself or one that is written beside it.

    Raises:
        InputError: if there is such a file.
    """
    for file in (path, *map(path.with_suffix, table.companions)):
        if file.exists():
            raise InputError(f"{file} exists already; choose another `output`")


def split_or_none(values: Float[np.ndarray, "N"] | None) -> Float[np.ndarray, "N"] | None:
    """A column of half-sets, and None where there is none or all particles have one value in it."""
    return None if values is None or (values == values[0]).all() else values


def given_or_stated_pixel_A(table: ParticleTable, given_A: float | None, column: str) -> Float[np.ndarray, "N"]:
    """The pixel size in Å of every image.

    Args:
        table: the particles.
        given_A: pixel size of all images, instead of the table's.
        column: what the table calls it.

    Returns:
        The pixel size that was given, or else those of the table.

    Raises:
        InputError: if there is neither.
    """
    if given_A is not None:
        return np.full(len(table), given_A)
    sizes = table.stated_pixel_sizes_A()
    if sizes is None:
        raise InputError(f"{table.path} gives no pixel size ({column}); give it in Å as `pixel_size_A`")
    return sizes


def given_over_stated_pixel(table: ParticleTable) -> Float[np.ndarray, "N"]:
    """The pixel size that was given for each image over the one that the file states; ones where the file's is used.

    Other programs read origins in Å with the pixel size beside them, so that is what a file's Å are.
    """
    try:
        stated = table.stated_pixel_sizes_A()
    except InputError:  # not a number, or none that can be: nobody can count with it
        stated = None
    return np.ones(len(table)) if stated is None else table.pixel_sizes_A() / stated

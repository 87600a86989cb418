"""A stack of particle images without a table: all that is known of the particles is their pixel size."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.mrc import read_header
from orbitrec.io.particle_table import Dialect, ImageSources, ParticleStatistics
from orbitrec.io.relion_tables import particle_tables, statistics_columns
from orbitrec.io.star import write_star
from orbitrec.models.ctf import CTFParameters


@dataclass(frozen=True)
class MrcStack:
    """Every image of an MRC stack as a particle; posed particles are written as RELION 3.1 tables.

    Attributes:
        path: the stack.
        count: number of images.
        box: pixels along an edge of an image.
        pixel_size_A: in Å.
    """

    path: Path
    count: int
    box: int
    pixel_size_A: float
    dialect: Dialect = Dialect.MRC_STACK
    suffix: str = ".star"
    companions: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path | str, pixel_size_A: float | None = None) -> "MrcStack":
        """Read the header of a stack.

        Args:
            path: the stack.
            pixel_size_A: pixel size in Å, instead of the header's.

        Raises:
            InputError: if it is not an MRC stack, or neither its header nor ``pixel_size_A`` gives a pixel size.
        """
        header = read_header(path)
        if header.is_map:
            raise InputError(f"{path} is a map and not a stack of images; give particles, or call a stack .mrcs")
        size = header.voxel_size_A if pixel_size_A is None else pixel_size_A
        if size is None:
            raise InputError(f"the header of {path} gives no pixel size; give it in Å as `pixel_size_A`")
        return cls(Path(path), header.shape[0], header.shape[2], size)

    def __len__(self) -> int:
        return self.count

    def sources(self) -> ImageSources:
        """All sections in order."""
        return ImageSources([self.path.name], np.zeros(self.count, dtype=np.int64), np.arange(self.count))

    def stated_pixel_sizes_A(self) -> Float[np.ndarray, "N"]:
        """That of the tables that are written, which state the pixel size that was given."""
        return self.pixel_sizes_A()

    def pixel_sizes_A(self) -> Float[np.ndarray, "N"]:
        """The pixel size that was given, or else the header's."""
        return np.full(self.count, self.pixel_size_A)

    def groups(self) -> Int[np.ndarray, "N"]:
        """One optics group for all images."""
        return np.zeros(self.count, dtype=np.int64)

    def signs(self) -> Float[np.ndarray, "N"]:
        """Ones: a stack does not say whether dense matter is dark."""
        return np.ones(self.count)

    def stated_boxes(self) -> None:
        """None: a stack states no box besides its own."""

    def missing_ctf_columns(self) -> list[str]:
        """The whole CTF: a stack has none of its parameters."""
        return ["CTF"]

    def ctf(self) -> CTFParameters:
        """A stack has no CTF parameters.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.path} is a stack without a table and says nothing of a CTF; give its STAR file, or `ctf=False` for "
            "images without CTF"
        )

    def aberrations(self) -> None:
        """None: a stack says nothing of aberrations."""

    def doubtful_values(self) -> list[str]:
        """An empty list: a stack has no values."""
        return []

    def premultiplied(self) -> Bool[np.ndarray, "N"]:
        """False for every image: a stack does not say that its images were multiplied by a CTF."""
        return np.zeros(self.count, dtype=bool)

    def phase_flipped(self) -> Bool[np.ndarray, "N"]:
        """False for every image: a stack does not say that its phases were flipped."""
        return np.zeros(self.count, dtype=bool)

    def poses(self) -> None:
        """None: a stack has no poses."""

    def halves(self) -> None:
        """None: a stack is not split into half-sets."""

    def ignored_columns(self) -> list[str]:
        """An empty list: a stack has no columns."""
        return []

    def identities(self) -> Mapping[str, Sequence[Hashable]]:
        """Nothing: a stack knows no more of an image than where it is."""
        return {}

    def write_posed(
        self,
        path: Path | str,
        rotations: Float[Tensor, "N 3 3"],
        shifts_A: Float[Tensor, "N 2"],
        stacks: Sequence[Path] | None,
        halves: Int[Tensor, "N"] | None = None,
        rows: Int[Tensor, "N"] | None = None,
        statistics: ParticleStatistics | None = None,
    ) -> None:
        """Write the particles as RELION 3.1 tables.

        Args:
            path: the file to write.
            rotations: rotation matrix of every particle, in RELION's convention.
            shifts_A: displacement (x, y) of every particle's content in Å.
            stacks: the stack file found for each of ``sources().names``; None keeps the name.
            halves: half-set of every particle, 1 or 2; no column where None.
            rows: the images that are written, ascending; the poses are those of these. None writes all.
            statistics: what else is known of every particle; None adds no columns.
        """
        shifts_px, name = shifts_A / self.pixel_size_A, self.path.name if stacks is None else str(stacks[0])
        tables = particle_tables(
            name, len(rotations), self.box, self.pixel_size_A, rotations=rotations, shifts_px=shifts_px
        )
        if rows is not None:
            tables["particles"]["rlnImageName"] = [f"{row + 1:06d}@{name}" for row in rows.tolist()]
        if halves is not None:
            tables["particles"]["rlnRandomSubset"] = halves.tolist()
        if statistics is not None:
            tables["particles"] = pd.DataFrame(tables["particles"]).assign(**statistics_columns(statistics))
        write_star(path, tables)

    def write_rows(self, path: Path | str, rows: Int[Tensor, "K"]) -> None:
        """Write some of the images as RELION 3.1 tables."""
        tables = particle_tables(str(self.path.absolute()), self.count, self.box, self.pixel_size_A)
        write_star(path, tables | {"particles": pd.DataFrame(tables["particles"]).iloc[rows.tolist()]})

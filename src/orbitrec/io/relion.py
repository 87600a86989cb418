"""RELION's particle STAR files, 3.0 to 5."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.rotations import euler_to_matrix
from orbitrec.io.aberrations import RELION_COLUMNS, relion_aberrations
from orbitrec.io.particle_table import (
    Dialect,
    ImageSources,
    ParticleStatistics,
    given_or_stated_pixel_A,
    given_over_stated_pixel,
    split_or_none,
)
from orbitrec.io.physics import checked_pixel_sizes_A, ctf_of_columns, doubtful_values
from orbitrec.io.relion_tables import (
    ANGLE_COLUMNS,
    CTF_COLUMNS,
    ORIGIN_COLUMNS_A,
    ORIGIN_COLUMNS_PX,
    angle_columns,
    origin_columns,
    parsed_image_names,
    statistics_columns,
    without_format,
)
from orbitrec.io.star import Blocks, read_star, rewrite_loop
from orbitrec.models.aberrations import Aberrations
from orbitrec.models.ctf import CTFParameters

# Value at which each changes nothing; Zernike coefficients are lists and always count.
_UNMODELLED = {
    **dict.fromkeys(["rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike", "rlnCtfBfactor"], 0.0),
    **dict.fromkeys(["rlnMagMat01", "rlnMagMat10"], 0.0),
    **dict.fromkeys(["rlnMagMat00", "rlnMagMat11", "rlnCtfScalefactor"], 1.0),
}


@dataclass(frozen=True, eq=False)
class RelionTable:
    """The N rows of a particle STAR file.

    A value is looked up in the particle's row and then, by its optics group, in the optics table.

    Attributes:
        path: the file.
        blocks: all its blocks.
        block_name: the block that lists the particles.
        given_pixel_size_A: pixel size in Å that replaces the file's; None keeps the file's.
    """

    path: Path
    blocks: Blocks
    block_name: str
    given_pixel_size_A: float | None = None
    suffix: str = ".star"
    companions: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path | str, pixel_size_A: float | None = None) -> "RelionTable":
        """Read a STAR file with a RELION 3.1 ``particles`` block or a RELION 3.0 single block.

        Args:
            path: the STAR file.
            pixel_size_A: pixel size of all images in Å, instead of the file's.

        Raises:
            InputError: if there is no such file, it is malformed, has no particle, no ``rlnImageName``, or lists
                volumes or tilt series instead of images.
        """
        table = cls.with_column("rlnImageName", path, pixel_size_A)
        if table is None:
            raise InputError(f"{path} has no rlnImageName column; give the STAR file of a particle stack")
        if len(table) == 0:
            raise InputError(f"{path} lists no particles: its table is empty")
        dimensions = table.numbers("rlnImageDimensionality")
        if dimensions is not None and (dimensions != 2).any():
            raise InputError(f"{path} lists subtomograms; give a table of two-dimensional particle images")
        # RELION 5: a row without ``index@`` is a stack of the images of one particle at all tilts. A tilt image by
        # itself is a particle image like any other, and tables of those are read.
        if "rlnTomoName" in table.particles and not all("@" in str(image) for image in table.particles["rlnImageName"]):
            raise InputError(
                f"{path} lists stacks of the tilt images of {len(table)} particles, whose tilts and defocus are in the "
                "table of tomograms; give a table with a row, index@stack and defocus for each tilt image"
            )
        return table

    @classmethod
    def with_column(cls, column: str, path: Path | str, pixel_size_A: float | None = None) -> "RelionTable | None":
        """The block of a STAR file that has this column, ``particles`` before others; None where no block has it.

        Args:
            column: name of the column, without its underscore.
            path: the STAR file.
            pixel_size_A: pixel size of all images in Å, instead of the file's.

        Returns:
            A table of that block; it may be empty.

        Raises:
            InputError: if there is no such file or it is malformed.
        """
        blocks = {name: _table(block) for name, block in read_star(path).items()}
        named = [name for name, table in blocks.items() if column in table]
        if not named:
            return None
        return cls(Path(path), {**blocks}, "particles" if "particles" in named else named[0], pixel_size_A)

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def dialect(self) -> Dialect:
        """RELION 3.0, or 3.1 and later where there are optics groups."""
        return Dialect.RELION_3_0 if self.optics is None else Dialect.RELION_3_1

    @property
    def particles(self) -> pd.DataFrame:
        """The particle rows as in the file."""
        return _table(self.blocks[self.block_name])

    @property
    def optics(self) -> pd.DataFrame | None:
        """The optics groups as in the file, None in the RELION 3.0 dialect."""
        return _table(self.blocks["optics"]) if "optics" in self.blocks and self.block_name != "optics" else None

    def groups(self) -> Int[np.ndarray, "N"]:
        """Position of each particle's group in the optics table; all 0 in the RELION 3.0 dialect.

        Raises:
            InputError: if a particle's group is not in the optics table.
        """
        return self._group if self.optics is not None else np.zeros(len(self), dtype=np.int64)

    @cached_property
    def _group(self) -> np.ndarray:
        assert self.optics is not None
        if "rlnOpticsGroup" not in self.particles or "rlnOpticsGroup" not in self.optics:
            if len(self.optics) == 1:
                return np.zeros(len(self), dtype=np.int64)
            raise InputError(f"{self.path} has several optics groups but no rlnOpticsGroup column to choose by")
        listed = pd.Index(self.optics["rlnOpticsGroup"])
        if not listed.is_unique:
            raise InputError(f"{self.path}: the optics table has a group twice; number its groups differently")
        position = listed.get_indexer(pd.Index(self.particles["rlnOpticsGroup"]))
        if (position < 0).any():
            row = int(np.argmax(position < 0))
            group = self.particles["rlnOpticsGroup"].iloc[row]
            raise InputError(f"{self.path}: row {row + 1} is in optics group {group}, which the optics table lacks")
        return np.asarray(position, dtype=np.int64)

    def _column(self, column: str) -> pd.Series | None:
        """One value per particle, as in the file."""
        if column in self.particles:
            return pd.Series(self.particles[column])
        if self.optics is not None and column in self.optics:
            return pd.Series(self.optics[column].iloc[self._group])
        return None

    def numbers(self, column: str) -> Float[np.ndarray, "N"] | None:
        """The N values (float64) of ``column``, or None where neither table has it.

        Raises:
            InputError: if a value is not a finite number.
        """
        source = self._column(column)
        if source is None:
            return None
        values = np.array(pd.to_numeric(source, errors="coerce"), dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            found = source.iloc[bad[0]]
            raise InputError(f"{self.path}: {column} of row {bad[0] + 1} is {found}, not a number; correct it")
        return values

    def sources(self) -> ImageSources:
        """Distinct stack names, and each row's stack and section; a name without ``index@`` is its first image.

        Raises:
            InputError: if an image's name is not of the form ``index@stack``, counts from 0, or names another format.
        """
        index, name, codes = self._images
        return ImageSources([without_format(each) for each in name], codes, index - 1)

    @cached_property
    def _images(self) -> tuple[Int[np.ndarray, "N"], list[str], Int[np.ndarray, "N"]]:
        """Index of every image in its stack, counted from 1; distinct names of stacks; which of them each row has."""
        return parsed_image_names(self.path, [str(image) for image in self.particles["rlnImageName"]])

    def stated_pixel_sizes_A(self) -> Float[np.ndarray, "N"] | None:
        """Pixel sizes in Å from ``rlnImagePixelSize``, or else from detector pixel size and magnification.

        Raises:
            InputError: if the file gives one that cannot be.
        """
        sizes, column = self.numbers("rlnImagePixelSize"), "rlnImagePixelSize"
        detector_um, magnification = self.numbers("rlnDetectorPixelSize"), self.numbers("rlnMagnification")
        if sizes is None and detector_um is not None and magnification is not None and (magnification > 0).all():
            sizes, column = detector_um * 1e4 / magnification, "rlnDetectorPixelSize over rlnMagnification"
        if sizes is None:
            return None
        return checked_pixel_sizes_A(self.path, sizes, column)

    def pixel_sizes_A(self) -> Float[np.ndarray, "N"]:
        """The pixel size that was given, or else the file's.

        Raises:
            InputError: if there is neither, or the file gives one that cannot be.
        """
        return given_or_stated_pixel_A(self, self.given_pixel_size_A, "rlnImagePixelSize")

    def signs(self) -> Float[np.ndarray, "N"]:
        """Ones: RELION's files do not say whether dense matter is dark."""
        return np.ones(len(self))

    def stated_boxes(self) -> Float[np.ndarray, "N"] | None:
        """Boxes in pixels from ``rlnImageSize``; None where there is no such column."""
        return self.numbers("rlnImageSize")

    def missing_ctf_columns(self) -> list[str]:
        """Names of the columns that a CTF needs and the file does not have."""
        optics = [] if self.optics is None else self.optics.columns
        return [name for name in CTF_COLUMNS.values() if name not in self.particles and name not in optics]

    def ctf(self) -> CTFParameters:
        """CTF parameters of the N particles (``rlnPhaseShift`` is 0 where absent).

        Raises:
            InputError: if columns are missing, or a value cannot be.
        """
        missing = self.missing_ctf_columns()
        if missing:
            raise InputError(
                f"{self.path} has no CTF columns {', '.join(missing)}; add them, or use `ctf=False` for images without "
                "CTF"
            )
        values = {name: self.numbers(column) for name, column in CTF_COLUMNS.items()}
        phase_shift = self.numbers("rlnPhaseShift")
        values["phase_shift_deg"] = np.zeros(len(self)) if phase_shift is None else phase_shift
        return ctf_of_columns(self.path, {name: v for name, v in values.items() if v is not None}, CTF_COLUMNS)

    def aberrations(self) -> Aberrations | None:
        """Beam tilt, Zernike terms and magnification, of each optics group; None where there are no such columns.

        Raises:
            InputError: if a value is not a number.
        """
        named = {name: self._column(name) for name in (*RELION_COLUMNS, "rlnVoltage", "rlnSphericalAberration")}
        columns = {name: values.to_numpy() for name, values in named.items() if values is not None}
        return relion_aberrations(self.path, columns, self.groups())

    def doubtful_values(self) -> list[str]:
        """One sentence for each column of the CTF that looks like one in another unit."""
        return [] if self.missing_ctf_columns() else doubtful_values(self.ctf(), CTF_COLUMNS)

    def premultiplied(self) -> Bool[np.ndarray, "N"]:
        """Which images are marked by ``rlnCtfDataAreCtfPremultiplied``."""
        return self._flag("rlnCtfDataAreCtfPremultiplied")

    def phase_flipped(self) -> Bool[np.ndarray, "N"]:
        """Which images are marked by ``rlnCtfDataArePhaseFlipped``."""
        return self._flag("rlnCtfDataArePhaseFlipped")

    def _flag(self, column: str) -> Bool[np.ndarray, "N"]:
        flags = self.numbers(column)
        return np.zeros(len(self), dtype=bool) if flags is None else flags != 0

    def poses(self) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]] | None:
        """Rotations, and displacements (x, y) of the content in Å; None where the file has no angles.

        Content sits at minus RELION's origin; without origin columns it is not displaced.
        """
        angles = self._number_columns(ANGLE_COLUMNS)
        if angles is None:
            return None
        origins_A, origins_px = self._number_columns(ORIGIN_COLUMNS_A), self._number_columns(ORIGIN_COLUMNS_PX)
        if origins_A is not None:
            origins_A = origins_A * given_over_stated_pixel(self)[:, None]
        else:
            origins_A = np.zeros((len(self), 2)) if origins_px is None else origins_px * self.pixel_sizes_A()[:, None]
        return euler_to_matrix(torch.from_numpy(angles)), -torch.from_numpy(origins_A)

    def _number_columns(self, columns: Sequence[str]) -> np.ndarray | None:
        """Several columns side by side, None unless all are there."""
        values = [self.numbers(column) for column in columns]
        present = [value for value in values if value is not None]
        return np.stack(present, axis=1) if len(present) == len(values) else None

    def halves(self) -> Float[np.ndarray, "N"] | None:
        """Half-sets from ``rlnRandomSubset``; None without it, or where all particles have one value in it."""
        return split_or_none(self.numbers("rlnRandomSubset"))

    def ignored_columns(self) -> list[str]:
        """Columns that change how an image is formed and that orbitrec does not model, where they are not neutral."""
        found = []
        for column, neutral in _UNMODELLED.items():
            values = self._column(column)
            if values is not None and np.any(np.asarray(pd.to_numeric(values, errors="coerce")) != neutral):
                found.append(column)
        return found

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
        """Write the table with these poses.

        Images are named by absolute path: RELION resolves names from the folder it is started in, not from that of
        the STAR file, so no relative name would work both there and here.

        Args:
            path: the file to write.
            rotations: rotation matrix of every particle, in RELION's convention.
            shifts_A: displacement (x, y) of every particle's content in Å.
            stacks: the stack file found for each of ``sources().names``; None keeps the names.
            halves: half-set of every particle, 1 or 2; None keeps those of the file.
            rows: the rows that are written, ascending, as often as named; the poses are theirs. None writes all.
            statistics: what else is known of every particle; None adds no columns.
        """
        at = np.arange(len(self)) if rows is None else rows.numpy()
        columns: dict[str, list[str]] = {}
        if stacks is not None:
            index, names, stack = self._images
            resolved = [f"{path}{name[len(without_format(name)) :]}" for path, name in zip(stacks, names, strict=True)]
            places = zip(index[at], stack[at], strict=True)
            columns["rlnImageName"] = [f"{image:06d}@{resolved[which]}" for image, which in places]
        shifts_px = shifts_A.detach().cpu().double() / torch.from_numpy(self.pixel_sizes_A()[at])[:, None]
        stated_A = shifts_A.detach().cpu().double() / torch.from_numpy(given_over_stated_pixel(self)[at])[:, None]
        values = angle_columns(rotations)
        for names, shifts, needed in (
            (ORIGIN_COLUMNS_A, stated_A, self.optics is not None),
            (ORIGIN_COLUMNS_PX, shifts_px, self.optics is None),
        ):
            # Where the other pair is there too it is kept consistent: readers differ in which they prefer.
            if needed or set(names) <= set(self.particles.columns):
                values |= origin_columns(shifts, in_angstrom=names is ORIGIN_COLUMNS_A)
        values |= {} if statistics is None else statistics_columns(statistics)
        for name, column in values.items():
            columns[name] = [f"{value:.6f}" if column.dtype.kind == "f" else str(value) for value in column]
        if halves is not None:
            columns["rlnRandomSubset"] = [str(half) for half in halves.tolist()]
        self._rewrite(path, columns, at)

    def write_rows(self, path: Path | str, rows: Int[Tensor, "K"]) -> None:
        """Write some of the particles; every character of their rows and of the other blocks is kept."""
        self._rewrite(path, {}, rows.numpy())

    def _rewrite(self, path: Path | str, columns: dict[str, list[str]], rows: Int[np.ndarray, "K"]) -> None:
        """Write these rows with these columns changed or added."""
        rewrite_loop(self.path, path, self.block_name, columns, np.bincount(rows, minlength=len(self)).tolist())

    def identities(self) -> Mapping[str, Sequence[Hashable]]:
        """Micrograph and coordinates, where the table has them: boxes of any size at one place hold one particle."""
        names, places = self._column("rlnMicrographName"), self._number_columns(["rlnCoordinateX", "rlnCoordinateY"])
        if names is None or places is None:
            return {}
        files = (Path(str(name)).name for name in names)
        return {
            "micrograph and coordinates": [
                (name, *place) for name, place in zip(files, places.round(2).tolist(), strict=True)
            ]
        }


def _table(block: pd.DataFrame | dict) -> pd.DataFrame:
    if isinstance(block, pd.DataFrame):
        return block
    # Objects, since strings of pandas cannot hold bytes that are not UTF-8.
    return pd.DataFrame([[*block.values()]], columns=pd.Index([*block], dtype=object), dtype=object)

"""What a particle STAR file says of its particles, in the dialects of RELION 3.0 and 3.1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.rotations import euler_to_matrix, matrix_to_euler
from orbitrec.io.star import Blocks, read_star, write_star
from orbitrec.models.ctf import CTFParameters

CTF_COLUMNS = {
    "defocus_u_A": "rlnDefocusU",
    "defocus_v_A": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
    "voltage_kV": "rlnVoltage",
    "cs_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
}
ANGLE_COLUMNS = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGIN_COLUMNS_A = ["rlnOriginXAngst", "rlnOriginYAngst"]
ORIGIN_COLUMNS_PX = ["rlnOriginX", "rlnOriginY"]
PREPARED_COLUMNS = ["rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped"]
# Value at which each changes nothing; Zernike coefficients are lists and always count.
_UNMODELLED = {
    **dict.fromkeys(["rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike", "rlnCtfBfactor"], 0.0),
    **dict.fromkeys(["rlnMagMat01", "rlnMagMat10"], 0.0),
    **dict.fromkeys(["rlnMagMat00", "rlnMagMat11", "rlnCtfScalefactor"], 1.0),
}


@dataclass(frozen=True, eq=False)
class ParticleTable:
    """The N rows of a particle STAR file; reads no image.

    A value is looked up in the particle's row and then, by its optics group, in the optics table.
    """

    path: Path
    blocks: Blocks
    block_name: str

    @classmethod
    def read(cls, path: Path | str) -> "ParticleTable":
        """Read a STAR file with a RELION 3.1 ``particles`` block or a RELION 3.0 single block.

        Raises:
            InputError: if there is no such file, it is malformed, has no particle or no ``rlnImageName``.
        """
        path = Path(path)
        blocks = {name: _table(block) for name, block in read_star(path).items()}
        named = [name for name, table in blocks.items() if "rlnImageName" in table]
        if not named:
            raise InputError(f"{path} has no rlnImageName column; give the STAR file of a particle stack")
        table = cls(path, {**blocks}, "particles" if "particles" in named else named[0])
        if len(table) == 0:
            raise InputError(f"{path} lists no particles: its table is empty")
        return table

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def particles(self) -> pd.DataFrame:
        """The particle rows as in the file."""
        return _table(self.blocks[self.block_name])

    @property
    def optics(self) -> pd.DataFrame | None:
        """The optics groups as in the file, None in the RELION 3.0 dialect."""
        return _table(self.blocks["optics"]) if "optics" in self.blocks else None

    @cached_property
    def _group(self) -> np.ndarray:
        """Position of each particle's group in the optics table."""
        assert self.optics is not None
        if "rlnOpticsGroup" not in self.particles or "rlnOpticsGroup" not in self.optics:
            if len(self.optics) == 1:
                return np.zeros(len(self), dtype=np.int64)
            raise InputError(f"{self.path} has several optics groups but no rlnOpticsGroup column to choose by")
        position = pd.Index(self.optics["rlnOpticsGroup"]).get_indexer(pd.Index(self.particles["rlnOpticsGroup"]))
        if (position < 0).any():
            row = int(np.argmax(position < 0))
            group = self.particles["rlnOpticsGroup"].iloc[row]
            raise InputError(f"{self.path}: row {row + 1} is in optics group {group}, which the optics table lacks")
        return position

    def _column(self, column: str) -> pd.Series | None:
        """One value per particle, as in the file."""
        if column in self.particles:
            return pd.Series(self.particles[column])
        if self.optics is not None and column in self.optics:
            return pd.Series(self.optics[column].iloc[self._group])
        return None

    def numbers(self, column: str) -> np.ndarray | None:
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

    @cached_property
    def pixel_size_A(self) -> float:
        """Pixel size in Å, from ``rlnImagePixelSize`` or else detector pixel size and magnification.

        Raises:
            InputError: if the file gives none, one that is not positive, or several.
        """
        sizes = self.numbers("rlnImagePixelSize")
        detector_um, magnification = self.numbers("rlnDetectorPixelSize"), self.numbers("rlnMagnification")
        if sizes is None and detector_um is not None and magnification is not None and (magnification > 0).all():
            sizes = detector_um * 1e4 / magnification
        if sizes is None:
            raise InputError(f"{self.path} gives no pixel size; add an rlnImagePixelSize column (in Å)")
        if sizes.min() <= 0:
            raise InputError(f"{self.path} gives a pixel size of {sizes.min():g} Å; it must be positive")
        if sizes.max() - sizes.min() > 1e-4 * sizes.min():
            raise InputError(
                f"{self.path} mixes pixel sizes from {sizes.min():g} to {sizes.max():g} Å;"
                " only one is supported, so rescale the images or split the file by optics group"
            )
        return round(float(sizes[0]), 6)

    def missing_ctf_columns(self) -> list[str]:
        """The columns that a CTF needs and the file does not have."""
        optics = [] if self.optics is None else self.optics.columns
        return [name for name in CTF_COLUMNS.values() if name not in self.particles and name not in optics]

    def ctf(self) -> CTFParameters:
        """CTF parameters of the N particles (``rlnPhaseShift`` is 0 where absent).

        Raises:
            InputError: if columns are missing, or the images are phase-flipped or multiplied by their CTF already.
        """
        missing = self.missing_ctf_columns()
        if missing:
            raise InputError(
                f"{self.path} has no CTF columns {', '.join(missing)}; add them, or use --no-ctf for images without CTF"
            )
        for column in PREPARED_COLUMNS:
            flags = self.numbers(column)
            if flags is not None and flags.any():
                raise InputError(f"{self.path}: {column} is set; extract the particles anew without changing their CTF")
        columns = {name: self.numbers(column) for name, column in CTF_COLUMNS.items()}
        phase_shift = self.numbers("rlnPhaseShift")
        columns["phase_shift_deg"] = np.zeros(len(self)) if phase_shift is None else phase_shift
        return CTFParameters(**{name: torch.from_numpy(values) for name, values in columns.items()})

    def poses(self) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]] | None:
        """Rotations, and displacements (x, y) of the content in pixels; None where the file has no angles.

        Content sits at minus RELION's origin; without origin columns it is not displaced.
        """
        angles = self._number_columns(ANGLE_COLUMNS)
        if angles is None:
            return None
        origins_A, origins_px = self._number_columns(ORIGIN_COLUMNS_A), self._number_columns(ORIGIN_COLUMNS_PX)
        if origins_A is not None:
            origins_px = origins_A / self.pixel_size_A
        elif origins_px is None:
            origins_px = np.zeros((len(self), 2))
        return euler_to_matrix(torch.from_numpy(angles)), -torch.from_numpy(origins_px)

    def _number_columns(self, columns: Sequence[str]) -> np.ndarray | None:
        """Several columns side by side, None unless all are there."""
        values = [self.numbers(column) for column in columns]
        present = [value for value in values if value is not None]
        return np.stack(present, axis=1) if len(present) == len(values) else None

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
        shifts_px: Float[Tensor, "N 2"],
        image_names: Sequence[str],
        extra: Mapping[str, Sequence[object] | np.ndarray] | None = None,
    ) -> None:
        """Write the file again, in its own dialect, with these poses, image names and ``extra`` columns.

        Everything else (rows, their order, other columns and blocks) is kept.
        """
        particles = self.particles.copy()
        particles["rlnImageName"] = list(image_names)
        set_poses(particles, rotations, shifts_px, self.pixel_size_A, in_angstrom=self.optics is not None)
        for column, values in (extra or {}).items():
            particles[column] = values
        write_star(path, {**self.blocks, self.block_name: particles})


def set_poses(
    particles: pd.DataFrame,
    rotations: Float[Tensor, "N 3 3"],
    shifts_px: Float[Tensor, "N 2"],
    pixel_size_A: float,
    in_angstrom: bool = True,
) -> None:
    """Set RELION's angle and origin columns of ``particles``.

    Origins are written in Å (RELION 3.1) or in pixels (RELION 3.0); where the other pair is there too, it is kept
    consistent, since readers differ in which they prefer.
    """
    angles = matrix_to_euler(rotations.detach().cpu().double()).numpy()
    for column, values in zip(ANGLE_COLUMNS, angles.T, strict=True):
        particles[column] = values.round(6)
    origins_px = -shifts_px.detach().cpu().double().numpy() + 0.0  # + 0.0 turns -0.0 into 0.0
    for columns, scale, wanted in (
        (ORIGIN_COLUMNS_A, pixel_size_A, in_angstrom),
        (ORIGIN_COLUMNS_PX, 1.0, not in_angstrom),
    ):
        if wanted or set(columns) <= set(particles.columns):
            for column, values in zip(columns, origins_px.T, strict=True):
                particles[column] = (values * scale).round(6)


def _table(block: pd.DataFrame | dict) -> pd.DataFrame:
    return block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])

"""Particle stacks: images read from disk as they are asked for, with their CTF and poses; and writing new ones."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.mrc import MrcHeader, read_header
from orbitrec.io.particle_table import CTF_COLUMNS, ParticleTable, set_poses
from orbitrec.io.star import Blocks
from orbitrec.models.ctf import CTFParameters

Indices = Int[Tensor, "b"] | Int[np.ndarray, "b"] | Sequence[int] | slice


@dataclass(frozen=True, eq=False)
class ParticleStack:
    """N particle images of n × n pixels that a STAR file lists; they stay on disk until asked for."""

    table: ParticleTable
    ctf: CTFParameters | None
    """None where the CTF is to be ignored."""
    stacks: tuple[MrcHeader, ...]
    stack_of_row: Int[np.ndarray, "N"]
    section_of_row: Int[np.ndarray, "N"]
    """Row j is section ``section_of_row[j]``, counted from 0, of ``stacks[stack_of_row[j]]``."""

    @classmethod
    def from_star(cls, path: Path | str, *, datadir: Path | None = None, ctf: bool = True) -> "ParticleStack":
        """Open the stack that a RELION 3.0 or 3.1 STAR file lists.

        A stack file is looked for beside the STAR file, in ``datadir`` (by its path, then by its name alone) and in
        the working directory. Every stack's header is read and checked; no image is read.

        Args:
            path: the STAR file.
            datadir: another folder that holds the stacks.
            ctf: whether to read the CTF columns.

        Raises:
            InputError: if the STAR file is missing, malformed or empty, gives no pixel size or several, or lacks CTF
                columns while ``ctf`` is set; if a stack is missing, truncated or shorter than the STAR file says, or
                has images that are not square or not of one size.
        """
        table = ParticleTable.read(path)
        table.pixel_size_A  # noqa: B018  raised before any stack is opened
        parameters = table.ctf() if ctf else None
        names, stack_of_row, section_of_row = _parse_image_names(table)
        stacks = tuple(
            read_header(_locate(name, table.path, datadir, row=int(np.argmax(stack_of_row == index)) + 1))
            for index, name in enumerate(names)
        )
        stack = cls(table, parameters, stacks, stack_of_row, section_of_row)
        stack._check_sections()
        stack._check_boxes()
        return stack

    def __len__(self) -> int:
        return len(self.table)

    @property
    def n(self) -> int:
        """Pixels along one edge of an image."""
        return self.stacks[0].shape[1]

    @property
    def pixel_size_A(self) -> float:
        """Pixel size in Å."""
        return self.table.pixel_size_A

    @property
    def particles(self) -> pd.DataFrame:
        """The particle rows as in the file."""
        return self.table.particles

    @property
    def optics(self) -> pd.DataFrame | None:
        """The optics groups as in the file, None in the RELION 3.0 dialect."""
        return self.table.optics

    def poses(self) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]] | None:
        """See :meth:`ParticleTable.poses`."""
        return self.table.poses()

    def images(self, indices: Indices) -> Float[Tensor, "b n n"]:
        """The images of rows ``indices`` (from 0), in that order, in float32.

        Rows of one stack file are read together; neighbours in the file are read as one piece.

        Raises:
            InputError: if an image holds NaN or infinite values or is constant.
            IndexError: if there is no such row.
        """
        rows = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        stack_of, section_of = self.stack_of_row[rows], self.section_of_row[rows]
        out = np.empty((len(rows), self.n, self.n), dtype=np.float32)
        order = np.lexsort((section_of, stack_of))
        for group in np.split(order, np.flatnonzero(np.diff(stack_of[order])) + 1):
            if group.size:
                _read_sections(self.stacks[stack_of[group[0]]], section_of[group], out, group)
        low, high = out.min(axis=(1, 2), initial=np.inf), out.max(axis=(1, 2), initial=-np.inf)
        bad = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low < high)))
        if bad.size:
            self._refuse_image(int(rows[bad[0]]), constant=bool(low[bad[0]] == high[bad[0]]))
        return torch.from_numpy(out)

    def _refuse_image(self, row: int, constant: bool) -> None:
        where = f"image {self.section_of_row[row] + 1} of {self.stacks[self.stack_of_row[row]].path}"
        what = "is constant" if constant else "holds NaN or infinite values"
        raise InputError(f"{self.table.path}: row {row % len(self) + 1} ({where}) {what}; remove the row")

    def write_posed(
        self,
        path: Path | str,
        rotations: Float[Tensor, "N 3 3"],
        shifts_px: Float[Tensor, "N 2"],
        extra: Mapping[str, Sequence[object] | np.ndarray] | None = None,
    ) -> None:
        """Write the STAR file with these poses (displacements (x, y) of the content in pixels), atomically.

        Rows, their order, other columns and the dialect are kept; ``extra`` adds columns. Images are named by absolute
        path: RELION resolves names from the folder it is started in, not from that of the STAR file, so no relative
        name would work both there and here.
        """
        resolved = [Path(os.path.abspath(stack.path)) for stack in self.stacks]
        rows = zip(self.section_of_row, self.stack_of_row, strict=True)
        names = [f"{section + 1:06d}@{resolved[stack]}" for section, stack in rows]
        self.table.write_posed(path, rotations, shifts_px, names, extra)

    def _check_sections(self) -> None:
        available = np.array([stack.shape[0] for stack in self.stacks])[self.stack_of_row]
        bad = np.flatnonzero((self.section_of_row < 0) | (self.section_of_row >= available))
        if bad.size:
            row = bad[0]
            raise InputError(
                f"{self.table.path}: row {row + 1} asks for image {self.section_of_row[row] + 1} of"
                f" {self.stacks[self.stack_of_row[row]].path}, which holds only {available[row]};"
                " give the stack that belongs to this STAR file"
            )

    def _check_boxes(self) -> None:
        for stack in self.stacks:
            _, rows, columns = stack.shape
            if rows != columns:
                raise InputError(f"{stack.path} holds images of {columns} × {rows} pixels; they must be square")
            if rows != self.n:
                raise InputError(
                    f"{self.table.path} mixes box sizes: {self.stacks[0].path} holds images of {self.n} px and"
                    f" {stack.path} of {rows} px; extract all particles with one box"
                )
        stated = self.table.numbers("rlnImageSize")
        if stated is not None and (stated != self.n).any():
            raise InputError(
                f"{self.table.path} states images of {stated[stated != self.n][0]:.0f} px (rlnImageSize) but"
                f" {self.stacks[0].path} holds images of {self.n} px; correct the box and the pixel size together"
            )


def _parse_image_names(table: ParticleTable) -> tuple[Sequence[str], Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Distinct stack names, and each row's stack and section (from 0); a name without ``index@`` is its first image."""
    parts = table.particles["rlnImageName"].astype(str).str.extract(r"^(?:(\d+)@)?([^@]+)$")
    if parts[1].isna().any():
        row = int(np.argmax(parts[1].isna()))
        found = table.particles["rlnImageName"].iloc[row]
        raise InputError(f"{table.path}: rlnImageName of row {row + 1} is {found}, not of the form index@stack")
    codes, names = pd.factorize(parts[1])
    sections = parts[0].fillna("1").to_numpy(dtype=np.int64) - 1
    return list(names), np.asarray(codes, dtype=np.int64), sections


def _locate(name: str, star: Path, datadir: Path | None, row: int) -> Path:
    """The file that a stack name means."""
    folders = [star.parent / name, *([datadir / name, datadir / Path(name).name] if datadir else []), Path(name)]
    for candidate in folders:
        if candidate.is_file():
            return candidate
    looked = f"beside the STAR file{f', in {datadir}' if datadir else ''} or in the working directory"
    raise InputError(f"{star}: the stack {name} of row {row} is not found {looked}; give its folder with --datadir")


def _read_sections(stack: MrcHeader, sections: np.ndarray, out: np.ndarray, rows: np.ndarray) -> None:
    """``out[rows] = sections`` of a stack, for ascending sections.

    Plain reads of each run of neighbours. A memory map is faster on a file that the system has cached, but scattered
    sections make it hold much of the file at once (270 MB for 500 of 20,000 images of 64 px).
    """
    with stack.path.open("rb", buffering=0) as file:
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(sections) != 1) + 1):
            out[rows[run]] = stack.read_sections(file, int(sections[run[0]]), len(run))


def particle_tables(
    stack_name: str,
    count: int,
    n: int,
    pixel_size_A: float,
    *,
    ctf: CTFParameters | None = None,
    rotations: Float[Tensor, "N 3 3"] | None = None,
    shifts_px: Float[Tensor, "N 2"] | None = None,
) -> Blocks:
    """RELION 3.1 tables for the ``count`` images of one stack, to be written with ``write_star``.

    Args:
        stack_name: the stack as the STAR file names it: relative to its own folder.
        count: number N of images.
        n: box size in pixels.
        pixel_size_A: pixel size in Å.
        ctf: CTF parameters; voltage, Cs and amplitude contrast make the optics groups. No columns where None.
        rotations: poses; no angle or origin columns where None.
        shifts_px: displacements (x, y) of the content in pixels, 0 where None.
    """
    particles = pd.DataFrame({"rlnImageName": [f"{index + 1:06d}@{stack_name}" for index in range(count)]})
    optics = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"]}
    group = np.zeros(count, dtype=np.int64)
    if ctf is not None:
        shared = ["voltage_kV", "cs_mm", "amplitude_contrast"]
        rows = np.stack([getattr(ctf, name).numpy() for name in shared], axis=1)
        distinct, group = np.unique(rows, axis=0, return_inverse=True)
        optics["rlnOpticsGroup"] = list(range(1, len(distinct) + 1))
        optics["rlnOpticsGroupName"] = [f"opticsGroup{index + 1}" for index in range(len(distinct))]
        optics |= {CTF_COLUMNS[name]: list(values) for name, values in zip(shared, distinct.T, strict=True)}
        for name in ("defocus_u_A", "defocus_v_A", "defocus_angle_deg"):
            particles[CTF_COLUMNS[name]] = getattr(ctf, name).numpy()
        particles["rlnPhaseShift"] = ctf.phase_shift_deg.numpy()
    particles["rlnOpticsGroup"] = group.reshape(-1) + 1
    if rotations is not None:
        set_poses(particles, rotations, torch.zeros(count, 2) if shifts_px is None else shifts_px, pixel_size_A)
    optics_table = pd.DataFrame(optics).assign(rlnImagePixelSize=pixel_size_A, rlnImageSize=n, rlnImageDimensionality=2)
    return {"optics": optics_table, "particles": particles}

"""Particle stacks: images read from disk as they are asked for and brought to one grid, with their CTF and poses."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.resampling import resampling_matrix
from orbitrec.io.mrc import MrcHeader, read_header
from orbitrec.io.particle_table import ImageSources, ParticleStatistics, ParticleTable
from orbitrec.io.selected import SelectedTable
from orbitrec.io.tables import read_table
from orbitrec.models.aberrations import Aberrations
from orbitrec.models.background import Background
from orbitrec.models.ctf import CTFParameters

Indices = Int[Tensor, "b"] | Int[np.ndarray, "b"] | Sequence[int] | slice
SMALL_GROUP = 200
"""Optics groups of fewer images share one noise spectrum."""
SAME_PIXEL = 1e-4
"""Relative difference of pixel sizes that is rounding in a file and not another pixel size."""


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """The common grid of a stack's images, and how images of each kind (box and pixel size) are brought to it.

    Attributes:
        box: pixels along an edge of the grid.
        pixel_size_A: of the grid, in Å.
        kind: kind of every image, counted from 0.
        kinds_A: for each kind, the pixel size of its images as they are stored, in Å.
        matrices: for each kind, the matrix of :func:`resampling_matrix` that resamples its images; None where they are
            only cut to the box or are on the grid already.
    """

    box: int
    pixel_size_A: float
    kind: Int[np.ndarray, "N"]
    kinds_A: tuple[float, ...]
    matrices: tuple[Float[Tensor, "box _"] | None, ...]

    @classmethod
    def common(cls, boxes: Int[np.ndarray, "N"], pixel_sizes_A: Float[np.ndarray, "N"]) -> "ImageGrid":
        """The grid of the coarsest pixel size, which all images can be brought to, and the smallest field of view."""
        coarsest = float(pixel_sizes_A.max())
        sizes = np.where(pixel_sizes_A > coarsest * (1 - SAME_PIXEL), coarsest, pixel_sizes_A)
        kinds, kind = np.unique(np.stack([boxes, sizes], axis=1), axis=0, return_inverse=True)
        views = [int(own * size / coarsest + 1e-6) for own, size in kinds]
        box = min(views)
        matrices = tuple(
            None if size == coarsest else resampling_matrix(int(own), box, coarsest / size).float()
            for own, size in kinds
        )
        return cls(box, round(coarsest, 6), kind.reshape(-1), tuple(kinds[:, 1].tolist()), matrices)

    def place(self, images: np.ndarray, kind: int) -> np.ndarray:
        """Bring images of one kind to the grid."""
        matrix = self.matrices[kind]
        if matrix is not None:
            resampled = torch.einsum("ij,bjk,lk->bil", matrix, torch.from_numpy(images.astype(np.float32)), matrix)
            return resampled.numpy()
        first = images.shape[-1] // 2 - self.box // 2
        return images[:, first : first + self.box, first : first + self.box]


@dataclass(frozen=True, eq=False)
class ParticleStack:
    """N particle images of n × n pixels that a table lists; they stay on disk until asked for.

    Attributes:
        table: the table that lists them.
        ctf: CTF parameters; None where the CTF is to be ignored.
        stacks: headers of the stack files.
        sources: which section of which stack each image is.
        grid: the common grid that the images are brought to.
        factors: what each image is multiplied by on reading: the sign that makes dense matter bright, and a scale.
        premultiplied: which images have been multiplied by their CTF already.
        phase_flipped: which images are multiplied by the sign of their CTF on reading, because their phases have been
            flipped: that undoes it, and changes the noise's spectrum no more than the flipping did.
        background: how each image's background is removed on reading; None leaves it.
        aberrations: what the CTF leaves out; None where the table states nothing of the kind, or without a CTF.
    """

    table: ParticleTable
    ctf: CTFParameters | None
    stacks: tuple[MrcHeader, ...]
    sources: ImageSources
    grid: ImageGrid
    factors: Float[np.ndarray, "N"]
    premultiplied: Bool[Tensor, "N"]
    phase_flipped: Bool[Tensor, "N"]
    background: Background | None = None
    aberrations: Aberrations | None = None

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        datadir: Path | None = None,
        pixel_size_A: float | None = None,
        passthrough: Path | None = None,
        ctf: bool | None = True,
    ) -> "ParticleStack":
        """Open the images that a RELION STAR file or a cryoSPARC table lists, or all of an MRC stack.

        A stack is looked for in the table's folder and those above it, in ``datadir`` (by its path, then by its name
        alone) and in the working directory. Every stack's header is read and checked; no image is read. Images of
        several pixel sizes or boxes are brought to the coarsest pixels and the smallest field of view.

        Args:
            path: the table (.star, .cs) or stack (.mrcs, .mrc).
            datadir: another folder that holds the stacks.
            pixel_size_A: pixel size of all images in Å, instead of what the file says.
            passthrough: the passthrough file of a cryoSPARC job, where it is not beside the table.
            ctf: whether to read the CTF; None reads it where the table has one.

        Returns:
            The particles.

        Raises:
            InputError: if ``datadir`` is no folder; if the table is missing, malformed or empty, gives no pixel size or
                lacks CTF columns while ``ctf`` is set; if a stack is missing, truncated or shorter than the table says,
                has images that are not square, or other boxes than the table says.
        """
        if datadir is not None and not datadir.is_dir():
            raise InputError(f"`datadir`: {datadir} is not a folder; leave it out if the stacks are beside the table")
        table = read_table(path, pixel_size_A, passthrough)
        # All that the table itself can have wrong is found before any stack is opened.
        sources, pixel_sizes = table.sources(), table.pixel_sizes_A()
        parameters = table.ctf() if ctf or (ctf is None and not table.missing_ctf_columns()) else None
        aberrations = None if parameters is None else table.aberrations()
        premultiplied = torch.from_numpy(table.premultiplied())
        # Images that were multiplied by |CTF| after the flipping are CTF² times the particle all the same.
        phase_flipped = torch.from_numpy(table.phase_flipped()) & ~premultiplied & torch.tensor(parameters is not None)
        if parameters is None and bool(premultiplied.any()):
            raise InputError(
                f"{path}: the images are multiplied by their CTF, which must be known; leave out `ctf=False`"
            )
        stacks = tuple(read_header(found) for found in _located(table.path, sources, datadir))
        _check_sections(table, sources, stacks)
        boxes = _checked_boxes(table, sources, stacks)
        grid = ImageGrid.common(boxes, pixel_sizes)
        if grid.box < 4:
            raise InputError(f"{path}: images of {grid.box} px are too small to hold a particle; check the pixel sizes")
        return cls(
            table, parameters, stacks, sources, grid, table.signs(), premultiplied, phase_flipped,
            aberrations=aberrations,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.table)

    @property
    def n(self) -> int:
        """Pixels along one edge of an image."""
        return self.grid.box

    @property
    def pixel_size_A(self) -> float:
        """Pixel size in Å."""
        return self.grid.pixel_size_A

    def subset(self, rows: Int[Tensor, "n"]) -> "ParticleStack":
        """The particles ``rows`` alone, which are named in increasing order."""
        at = rows.numpy()
        return replace(
            self,
            table=SelectedTable(self.table, rows),
            ctf=None if self.ctf is None else self.ctf.select(rows),
            sources=replace(self.sources, stack=self.sources.stack[at], section=self.sources.section[at]),
            grid=replace(self.grid, kind=self.grid.kind[at]),
            factors=self.factors[at],
            premultiplied=self.premultiplied[rows],
            phase_flipped=self.phase_flipped[rows],
        )

    def noise_groups(self) -> Int[Tensor, "N"]:
        """Which images share a noise spectrum: those of one optics group, taken and extracted alike.

        Groups of fewer than :data:`SMALL_GROUP` images, too few to tell a spectrum from, are taken together.
        """
        alike = np.stack([self.grid.kind, self.premultiplied.numpy()], axis=1)
        optics = self.table.groups()
        optics = np.where(np.bincount(optics)[optics] < SMALL_GROUP, -1, optics)
        groups = np.unique(np.column_stack([alike, optics]), axis=0, return_inverse=True)[1]
        return torch.from_numpy(groups.reshape(-1))

    def image_numbers(self) -> Int[Tensor, "N"]:
        """Number of every row's image, counted from 0 in order of first appearance: copies of one image share it.

        A table lists an image in several rows after symmetry expansion, or when tables that overlap were joined.
        """
        numbers: dict[tuple[int, int] | str, int] = {}
        file = np.array([numbers.setdefault(_identity(stack.path), len(numbers)) for stack in self.stacks])
        deepest = max(stack.shape[0] for stack in self.stacks)
        place = file[self.sources.stack].astype(np.int64) * deepest + self.sources.section
        return torch.from_numpy(pd.factorize(place)[0].astype(np.int64))

    def poses(self) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]] | None:
        """Rotations, and displacements (x, y) of the content in pixels; None where the file has no angles."""
        poses = self.table.poses()
        return None if poses is None else (poses[0], poses[1] / self.pixel_size_A)

    def images(self, indices: Indices) -> Float[Tensor, "b n n"]:
        """The images of rows ``indices`` (from 0), in that order, in float32.

        Rows of one stack file are read together; neighbours in the file are read as one piece.

        Raises:
            InputError: if an image holds NaN or infinite values or is constant.
            IndexError: if there is no such row.
        """
        rows = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        stack_of, section_of = self.sources.stack[rows], self.sources.section[rows]
        kind_of = self.grid.kind[rows]
        out = np.empty((len(rows), self.n, self.n), dtype=np.float32)
        order = np.lexsort((section_of, kind_of, stack_of))
        breaks = np.diff(stack_of[order]).astype(bool) | np.diff(kind_of[order]).astype(bool)
        for group in np.split(order, np.flatnonzero(breaks) + 1):
            if group.size:
                header, kind = self.stacks[stack_of[group[0]]], int(kind_of[group[0]])
                for run, images in _sections(header, section_of[group]):
                    with np.errstate(invalid="ignore", over="ignore"):  # wild values are told of below
                        out[group[run]] = self.grid.place(self._unflipped(images, rows[group[run]]), kind)
        low, high = out.min(axis=(1, 2), initial=np.inf), out.max(axis=(1, 2), initial=-np.inf)
        bad = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low < high)))
        if bad.size:
            self._refuse_image(int(rows[bad[0]]), constant=bool(low[bad[0]] == high[bad[0]]))
        images = torch.from_numpy(out)
        if self.background is not None:
            images = self.background.removed(images)
        factors = self.factors[rows]
        if (factors != 1).any():
            images *= torch.from_numpy(factors).to(images)[:, None, None]
        return images

    def _unflipped(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Stored images of one kind with the phases that they had before they were flipped."""
        flipped = self.phase_flipped[rows]
        if self.ctf is None or not bool(flipped.any()):
            return images
        pixel = self.grid.kinds_A[int(self.grid.kind[rows[0]])]
        ctf = self.ctf.select(torch.from_numpy(rows)).on_grid(images.shape[-1], pixel)
        signs = torch.where((ctf < 0) & flipped[:, None, None], -1.0, 1.0)
        return centred_ifft(centred_fft(torch.from_numpy(images.astype(np.float32))) * signs).real.numpy()

    def _refuse_image(self, row: int, constant: bool) -> None:
        where = f"image {self.sources.section[row] + 1} of {self.stacks[self.sources.stack[row]].path}"
        what = "is constant" if constant else "holds NaN or infinite values"
        raise InputError(f"{self.table.path}: row {row % len(self) + 1} ({where}) {what}; remove the row")

    def write_posed(
        self,
        path: Path | str,
        rotations: Float[Tensor, "N 3 3"],
        shifts_px: Float[Tensor, "N 2"],
        halves: Int[Tensor, "N"] | None = None,
        statistics: ParticleStatistics | None = None,
    ) -> None:
        """Write the table again with these poses, atomically; rows, order, other columns and the dialect are kept.

        Args:
            path: the file to write.
            rotations: rotation matrix of every particle, in RELION's convention.
            shifts_px: displacement (x, y) of every particle's content in pixels of the common grid.
            halves: half-set of every particle, 1 or 2; None keeps those of the table.
            statistics: what else is known of every particle; None adds no columns.
        """
        resolved = [Path(os.path.abspath(stack.path)) for stack in self.stacks]
        self.table.write_posed(path, rotations, shifts_px * self.pixel_size_A, resolved, halves, statistics=statistics)


def _identity(path: Path) -> tuple[int, int] | str:
    """What is the same for all names of a file, whether they are symbolic or hard links."""
    found = os.stat(path)
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)  # some systems number no files


def _located(table: Path, sources: ImageSources, datadir: Path | None) -> list[Path]:
    """The files that the stacks' names mean.

    Raises:
        InputError: if one is not found, or two that are of one name in different folders would be the same file.
    """
    rows = (np.unique(sources.stack, return_index=True)[1] + 1).tolist()
    found = [_locate(name, table, datadir, row) for name, row in zip(sources.names, rows, strict=True)]
    if datadir is None:
        return found
    named: dict[str, set[tuple[str, ...]]] = {}
    for name, path in zip(sources.names, found, strict=True):
        named.setdefault(os.path.realpath(path), set()).add(_parts(name))
    for path, names in named.items():
        for shorter, longer in combinations(sorted(names, key=lambda parts: (len(parts), parts)), 2):
            shortened = any(Path(path).parts[-len(each) :] != each for each in (longer, shorter))
            # A name that ends in another, folder and all, may be the same file's; a bare file name says nothing.
            if shortened and (len(shorter) == 1 or longer[-len(shorter) :] != shorter):
                raise InputError(
                    f"{table}: the stacks {'/'.join(longer)} and {'/'.join(shorter)} would both be {path}; give a "
                    "folder as `datadir` in which their folders are told apart"
                )
    return found


def _parts(name: str) -> tuple[str, ...]:
    """Folders and file of a stack's name, without the root of the file system."""
    return tuple(part for part in Path(os.path.normpath(name)).parts if part != os.sep)


def find_stack(name: str, table: Path, datadir: Path | None = None) -> Path | None:
    """Look for the file that a stack name means.

    Args:
        name: of the stack, as the table has it.
        table: the table's path.
        datadir: another folder that holds the stacks.

    Returns:
        The file; None where there is none.
    """
    above = [folder / name for folder in Path(os.path.abspath(table)).parents]
    parts = _parts(name)  # below datadir, as much of the name as is found there
    given = [datadir / name, *(datadir.joinpath(*parts[start:]) for start in range(len(parts)))] if datadir else []
    for candidate in (table.parent / name, *given, Path(name), *above):
        if len(str(candidate)) < 4096 and "\0" not in name and os.path.isfile(candidate):
            return candidate
    return None


def _locate(name: str, table: Path, datadir: Path | None, row: int) -> Path:
    found = find_stack(name, table, datadir)
    if found is not None:
        return found
    looked = (
        f"beside the table or in a folder above it{f', in {datadir}' if datadir else ''} or in the working directory"
    )
    raise InputError(f"{table}: the stack {name} of row {row} is not found {looked}; give its folder as `datadir`")


def _sections(header: MrcHeader, sections: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ascending sections of a stack: positions and images of each run of neighbours.

    Plain reads. A memory map is faster on a file that the system has cached, but scattered sections make it hold much
    of the file at once (270 MB for 500 of 20,000 images of 64 px).
    """
    with header.path.open("rb", buffering=0) as file:
        for run in np.split(np.arange(len(sections)), np.flatnonzero(np.diff(sections) != 1) + 1):
            yield run, header.read_sections(file, int(sections[run[0]]), len(run))


def _check_sections(table: ParticleTable, sources: ImageSources, stacks: Sequence[MrcHeader]) -> None:
    available = np.array([stack.shape[0] for stack in stacks])[sources.stack]
    bad = np.flatnonzero((sources.section < 0) | (sources.section >= available))
    if bad.size:
        row = bad[0]
        raise InputError(
            f"{table.path}: row {row + 1} asks for image {sources.section[row] + 1} of"
            f" {stacks[int(sources.stack[row])].path}, which holds only {available[row]};"
            " give the stack that belongs to this table"
        )


def _checked_boxes(table: ParticleTable, sources: ImageSources, stacks: Sequence[MrcHeader]) -> Int[np.ndarray, "N"]:
    """The box of every image, from the stacks' headers."""
    for stack in stacks:
        _, rows, columns = stack.shape
        if rows != columns:
            raise InputError(f"{stack.path} holds images of {columns} × {rows} pixels; they must be square")
    boxes = np.array([stack.shape[1] for stack in stacks], dtype=np.int64)[sources.stack]
    stated = table.stated_boxes()
    if stated is not None and (stated != boxes).any():
        row = int(np.argmax(stated != boxes))
        header = stacks[int(sources.stack[row])]
        raise InputError(
            f"{table.path} states images of {stated[row]:.0f} px for row {row + 1} but {header.path} holds images of"
            f" {boxes[row]} px; correct box and pixel size together"
        )
    return boxes

"""MRC maps and image stacks (MRC2014; Cheng et al., J. Struct. Biol. 192, 2015)."""

import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from mrcfile.dtypes import HEADER_DTYPE
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file, replacing, what_it_is

_DTYPES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}
_KNOWN_MODES = {*_DTYPES, 3, 4, 101}


@dataclass(frozen=True)
class MrcHeader:
    """The header of an MRC file, checked against the file's size.

    Attributes:
        path: the file.
        shape: number of sections, rows and columns.
        mode: MRC mode.
        dtype: number type of a pixel, with its byte order.
        offset: bytes before the first pixel.
        voxel_size_A: in Å; None where the header holds 0 or unequal sizes along x and y.
        axes: which of z, y, x (as 0, 1, 2) the sections, rows and columns run along.
    """

    path: Path
    shape: tuple[int, int, int]
    mode: int
    dtype: np.dtype
    offset: int
    voxel_size_A: float | None
    axes: tuple[int, int, int]

    @property
    def is_map(self) -> bool:
        """Whether the file is one volume rather than a stack of images: a cube not named .mrcs."""
        return len(set(self.shape)) == 1 and self.path.suffix.lower() != ".mrcs"

    def memory_map(self) -> np.memmap:
        """The pixels (sections, rows, columns) as a memory map."""
        return np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape)

    def read_sections(self, file: BinaryIO, start: int, count: int) -> np.ndarray:
        """Read neighbouring sections.

        Args:
            file: the MRC file, opened without a buffer.
            start: first section, counted from 0.
            count: number of sections.

        Returns:
            The sections, of shape (count, rows, columns).

        Raises:
            OSError: if the file has become shorter than it was.
        """
        pixels = self.shape[1] * self.shape[2]
        file.seek(self.offset + start * pixels * self.dtype.itemsize)
        values = np.fromfile(file, self.dtype, count * pixels)
        if values.size < count * pixels:
            raise OSError(errno.EIO, "it has become shorter than it was", str(self.path))
        return values.reshape(count, *self.shape[1:])


def _raw_header(path: Path) -> np.void:
    """The header record in the byte order that makes sense of it, whatever the machine stamp says."""
    with path.open("rb") as file:
        data = file.read(HEADER_DTYPE.itemsize)
    if len(data) == HEADER_DTYPE.itemsize:
        for order in ("<", ">"):
            raw = np.frombuffer(data, HEADER_DTYPE.newbyteorder(order))[0]
            sizes = [int(raw[name]) for name in ("nx", "ny", "nz")]
            if int(raw["mode"]) in _KNOWN_MODES and all(0 < size < 2**24 for size in sizes) and raw["nsymbt"] >= 0:
                return raw
    raise InputError(f"{path} is not an MRC file{what_it_is(path) or ', or its header is damaged'}")


def read_header(path: Path | str) -> MrcHeader:
    """Read the header of an MRC map or stack, in either byte order, with or without the "MAP" mark.

    Raises:
        InputError: if there is no such file, it is not MRC, its mode is not one of 0, 1, 2, 6 and 12, or it is
            shorter than its header says.
    """
    path = existing_file(path)
    raw = _raw_header(path)
    mode = int(raw["mode"])
    if mode not in _DTYPES:
        raise InputError(f"{path} has MRC mode {mode}, which is not supported; convert it to mode 2 (32-bit real)")
    dtype = np.dtype(_DTYPES[mode]).newbyteorder(raw.dtype["mode"].byteorder)
    shape = (int(raw["nz"]), int(raw["ny"]), int(raw["nx"]))
    offset = HEADER_DTYPE.itemsize + int(raw["nsymbt"])
    expected = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if path.stat().st_size < expected:
        raise InputError(
            f"{path} is truncated: its header promises {shape[0]} sections of {shape[2]} × {shape[1]} pixels"
            f" ({expected} bytes) but it has {path.stat().st_size} bytes; copy it again"
        )
    axes = (3 - int(raw["maps"]), 3 - int(raw["mapr"]), 3 - int(raw["mapc"]))
    if sorted(axes) != [0, 1, 2]:  # some programs leave them 0
        axes = (0, 1, 2)
    return MrcHeader(path, shape, mode, dtype, offset, _voxel_size(raw), axes)


def _voxel_size(raw: np.void) -> float | None:
    counts = (int(raw["mx"]), int(raw["my"]))
    x, y = (float(raw["cella"][axis]) / count if count > 0 else 0.0 for axis, count in zip("xy", counts, strict=True))
    return round(x, 6) if x > 0 and abs(x - y) <= 1e-3 * x else None


def read_map(path: Path | str, voxel_size_A: float | None = None) -> tuple[Float[Tensor, "n n n"], float]:
    """Read a cubic map, of any real MRC mode and axis order.

    Args:
        path: the MRC file.
        voxel_size_A: voxel size in Å, used instead of the header's; needed where the header gives none (0).

    Returns:
        The density in float32 with axes in (z, y, x) order, and the voxel size in Å.

    Raises:
        InputError: if there is no such file, it is not MRC, truncated, not cubic, holds NaN or infinite values, or if
            no voxel size is known.
    """
    header = read_header(path)
    if len(set(header.shape)) != 1:
        nz, ny, nx = header.shape
        raise InputError(f"{path} is not a cubic map: it has {nx} × {ny} × {nz} voxels; pad or crop it to a cube")
    size = header.voxel_size_A if voxel_size_A is None else voxel_size_A
    if size is None:
        raise InputError(
            f"the header of {path} gives no voxel size; set it in the header, or give it in Å as `voxel_size_A`"
        )
    grid = np.array(header.memory_map().transpose(np.argsort(header.axes)), dtype=np.float32, order="C")
    if not np.isfinite(grid).all():
        raise InputError(f"{path} holds NaN or infinite voxels; it cannot be used as a map")
    return torch.from_numpy(grid), size


def write_map(path: Path | str, grid: Float[Tensor, "n n n"], voxel_size_A: float) -> None:
    """Write a map in MRC mode 2 (32-bit real) with its origin at 0, atomically.

    Args:
        path: the file to write.
        grid: the density with axes (z, y, x).
        voxel_size_A: edge of a voxel in Å.

    Raises:
        InputError: if the file cannot be written.
    """
    values = grid.detach().cpu().numpy().astype(np.float32)
    header = _new_header(values.shape, voxel_size_A, is_map=True)
    header["dmin"], header["dmax"] = values.min(), values.max()
    header["dmean"], header["rms"] = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header.tobytes())
        file.write(values.tobytes())


class StackWriter:
    """Writes a stack of images in chunks; the file takes its name when all images are there.

    As a context manager::

        with StackWriter(path, count, n, pixel_size_A) as stack:
            for images in chunks:
                stack.write(images)

    Args:
        path: the stack to write.
        count: number of images.
        n: pixels along an edge of an image.
        pixel_size_A: in Å.

    Raises:
        ValueError: on leaving, if not exactly ``count`` images were written; then there is no file.
    """

    def __init__(self, path: Path | str, count: int, n: int, pixel_size_A: float) -> None:
        self.path, self.count, self.n, self.pixel_size_A = Path(path), count, n, pixel_size_A
        self._written, self._sum, self._squares = 0, 0.0, 0.0
        self._low, self._high = np.inf, -np.inf

    def __enter__(self) -> "StackWriter":
        with ExitStack() as resources:
            temporary = resources.enter_context(replacing(self.path))
            self._file: BinaryIO = resources.enter_context(temporary.open("wb"))
            self._file.seek(HEADER_DTYPE.itemsize)
            self._resources = resources.pop_all()
        return self

    def write(self, images: Float[Tensor, "b n n"]) -> None:
        """Append ``images``, as float32."""
        if images.shape[1:] != (self.n, self.n):
            raise ValueError(f"a stack of {self.n} px images cannot take images of shape {tuple(images.shape[1:])}")
        values = images.detach().cpu().numpy().astype(np.float32)
        self._file.write(values.tobytes())
        self._written += len(values)
        if values.size:
            self._low, self._high = min(self._low, values.min()), max(self._high, values.max())
            self._sum += values.sum(dtype=np.float64)
            self._squares += np.square(values, dtype=np.float64).sum()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._resources.__exit__(kind, error, trace)
            return
        with self._resources:
            self._finish()

    def _finish(self) -> None:
        if self._written != self.count:
            raise ValueError(f"{self.path} was to hold {self.count} images, but {self._written} were written")
        header = _new_header((self.count, self.n, self.n), self.pixel_size_A, is_map=False)
        pixels = self.count * self.n**2
        mean = self._sum / pixels
        header["dmin"], header["dmax"] = self._low, self._high
        header["dmean"], header["rms"] = mean, max(self._squares / pixels - mean**2, 0.0) ** 0.5
        self._file.seek(0, os.SEEK_SET)
        self._file.write(header.tobytes())


def _new_header(shape: tuple[int, ...], voxel_size_A: float, is_map: bool) -> np.void:
    nz, ny, nx = shape
    header = np.zeros(1, HEADER_DTYPE.newbyteorder("<"))[0]
    header["nx"], header["ny"], header["nz"] = nx, ny, nz
    # MRC2014: a stack of images has space group 0 and a unit cell one section deep.
    header["mx"], header["my"], header["mz"] = nx, ny, nz if is_map else 1
    header["ispg"] = 1 if is_map else 0
    header["mode"] = 2
    header["cella"] = tuple(voxel_size_A * int(header[name]) for name in ("mx", "my", "mz"))
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["map"], header["machst"], header["nversion"] = b"MAP ", (0x44, 0x44, 0, 0), 20141
    header["nlabl"], header["label"][0] = 1, b"Written by orbitrec"
    return header

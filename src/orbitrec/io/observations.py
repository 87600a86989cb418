"""One-dimensional observations in a NumPy file: N rows of w samples, memory-mapped."""

import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file, replacing

_ROWS = 1 << 14  # of a batch: 5 MB of 41 samples in float64


@dataclass(frozen=True)
class ObservationFile:
    """The observations in ``path``, ``count`` of ``length`` samples; nothing is read until it is asked for."""

    path: Path
    count: int
    length: int

    @classmethod
    def open(cls, path: Path | str) -> "ObservationFile":
        """Look at the file's header.

        Raises:
            InputError: if there is no such file, it is no whole .npy file, or it holds something else than a
                two-dimensional array of real numbers with at least one row and column.
        """
        path = existing_file(path)
        array = _mapped(path)
        if array.ndim != 2:
            raise InputError(f"{path} has {array.ndim} dimensions; give observations as (N, samples)")
        if array.dtype.kind not in "fiu":
            raise InputError(f"{path} holds {array.dtype} values; give real numbers (float32 or float64)")
        if 0 in array.shape:
            raise InputError(f"{path} is empty: its shape is {array.shape}; give at least one observation")
        return cls(path, *array.shape)

    def batches(self) -> Iterator[Float[Tensor, "_ w"]]:
        """All rows in order. The file is mapped anew for each batch, so that pages read are not kept.

        Raises:
            InputError: if a value is NaN or infinite.
        """
        for start in range(0, self.count, _ROWS):
            batch = _floating(_mapped(self.path)[start : start + _ROWS])
            if not math.isfinite(float(batch.sum(dtype=torch.float64))):
                bad = (~batch.isfinite()).any(1).nonzero()  # none if only the sum overflows
                if len(bad):
                    row = start + int(bad[0])
                    raise InputError(
                        f"{self.path}: observation {row} (counted from 0) holds NaN or infinity; remove it"
                    )
            yield batch

    def tensor(self) -> Float[Tensor, "N w"]:
        """All rows as one tensor, memory-mapped if float32 or float64; what is written to it stays in memory."""
        array = _mapped(self.path)
        return torch.from_numpy(array) if array.dtype in (np.float32, np.float64) else _floating(array)


def write_observations(path: Path | str, batches: Iterable[Float[Tensor, "_ w"]], count: int, length: int) -> None:
    """Write ``count`` observations of ``length`` samples as float32 .npy, batch by batch, atomically.

    Raises:
        InputError: if the disk has no room for them.
    """
    path, size = Path(path), 4 * count * length
    if path.parent.is_dir() and size > shutil.disk_usage(path.parent).free:
        raise InputError(f"{path} would take {size / 1e9:.4g} GB, more than is free; simulate fewer observations")
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, length)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in batches:
            file.write(batch.numpy().astype("<f4").tobytes())


def _mapped(path: Path) -> np.memmap:
    try:
        # Copy on write: torch takes no read-only arrays without a warning.
        return np.lib.format.open_memmap(path, mode="c")
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is no whole .npy file of numbers ({error}); write it with numpy.save") from error


def _floating(array: np.ndarray) -> Float[Tensor, "b w"]:
    """A copy in native float32 where that loses nothing, else in float64."""
    single = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    return torch.from_numpy(array.astype(np.float32 if single else np.float64))

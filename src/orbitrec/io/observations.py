"""One-dimensional observations in a NumPy file of N rows of w samples, and the truth of simulated ones."""

import math
import shutil
import zipfile
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
    """A file of observations, of which nothing but the header is read until it is asked for.

    Attributes:
        path: the file.
        count: number N of observations.
        length: samples w of an observation.
    """

    path: Path
    count: int
    length: int

    @classmethod
    def open(cls, path: Path | str) -> "ObservationFile":
        """Read the header of a .npy file.

        Raises:
            InputError: if there is no such file, it is not a whole .npy file, or it does not hold a two-dimensional
                array of real numbers with at least one row and column.
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
        """All rows in order, in batches of up to 16,384.

        The file is mapped anew for each batch, so that what was read does not stay in memory.

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
        """All rows as one tensor, memory-mapped if float32 or float64; the file is not changed by writing to it."""
        array = _mapped(self.path)
        return torch.from_numpy(array) if array.dtype in (np.float32, np.float64) else _floating(array)


def write_observations(path: Path | str, batches: Iterable[Float[Tensor, "_ w"]], count: int, length: int) -> None:
    """Write observations as float32 .npy, batch by batch, atomically.

    Args:
        path: the file to write.
        batches: the observations in order.
        count: number of observations in all batches together.
        length: samples of an observation.

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


def write_truth(path: Path | str, signal: Float[Tensor, "n"], density: Float[Tensor, "n"]) -> None:
    """Write the truth of simulated observations as a NumPy archive, atomically.

    Args:
        path: the file to write (.npz).
        signal: the true signal.
        density: the true density of shifts.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, signal=signal.numpy(), density=density.numpy())


def read_truth(path: Path | str, n: int) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Read what :func:`write_truth` wrote.

    Args:
        path: the archive.
        n: samples that signal and density must have.

    Returns:
        Signal and density of shifts, in float64.

    Raises:
        InputError: if there is no such file, it is not such an archive, or its arrays are not n finite numbers each.
    """
    path = existing_file(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = [np.asarray(archive[name], dtype=np.float64) for name in ("signal", "density")]
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is no archive of a signal and a density; give the truth.npz of a simulation"
        ) from error
    for name, array in zip(("signal", "density"), arrays, strict=True):
        if array.shape != (n,) or not np.isfinite(array).all():
            raise InputError(f"{path}: its {name} is not {n} finite numbers, as long as the signal to compare it with")
    return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])


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

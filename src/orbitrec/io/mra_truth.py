"""The truth of simulated MRA observations: signal and density of shifts in one NumPy archive."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file, replacing


def write_truth(path: Path | str, signal: Float[Tensor, "n"], density: Float[Tensor, "n"]) -> None:
    """Write arrays ``signal`` and ``density`` as .npz, atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, signal=signal.numpy(), density=density.numpy())


def read_truth(path: Path | str, n: int) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Signal and density of n samples each, in float64.

    Raises:
        InputError: if there is no such file, it is no such archive, or its arrays are not n finite numbers each.
    """
    path = existing_file(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = [np.asarray(archive[name], dtype=np.float64) for name in ("signal", "density")]
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is no archive of a signal and a density; give the truth.npz that simulate mra made"
        ) from error
    for name, array in zip(("signal", "density"), arrays, strict=True):
        if array.shape != (n,) or not np.isfinite(array).all():
            raise InputError(f"{path}: its {name} is not {n} finite numbers, as long as the signal to compare it with")
    return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])

"""Accumulated moments in safetensors files: the sums, with the grid and its pixel size as metadata."""

import json
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.tensors import read_tensors, write_tensors
from orbitrec.moments.compression import Compression
from orbitrec.moments.cumulant_estimator import CumulantAccumulator
from orbitrec.moments.estimator import MomentAccumulator

_REMEDY = "make it with the command `orbitrec moments`"
_CUMULANTS, _COORDINATES = "cumulants.", "coordinates."


def write_moments(
    path: Path | str, moments: MomentAccumulator, pixel_size_A: float, cumulants: CumulantAccumulator | None = None
) -> None:
    """Write accumulated moments to a file, the whole file or nothing.

    Args:
        path: the file.
        moments: the sums.
        pixel_size_A: size in Å of the pixels in which the grid of the moments counts.
        cumulants: sums for the third cumulants of the same images, on the same grid, if there are any.

    Raises:
        InputError: if the file cannot be written.
    """
    metadata = {"grid": json.dumps(asdict(moments.grid)), "pixel_size_A": repr(pixel_size_A)}
    tensors = dict(moments.sums())
    if cumulants is not None:
        tensors |= {_CUMULANTS + name: value for name, value in cumulants.sums().items()}
        tensors |= _coordinates(cumulants.compression)
        metadata["variance"] = repr(cumulants.compression.variance)
    write_tensors(path, "moments", tensors, metadata)


def read_moments(path: Path | str) -> tuple[MomentAccumulator, float]:
    """The moments that :func:`write_moments` wrote, ready for more updates or merges, and their pixel size in Å.

    Raises:
        InputError: if the file is missing, broken, or holds something else.
    """
    tensors, metadata = read_tensors(path, "moments", _REMEDY)
    sums = {name: value for name, value in tensors.items() if "." not in name}
    return MomentAccumulator(PolarGrid(**json.loads(metadata["grid"])), **sums), float(metadata["pixel_size_A"])


def read_cumulants(path: Path | str) -> CumulantAccumulator | None:
    """The sums for third cumulants in a file of moments, None if it has none.

    Raises:
        InputError: if the file is missing, broken, or holds something else.
    """
    tensors, metadata = read_tensors(path, "moments", _REMEDY)
    sums = {name.removeprefix(_CUMULANTS): value for name, value in tensors.items() if name.startswith(_CUMULANTS)}
    if not sums:
        return None
    parts = {name: [tensors[f"{_COORDINATES}{name}.{m}"] for m in range(_modes(tensors))] for name in _LISTS}
    compression = Compression(
        PolarGrid(**json.loads(metadata["grid"])),
        **{name: tuple(values) for name, values in parts.items()},
        mean=tensors[f"{_COORDINATES}mean"],
        variance=float(metadata["variance"]),
    )
    return CumulantAccumulator(compression, **sums)


_LISTS = ("bases", "spreads", "signal")


def _coordinates(compression: Compression) -> dict[str, Tensor]:
    parts = (compression.bases, compression.spreads, compression.signal)
    named = {
        f"{_COORDINATES}{name}.{m}": x for name, part in zip(_LISTS, parts, strict=True) for m, x in enumerate(part)
    }
    return {**named, f"{_COORDINATES}mean": compression.mean}


def _modes(tensors: dict[str, Tensor]) -> int:
    return sum(name.startswith(f"{_COORDINATES}bases.") for name in tensors)

"""Accumulated moments in safetensors files: the sums, with the grid and its pixel size as metadata."""

import json
from dataclasses import asdict
from pathlib import Path

from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.tensors import read_tensors, write_tensors
from orbitrec.moments.estimator import MomentAccumulator


def write_moments(path: Path | str, moments: MomentAccumulator, pixel_size_A: float) -> None:
    """Write accumulated moments to a file, the whole file or nothing.

    Args:
        path: the file.
        moments: the sums.
        pixel_size_A: size in Å of the pixels in which the grid of the moments counts.

    Raises:
        InputError: if the file cannot be written.
    """
    metadata = {"grid": json.dumps(asdict(moments.grid)), "pixel_size_A": repr(pixel_size_A)}
    write_tensors(path, "moments", moments.sums(), metadata)


def read_moments(path: Path | str) -> tuple[MomentAccumulator, float]:
    """The moments that :func:`write_moments` wrote, ready for more updates or merges, and their pixel size in Å.

    Raises:
        InputError: if the file is missing, broken, or holds something else.
    """
    remedy = "make it with the command `orbitrec moments`"
    sums, metadata = read_tensors(path, "moments", remedy)
    return MomentAccumulator(PolarGrid(**json.loads(metadata["grid"])), **sums), float(metadata["pixel_size_A"])

"""Accumulated moments as safetensors files: the sums, and as metadata the grid and its pixel size."""

import json
from dataclasses import asdict
from pathlib import Path

from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.tensors import read_tensors, write_tensors
from orbitrec.moments.estimator import MomentAccumulator


def write_moments(path: Path | str, moments: MomentAccumulator, pixel_size_A: float) -> None:
    """Write an accumulator to ``path`` atomically; ``pixel_size_A`` is that of the pixels its grid counts in."""
    metadata = {"grid": json.dumps(asdict(moments.grid)), "pixel_size_A": repr(pixel_size_A)}
    write_tensors(path, "moments", moments.sums(), metadata)


def read_moments(path: Path | str) -> tuple[MomentAccumulator, float]:
    """What :func:`write_moments` wrote, ready for more updates or merges, and the pixel size.

    Raises:
        InputError: if the file is missing, broken, or holds something else.
    """
    remedy = f"make them with: orbitrec moments PARTICLES.star -o {path}"
    sums, metadata = read_tensors(path, "moments", remedy)
    return MomentAccumulator(PolarGrid(**json.loads(metadata["grid"])), **sums), float(metadata["pixel_size_A"])

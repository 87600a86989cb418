"""Accumulated moments as safetensors files: the sums, and as metadata the grid and its pixel size."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from orbitrec.errors import InputError
from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.moments import MomentAccumulator
from orbitrec.io.files import existing_file, replacing


def write_moments(path: Path | str, moments: MomentAccumulator, pixel_size_A: float) -> None:
    """Write an accumulator to ``path`` atomically; ``pixel_size_A`` is that of the pixels its grid counts in."""
    metadata = {"kind": "moments", "grid": json.dumps(asdict(moments.grid)), "pixel_size_A": repr(pixel_size_A)}
    with replacing(path) as temporary:
        save_file(moments.sums(), temporary, metadata)


def read_moments(path: Path | str) -> tuple[MomentAccumulator, float]:
    """What :func:`write_moments` wrote, ready for more updates or merges, and the pixel size.

    Raises:
        InputError: if the file is missing, broken, or holds something else.
    """
    try:
        with safe_open(existing_file(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != "moments":
                raise InputError(f"{path} holds no moments; make them with: orbitrec moments PARTICLES.star -o {path}")
            sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}); make the moments again") from error
    return MomentAccumulator(PolarGrid(**json.loads(metadata["grid"])), **sums), float(metadata["pixel_size_A"])

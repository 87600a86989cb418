"""Accumulated moments as safetensors files: the sums, and the grid as metadata."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from orbitrec.errors import InputError
from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.moments import MomentAccumulator
from orbitrec.io.files import existing_file, replacing


def write_moments(path: Path | str, moments: MomentAccumulator) -> None:
    """Write an accumulator to ``path`` atomically."""
    metadata = {"kind": "moments", "grid": json.dumps(asdict(moments.grid))}
    with replacing(path) as temporary:
        save_file(moments.sums(), temporary, metadata)


def read_moments(path: Path | str) -> MomentAccumulator:
    """Read what :func:`write_moments` wrote, ready for more updates or merges.

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
    return MomentAccumulator(PolarGrid(**json.loads(metadata["grid"])), **sums)

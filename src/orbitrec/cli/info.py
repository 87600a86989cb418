"""``orbitrec info``: what a particle table, map or stack holds."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.inputs import Datadir, Passthrough, PixelSize
from orbitrec.cli.messages import for_command_line

if TYPE_CHECKING:
    from orbitrec.io.mrc import MrcHeader
    from orbitrec.io.particles import ParticleStack
    from orbitrec.models.ctf import CTFParameters


def info(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A particle table (.star, .cs), a map (.mrc) or a stack of images (.mrcs)."
        ),
    ],
    images: Annotated[bool, typer.Option("--images", help="Look at the particles' images too.")] = False,
    datadir: Datadir = None,
    pixel_size: PixelSize = None,
    passthrough: Passthrough = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a particle table, a map or an image stack holds.

    Example:  orbitrec info particles.star
    """
    from rich.console import Console
    from rich.table import Table

    from orbitrec.io.files import to_json
    from orbitrec.io.particles import ParticleStack
    from orbitrec.io.tables import CRYOSPARC, RELION, table_reader

    if table_reader(file) in (RELION, CRYOSPARC):
        stack = ParticleStack.open(file, datadir=datadir, pixel_size_A=pixel_size, passthrough=passthrough, ctf=None)
        facts = _describe_particles(stack) | (_describe_images(stack) if images else {})
    else:
        facts = _describe_mrc(file)
    if as_json:
        typer.echo(to_json(facts))
        return
    table = Table(show_header=False)
    table.add_row("file", str(file))
    for name, value in facts.items():
        table.add_row(_label(name), _text(value))
    Console().print(table)


def _describe_particles(stack: "ParticleStack") -> dict[str, object]:
    import numpy as np

    table = stack.table
    boxes = np.array([header.shape[1] for header in stack.stacks])[stack.sources.stack]
    kinds = np.unique(np.stack([boxes, table.pixel_sizes_A()], axis=1), axis=0)
    return {
        "kind": "particles",
        "dialect": table.dialect,
        "particles": len(stack),
        "stacks": len(stack.stacks),
        "optics_groups": len(np.unique(table.groups())),
        "box_px": stack.n,
        "pixel_size_A": stack.pixel_size_A,
        **({"resampled_from": [f"{box:.0f} px of {pixel:g} Å" for box, pixel in kinds]} if len(kinds) > 1 else {}),
        "ctf": stack.ctf is not None,
        **(_describe_ctf(stack.ctf) if stack.ctf is not None else {}),
        "multiplied_by_ctf": int(stack.premultiplied.sum()),
        "marked_dense_dark": int((table.signs() < 0).sum()),
        "poses": stack.poses() is not None,
        "half_sets": table.halves() is not None,
        "ignored_columns": table.ignored_columns(),
    }


def _describe_images(stack: "ParticleStack") -> dict[str, object]:
    from orbitrec.cryoem.image_statistics import image_statistics

    found = image_statistics(stack)
    return {
        "contrast": f"{found.contrast_text()} ({found.contrast:.1f} standard errors)",
        "diameter_A": found.diameter_A,
        "notes": [for_command_line(note) for note in found.notes()],
    }


def _describe_ctf(ctf: "CTFParameters") -> dict[str, object]:
    """Least and largest value of each parameter."""
    import torch

    values = {
        "voltage_kV": ctf.voltage_kV,
        "cs_mm": ctf.cs_mm,
        "amplitude_contrast": ctf.amplitude_contrast,
        "defocus_A": torch.cat([ctf.defocus_u_A, ctf.defocus_v_A]),
        "phase_shift_deg": ctf.phase_shift_deg,
    }
    return {name: [value.min().item(), value.max().item()] for name, value in values.items()}


def _describe_mrc(path: Path) -> dict[str, object]:
    from orbitrec.io.mrc import read_header

    header = read_header(path)
    sections, rows, columns = header.shape
    return {
        "kind": "map" if header.is_map else "stack",
        **({"box_px": columns} if header.is_map else {"images": sections, "image_px": f"{columns} × {rows}"}),
        "voxel_size_A": header.voxel_size_A,
        "mode": header.mode,
        "number_type": header.dtype.name,
        **_statistics(header),
    }


def _statistics(header: "MrcHeader") -> dict[str, object]:
    """Minimum, maximum, mean and standard deviation of all pixels, in one pass over the sections."""
    import numpy as np
    from rich.progress import track

    pixels = header.memory_map()
    lows, highs, sums, squares = [], [], 0.0, 0.0
    for section in track(pixels, "reading", transient=True, disable=len(pixels) < 1000):
        values = np.array(section, dtype=np.float64)
        lows.append(values.min())
        highs.append(values.max())
        sums, squares = sums + float(values.sum()), squares + float(np.square(values).sum())
    mean = sums / pixels.size
    # Plain floats: infinite pixels make them NaN, without a complaint.
    std = max(squares / pixels.size - mean * mean, 0.0) ** 0.5
    return {"min": float(np.min(lows)), "max": float(np.max(highs)), "mean": mean, "std": std}


def _label(name: str) -> str:
    return re.sub(r" (A|px|kV|mm|deg)$", r" (\1)", name.replace("_", " ")).replace("(A)", "(Å)")


def _text(value: object) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        shown = list(dict.fromkeys(_text(entry) for entry in value))
        return (" – " if isinstance(value[0], float) else ", ").join(shown)
    return f"{value:.6g}" if isinstance(value, float) else str(value)

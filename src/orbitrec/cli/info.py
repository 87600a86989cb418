"""``orbitrec info``: what a particle table, map or stack holds."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.messages import for_command_line
from orbitrec.cli.options.inputs import Datadir, Passthrough, PixelSize

if TYPE_CHECKING:
    from orbitrec.io.mrc import MrcHeader
    from orbitrec.io.particle_table import ParticleTable
    from orbitrec.io.particles import ParticleStack
    from orbitrec.models.ctf import CTFParameters

SHOWN = 10
"""Entries of a list that are printed; JSON has them all."""


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

    A table whose stacks are not there is described too, and they are named.

    Example:  orbitrec info particles.star
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from orbitrec.io.files import to_json
    from orbitrec.io.particles import ParticleStack, find_stack
    from orbitrec.io.tables import CRYOSPARC, RELION, read_table, table_reader

    if table_reader(file) in (RELION, CRYOSPARC):
        particles = read_table(file, pixel_size, passthrough)
        missing = [name for name in particles.sources().names if find_stack(name, file, datadir) is None]
        facts = _describe_table(particles)
        if missing and not images:
            facts |= {"missing_stacks": missing}
        else:
            stack = ParticleStack.open(
                file, datadir=datadir, pixel_size_A=pixel_size, passthrough=passthrough, ctf=None
            )
            facts |= _describe_stacks(stack) | (_describe_images(stack) if images else {})
    else:
        facts = _describe_mrc(file)
    if as_json:
        typer.echo(to_json(facts))
        return
    table = Table(show_header=False)
    table.add_row("file", escape(str(file)))
    for name, value in facts.items():
        table.add_row(_label(name), escape(_text(value)))
    Console().print(table)


def _describe_table(table: "ParticleTable") -> dict[str, object]:
    """All that the table says by itself."""
    import numpy as np

    ctf = None if table.missing_ctf_columns() else table.ctf()
    boxes = table.stated_boxes()
    return {
        "kind": "particles",
        "dialect": table.dialect,
        "particles": len(table),
        "stacks": len(table.sources().names),
        "optics_groups": len(np.unique(table.groups())),
        "box_px": None if boxes is None else int(boxes.min()),
        "pixel_size_A": float(table.pixel_sizes_A().max()),
        "ctf": ctf is not None,
        **(_describe_ctf(ctf) if ctf is not None else {}),
        "phase_flipped": int(table.phase_flipped().sum()),
        "multiplied_by_ctf": int(table.premultiplied().sum()),
        "marked_dense_dark": int((table.signs() < 0).sum()),
        "poses": table.poses() is not None,
        "half_sets": table.halves() is not None,
        "ignored_columns": table.ignored_columns(),
        "doubtful_values": table.doubtful_values(),
    }


def _describe_stacks(stack: "ParticleStack") -> dict[str, object]:
    """What only the stacks say: how many images they are, and the grid that these are brought to."""
    import numpy as np

    boxes = np.array([header.shape[1] for header in stack.stacks])[stack.sources.stack]
    kinds = np.unique(np.stack([boxes, stack.table.pixel_sizes_A()], axis=1), axis=0)
    resampled = [f"{box:.0f} px of {pixel:g} Å" for box, pixel in kinds]
    return {
        "different_images": int(stack.image_numbers().max()) + 1,
        "box_px": stack.n,
        "pixel_size_A": stack.pixel_size_A,
        **({"resampled_from": resampled} if len(kinds) > 1 else {}),
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
    from orbitrec.errors import InputError
    from orbitrec.io.files import what_it_is
    from orbitrec.io.mrc import read_header

    try:
        header = read_header(path)
    except InputError:
        other = what_it_is(path) if path.is_file() else ""
        if not other.startswith(" but "):
            raise
        raise InputError(f"{path} is{other.removeprefix(' but')}") from None
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
        if len(shown) > SHOWN:
            shown = [*shown[:SHOWN], f"and {len(shown) - SHOWN} more"]
        return (" – " if isinstance(value[0], float) else ", ").join(shown)
    return f"{value:.6g}" if isinstance(value, float) else str(value)

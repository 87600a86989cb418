"""``orbitrec info``: what a star file, map or stack holds."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orbitrec.io.mrc import MrcHeader
    from orbitrec.models.ctf import CTFParameters


def info(
    file: Annotated[Path, typer.Argument(help="A particle STAR file (.star), a map (.mrc) or a stack (.mrcs).")],
    datadir: Annotated[Path | None, typer.Option(help="Folder of the stacks, if not beside the STAR file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a particle STAR file, a map or an image stack holds.

    Example:  orbitrec info particles.star
    """
    from rich.console import Console
    from rich.table import Table

    from orbitrec.io.files import to_json

    facts = _describe_particles(file, datadir) if file.suffix == ".star" else _describe_mrc(file)
    if as_json:
        typer.echo(to_json(facts))
        return
    table = Table(show_header=False)
    table.add_row("file", str(file))
    for name, value in facts.items():
        table.add_row(_label(name), _text(value))
    Console().print(table)


def _describe_particles(path: Path, datadir: Path | None) -> dict[str, object]:
    import numpy as np

    from orbitrec.io.particles import ParticleStack

    stack = ParticleStack.open(path, datadir=datadir, ctf=False)
    has_ctf = not stack.table.missing_ctf_columns()
    return {
        "kind": "particles",
        "dialect": stack.table.dialect,
        "particles": len(stack),
        "stacks": len(stack.stacks),
        "optics_groups": len(np.unique(stack.table.groups())),
        "box_px": stack.n,
        "pixel_size_A": stack.pixel_size_A,
        "ctf": has_ctf,
        **(_describe_ctf(stack.table.ctf()) if has_ctf else {}),
        "poses": stack.poses() is not None,
        "ignored_columns": stack.table.ignored_columns(),
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
    """Minimum, maximum, mean and standard deviation, in one pass over the sections."""
    import numpy as np
    from rich.progress import track

    pixels = header.memory_map()
    lows, highs, sums, squares = [], [], 0.0, 0.0
    for section in track(pixels, "reading", transient=True, disable=len(pixels) < 1000):
        values = np.array(section, dtype=np.float64)
        lows.append(values.min())
        highs.append(values.max())
        sums, squares = sums + values.sum(), squares + np.square(values).sum()
    mean = sums / pixels.size
    std = np.sqrt(np.maximum(squares / pixels.size - mean**2, 0.0))
    return {"min": float(np.min(lows)), "max": float(np.max(highs)), "mean": float(mean), "std": float(std)}


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

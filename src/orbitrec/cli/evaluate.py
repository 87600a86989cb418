"""``orbitrec evaluate``: how well a map agrees with the truth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from orbitrec.api import Comparison
    from orbitrec.geometry.point_groups import PointGroup

_PICTURES = {".png", ".pdf", ".svg"}


def evaluate(
    map_file: Annotated[Path, typer.Argument(metavar="MAP", help="The map to judge (MRC).")],
    truth_file: Annotated[Path, typer.Argument(metavar="TRUTH", help="The map it should be (MRC).")],
    mask_radius: Annotated[
        float | None,
        typer.Option("--mask-radius-A", min=0, help="FSC within a soft sphere of this radius in Å. [no mask]"),
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(min=0.01, max=1000, help="Voxel size of both maps in Å, instead of their headers'.")
    ] = None,
    handedness: Annotated[bool, typer.Option("--hand/--no-hand", help="Try the mirrored map as well.")] = True,
    symmetry: Annotated[
        str,
        typer.Option(
            help="Of the particle: MAP is compared with its average over it; poses that it makes the same are."
        ),
    ] = "C1",
    poses: Annotated[Path | None, typer.Option(help="Posed table of MAP, to compare with --true-poses.")] = None,
    true_poses: Annotated[
        Path | None, typer.Option(help="Table with the true poses, in the standard setting of --symmetry.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the aligned map (MRC).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the FSC curve (PNG, PDF or SVG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Align MAP to TRUTH over rotation, shift and handedness, then compare them shell by shell.

    The comparison is on TRUTH's grid: MAP may have another box or voxel size. The FSC is that of the whole boxes unless
    a mask is given, which is the harsher choice. With --symmetry, MAP is also compared with its own average over the
    group, about the axes found in it; of noise that correlation is one over the square root of the group's order.

    Example:  orbitrec evaluate run/initial_model.mrc truth.mrc
    """
    from orbitrec.api import evaluate as compare
    from orbitrec.geometry.point_groups import PointGroup
    from orbitrec.io.files import to_json
    from orbitrec.io.mrc import read_map, write_map

    group = PointGroup.named(symmetry)
    if (poses is None) != (true_poses is None):
        raise InputError("give --poses and --true-poses together: one is compared with the other")
    errors = None if poses is None or true_poses is None else _pose_errors(poses, true_poses, group)
    if plot is not None and plot.suffix.lower() not in _PICTURES:
        raise InputError(f"--plot {plot}: cannot draw a {plot.suffix or 'nameless'} file; end it in .png, .pdf or .svg")
    (grid, map_voxel_A), (truth, voxel_A) = (read_map(path, pixel_size) for path in (map_file, truth_file))
    for path, values in ((map_file, grid), (truth_file, truth)):
        if values.min() == values.max():
            raise InputError(f"{path} is constant: there is nothing to align; check how it was made")
    found = compare(
        grid, truth, voxel_A, moving_voxel_size_A=map_voxel_A, handedness=handedness, mask_radius_A=mask_radius
    )
    if output is not None:
        write_map(output, found.aligned, voxel_A)
    if plot is not None:
        from orbitrec.report.figures import draw_fsc

        draw_fsc(plot, found.fsc, voxel_A)
    facts = _facts(found)
    if group.order > 1:
        facts["symmetry"] = _symmetry(found, group)
    if errors is not None:
        facts["poses"] = _poses(errors)
    if as_json:
        typer.echo(to_json(facts))
    else:
        _print(facts)


def _facts(found: "Comparison") -> dict[str, object]:
    from orbitrec.geometry.rotations import matrix_to_euler

    alignment, fsc, voxel_A = found.alignment, found.fsc, found.voxel_size_A
    return {
        "fsc05_A": found.fsc05_A,
        "fsc0143_A": found.fsc0143_A,
        "correlation": found.correlation,
        "hand": "mirrored" if alignment.mirrored else "same",
        "euler_deg": matrix_to_euler(alignment.rotation).tolist(),
        "shift_A": (alignment.shift_px * voxel_A).tolist(),
        "fsc": {"resolution_A": fsc.resolution_A(voxel_A).tolist(), "value": fsc.value.tolist()},
    }


def _symmetry(found: "Comparison", group: "PointGroup") -> dict[str, object]:
    """How far the aligned map is its own average over the group."""
    from orbitrec.evaluation.fsc import fourier_shell_correlation
    from orbitrec.evaluation.symmetry import find_axes, symmetrised

    volume, voxel_A = found.aligned.double(), found.voxel_size_A
    axes = find_axes(volume, group)
    fsc = fourier_shell_correlation(volume, symmetrised(volume, group, axes))
    return {
        "group": str(group),
        "score": axes.score,
        "fsc05_A": fsc.cutoff_A(0.5, voxel_A),
        "fsc": {"resolution_A": fsc.resolution_A(voxel_A).tolist(), "value": fsc.value.tolist()},
    }


def _pose_errors(poses: Path, truth: Path, group: "PointGroup") -> "Float[Tensor, 'K']":
    """In degrees, of the particles that both tables have.

    Raises:
        InputError: if one of them has no poses, or they have no particle in common.
    """
    from orbitrec.evaluation.poses import angular_errors
    from orbitrec.io.tables import read_table
    from orbitrec.io.transfer import match

    tables = [read_table(path) for path in (poses, truth)]
    known = [table.poses() for table in tables]
    for path, each in zip((poses, truth), known, strict=True):
        if each is None:
            raise InputError(f"{path} has no poses; give a table with angles")
    common = match(*tables)
    rotations = [each[0] for each in known if each is not None]
    return angular_errors(rotations[0][common.source], rotations[1][common.rows], group)


def _poses(errors: "Float[Tensor, 'K']") -> dict[str, object]:
    """How far poses agree with the true ones."""
    return {
        "particles": len(errors),
        "median_deg": float(errors.median()),
        "share_within_5_deg": float((errors < 5).double().mean()),
        "share_within_10_deg": float((errors < 10).double().mean()),
    }


def _print(facts: dict[str, object]) -> None:
    import math

    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for label, name, form in (
        ("FSC 0.5 (Å)", "fsc05_A", ".2f"),
        ("FSC 0.143 (Å)", "fsc0143_A", ".2f"),
        ("correlation", "correlation", ".4f"),
        ("handedness", "hand", ""),
        ("rotation, ZYZ (°)", "euler_deg", ".2f"),
        ("shift, xyz (Å)", "shift_A", ".2f"),
    ):
        value = facts[name]
        values = value if isinstance(value, list) else [value]
        shown = ("none" if v == math.inf else format(v, form) for v in values)
        table.add_row(label, ", ".join(shown))
    if isinstance(found := facts.get("symmetry"), dict):
        resolution = "none" if found["fsc05_A"] == math.inf else format(found["fsc05_A"], ".2f")
        table.add_row(f"FSC 0.5 with its {found['group']} average (Å)", resolution)
        table.add_row(f"symmetry {found['group']}, score", format(found["score"], ".2f"))
    if isinstance(found := facts.get("poses"), dict):
        shares = ", ".join(f"{100 * found[f'share_within_{angle}_deg']:.1f} % within {angle}°" for angle in (5, 10))
        table.add_row(f"poses of {found['particles']}", f"{shares}, median {found['median_deg']:.1f}°")
    Console().print(table)

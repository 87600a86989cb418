"""The page of a run: one HTML file with everything in it, that opens without a network."""

import base64
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from jinja2 import Environment
from torch import Tensor

from orbitrec import __version__
from orbitrec.evaluation.orientation import ViewAverages
from orbitrec.io.files import replacing, to_json
from orbitrec.report.continuing import next_steps
from orbitrec.report.isosurface import fine_grid, surface_level, surface_share
from orbitrec.report.page_facts import assumed_facts, file_facts, read_facts, resolution_sentences, tile_facts
from orbitrec.report.page_pictures import (
    fsc_picture,
    grey_pictures,
    history_picture,
    plane_pictures,
    shifts_picture,
    views_picture,
)
from orbitrec.report.run_files import RunFiles

REPORT = "report.html"
_VIEWER_EDGE = 88
"""Voxels along an edge of the map that turns on the page, a byte each."""
_COLOUR = (127, 178, 220)
_CURVES = {
    "truth": ("with the truth", 0.5),
    "half_maps": ("half-maps", 0.143),
    "masked": ("within the mask, not corrected", None),
    "unmasked": ("without a mask", None),
    "phases_random": ("phases random", None),
}
"""Columns of ``fsc.csv``: what a curve is, and where its resolution is read."""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run, from the files in it, and return its path.

    Raises:
        InputError: if the folder holds no finished run, a file in it is broken, or it cannot be written to.
    """
    run = RunFiles.read(folder)
    page = files("orbitrec.report") / "page"
    css, script, layout = (
        (page / name).read_text(encoding="utf-8") for name in ("report.css", "viewer.js", "report.html")
    )
    view = _viewer_map(run)
    text = Environment(autoescape=True, trim_blocks=True).from_string(layout).render(
        _content(run, view["level"]), version=__version__, css=css, script=script, map=view,
        map_json=json.dumps(view),
    )  # fmt: skip
    with replacing(folder / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / REPORT


def _content(run: RunFiles, level: float) -> dict[str, object]:
    """What the page says, by the names that the template has."""
    summary, n = run.summary, len(run.volume)
    kind = {"initial_model": "Initial model", "refined": "Refined map"}[run.name]
    half_width = _half_width(run)
    curves = {label: (run.curves[name], at) for name, (label, at) in _CURVES.items() if name in run.curves}
    return {
        "title": f"{kind} of {Path(summary['input']).name}",
        "subtitle": f"{run.folder} · orbitrec {summary['orbitrec']}",
        "warnings": summary["warnings"],
        "tiles": tile_facts(run),
        "tables": {"What was read": read_facts(summary), "What was assumed": assumed_facts(summary)},
        "resolution": resolution_sentences(run),
        "pictures": {
            "fsc": fsc_picture(curves, run.voxel_size_A),
            "directions": views_picture(run.rotations),
            "shifts": shifts_picture(run.shifts_px, run.voxel_size_A),
            "history": history_picture(run.history, str(summary["chosen_start"])) if run.history else None,
        },
        "planes": plane_pictures(run.volume, half_width),
        "planes_note": f"The middle {(2 * half_width + 1) * run.voxel_size_A:.0f} Å of the box of "
        f"{n * run.voxel_size_A:.0f} Å. Slices share one grey scale, and so do projections; dense is bright.",
        "views": [] if run.views is None else _views(run.views, half_width),
        "starts": _starts(summary),
        "steps": next_steps(run, level),
        "files": file_facts(run),
        "facts": to_json(summary),
    }


def _viewer_map(run: RunFiles) -> dict[str, Any]:
    """The middle of the map in bytes, on about ``_VIEWER_EDGE`` voxels, and the levels it can be cut at."""
    n, half = len(run.volume), _half_width(run)
    smooth = fine_grid(run.volume)
    share = surface_share(smooth)
    level = surface_level(smooth, share)
    high = min(float(run.volume.max()), 4 * level) if level > 0 else float(run.volume.max())
    low = min(0.0, level) if level > 0 else float(run.volume.min())
    edge = min(_VIEWER_EDGE, 2 * (2 * half + 1))
    fine = fine_grid(run.volume, round(n * edge / (2 * half + 1)))
    near = slice(len(fine) // 2 - edge // 2, len(fine) // 2 - edge // 2 + edge)
    scaled = (255 * (fine[near, near, near] - low) / (high - low)).clamp(0, 255).round().to(torch.uint8)
    return {
        "n": len(scaled),
        "voxel_A": run.voxel_size_A * n / len(fine),
        "low": low,
        "high": high,
        "least": level / 4 if level > 0 else low,
        "most": high,
        "level": level,
        "zoom": min(4.0, max(1.0, 0.9 / _extent(scaled > 255 * (level - low) / (high - low)))),
        "enclosed": f"{100 * share:.1f} %",
        "colour": _COLOUR,
        "bytes": base64.b64encode(scaled.numpy().tobytes()).decode("ascii"),
    }


def _extent(inside: Bool[Tensor, "n n n"]) -> float:
    """Radius from the origin that holds all but a thousandth of the voxels inside, in half boxes."""
    n = len(inside)
    radii = (inside.nonzero().float() - n // 2).norm(dim=1)
    return float(radii.quantile(0.999)) / (n / 2)


def _half_width(run: RunFiles) -> int:
    """Voxels from the origin to the edge of what is shown: the particle's ball and a little more."""
    n = len(run.volume)
    radius_px = run.summary["diameter_A"] / run.voxel_size_A / 2
    return min(math.ceil(1.08 * radius_px) + 2, (n - 1) // 2)


def _views(views: ViewAverages, half_width: int) -> list[dict[str, object]]:
    n = views.averages.shape[-1]
    near = slice(n // 2 - half_width, n // 2 + half_width + 1)
    x, y, z = views.directions.unbind(1)
    rot, tilt = torch.rad2deg(torch.atan2(y, x)), torch.rad2deg(torch.acos(z.clamp(-1, 1)))
    rows: list[dict[str, object]] = []
    for index, count in enumerate(views.counts.tolist()):
        pair = {"average": views.averages[index], "projection": views.projections[index]}
        pictures = {name: grey_pictures({name: image[near, near]})[name] for name, image in pair.items()}
        rows.append(
            {
                **pictures,
                "count": count,
                "rot": f"{rot[index]:.0f}".replace("-", "−"),
                "tilt": f"{tilt[index]:.0f}",
                "correlation": f"{views.correlations[index]:.2f}",
            }
        )
    return rows


def _starts(summary: Mapping[str, Any]) -> list[dict[str, object]]:
    scores, kinds = summary["start_log_likelihoods"], summary["start_kinds"]
    if len(scores) < 2:
        return []
    agreements = {int(index): f"{value:.2f}" for index, value in summary["start_agreements"].items()}
    return [
        {
            "index": index,
            "kind": kind,
            "score": f"{score:.2f}",
            "chosen": index == summary["chosen_start"],
            "agreement": agreements.get(index, "not followed"),
        }
        for index, (kind, score) in enumerate(zip(kinds, scores, strict=True), start=1)
    ]

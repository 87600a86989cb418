"""The page of a run: one HTML file that holds everything it shows and opens without a network."""

import base64
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from jinja2 import Environment, FunctionLoader
from torch import Tensor

from orbitrec import __version__
from orbitrec.evaluation.orientation import ViewAverages
from orbitrec.io.files import replacing
from orbitrec.report.directions import direction_sentences
from orbitrec.report.isosurface import fine_grid, surface_level, surface_share
from orbitrec.report.next_steps import next_steps
from orbitrec.report.page_facts import assumed_facts, file_facts, read_facts, resolution_sentences, tile_facts
from orbitrec.report.page_pictures import (
    conical_fsc_picture,
    fsc_picture,
    grey_pictures,
    history_picture,
    plane_pictures,
    shifts_picture,
    views_picture,
)
from orbitrec.report.run_files import RunFiles
from orbitrec.report.summary import Summary

REPORT = "report.html"
_VIEWER_EDGE = 88
"""Voxels along an edge of the map in the page's viewer, a byte each."""
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
    view = _viewer_map(run)
    content = _content(run, view["level"]) | {"map": view, "map_json": json.dumps(view)}
    return write_page(folder, "report.html", {**content, "script": page_part("viewer.js")})


def page_part(name: str) -> str:
    """The text of a template, style or script of this package's pages."""
    return (files("orbitrec.report") / "page" / name).read_text(encoding="utf-8")


def write_page(folder: Path, template: str, content: Mapping[str, object]) -> Path:
    """Fill a template, which extends ``base.html``, and write it as :data:`REPORT`.

    Args:
        folder: gets the page.
        template: its name.
        content: by the names that the template has for it.

    Returns:
        The page's path.
    """
    pages = Environment(autoescape=True, trim_blocks=True, loader=FunctionLoader(page_part))
    text = pages.get_template(template).render(content, version=__version__, css=page_part("report.css"))
    with replacing(folder / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / REPORT


def _content(run: RunFiles, level: float) -> dict[str, object]:
    """The content of the page, by the names that the template has for it."""
    summary, n = run.summary, len(run.volume)
    half_width = _half_width(run)
    curves = {label: (run.curves[name], at) for name, (label, at) in _CURVES.items() if name in run.curves}
    return {
        "title": f"{run.kind.title} of {Path(summary.input).name}",
        "subtitle": f"{run.folder} · orbitrec {summary.orbitrec}",
        "checks": summary.checks,
        "tiles": tile_facts(run),
        "tables": {"What was read": read_facts(summary), "What was assumed": assumed_facts(summary)},
        "resolution": resolution_sentences(run),
        "by_direction": _by_direction(run),
        "pictures": {
            "fsc": fsc_picture(curves, run.voxel_size_A),
            "directions": views_picture(run.rotations),
            "shifts": shifts_picture(run.shifts_px, run.voxel_size_A),
            "history": _history_picture(run),
        },
        "planes": plane_pictures(run.volume, half_width),
        "planes_note": f"The middle {(2 * half_width + 1) * run.voxel_size_A:.0f} Å of the box of "
        f"{n * run.voxel_size_A:.0f} Å. Slices share one grey scale, and so do projections; dense is bright.",
        "views": [] if run.views is None else _views(run.views, half_width),
        "starts": _starts(summary),
        "steps": next_steps(run, level),
        "files": file_facts(run),
        "facts": summary.to_json(),
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
    radius_px = run.summary.diameter_A / run.voxel_size_A / 2
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


def _history_picture(run: RunFiles) -> str | None:
    chosen = run.summary.chosen_start
    return history_picture(run.history, None if chosen is None else str(chosen)) if run.history else None


def _by_direction(run: RunFiles) -> dict[str, object] | None:
    """Sentences and picture of the resolution in each direction."""
    found, facts = run.conical_fsc, run.summary.directions
    if found is None or facts is None:
        return None
    return {
        "sentences": direction_sentences(found, run.voxel_size_A, facts.scf_star, facts.unsampled),
        "picture": conical_fsc_picture(found, run.voxel_size_A),
    }


def _starts(summary: Summary) -> list[dict[str, object]]:
    """Rows of the table of starts, if there were several."""
    if len(summary.starts) < 2:
        return []
    return [
        {
            "index": index,
            "source": start.source,
            "score": "–" if start.log_likelihood is None else f"{start.log_likelihood:.2f}",
            "chosen": start.chosen,
            "agreement": "not followed" if start.agreement is None else f"{start.agreement:.2f}",
        }
        for index, start in enumerate(summary.starts, start=1)
    ]

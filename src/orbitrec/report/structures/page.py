"""The page and the picture of a run with several classes, side by side, from the files of the run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file
from orbitrec.io.mrc import read_map
from orbitrec.report.figures import save_figure
from orbitrec.report.fsc_curves import resolution_text
from orbitrec.report.page import write_page
from orbitrec.report.page_facts import duration_text
from orbitrec.report.page_pictures import grey_pictures
from orbitrec.report.summary import RunKind

KIND = "structures"
"""What ``summary.json`` says that the run made."""
DRAWN = 12
"""Classes that the picture shows; the page shows all."""
_AXES = (("z", 0), ("y", 1), ("x", 2))


def is_structures(folder: Path) -> bool:
    """Whether a folder is that of a finished run with several classes."""
    path = folder / "summary.json"
    try:
        return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("kind") == KIND
    except (ValueError, AttributeError):
        return False


def read_structures(folder: Path) -> dict[str, Any]:
    """The facts of a run with several classes.

    Raises:
        InputError: if the folder holds no such run.
    """
    path = existing_file(folder / "summary.json")
    if not is_structures(folder):
        raise InputError(f"{folder} holds no run with several classes")
    return json.loads(path.read_text(encoding="utf-8"))


def write_structures_page(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run with several classes, and return its path.

    Raises:
        InputError: if the folder holds no such run, a file in it is broken, or it cannot be written to.
    """
    summary = read_structures(folder)
    classes = [{**facts, **_words(facts), "projections": _projections(folder, facts)} for facts in summary["classes"]]
    content = {
        "title": f"{len(classes)} structures in {Path(summary['input']).name}",
        "subtitle": f"{folder} · orbitrec {summary['orbitrec']}",
        "checks": summary["checks"],
        "tiles": {
            "particles": f"{summary['particles']:,}",
            "classes": f"{len(classes)} of {summary['asked']}",
            "time": duration_text(summary["seconds"]["total"]),
        },
        "classes": classes,
        "edge_A": f"{summary['box_px'] * summary['pixel_size_A']:.0f}",
        "folder": folder,
        "files": {
            **{f"{facts['folder']}/": f"class {facts['number']}: map, half-maps, report" for facts in classes},
            summary["posed"]: "all particles with their class, and the pose of that",
            "classes.csv": "probability of every class, and log-likelihood, of every particle",
            "summary.png": "the maps side by side",
            "summary.json": "all facts of the run",
        },
        "facts": json.dumps(summary, indent=2, ensure_ascii=False),
    }
    return write_page(folder, "structures.html", content)


def draw_structures(folder: Path) -> None:
    """Draw ``summary.png``: projections of each map, its share and its resolution, one class in a row.

    Raises:
        InputError: if the folder holds no run with several classes, or a map in it is broken.
    """
    shown = read_structures(folder)["classes"][:DRAWN]
    figure = Figure(figsize=(8, 2.7 * len(shown)), dpi=100, layout="constrained", facecolor="white")
    for line, facts in zip(figure.subplots(len(shown), 3, squeeze=False), shown, strict=True):
        volume = _map(folder, facts)
        images = [volume.sum(axis).numpy() for _, axis in _AXES]
        low, high = np.percentile(images, (0.5, 99.9))
        for axes, image, (along, _) in zip(line, images, _AXES, strict=True):
            axes.imshow(image, cmap="gray", origin="lower", vmin=low, vmax=high, interpolation="bicubic")
            axes.set(xticks=(), yticks=(), xlabel=f"along {along}")
        words = _words(facts)
        line[1].set_title(f"class {facts['number']}: {words['count']} ({words['percent']}), {words['resolution']}")
    save_figure(folder / "summary.png", figure)


def _words(facts: dict[str, Any]) -> dict[str, str]:
    found = facts["fsc0143_A"]
    return {
        "count": f"{facts['particles']:,}",
        "percent": f"{100 * facts['share']:.0f} %",
        "resolution": resolution_text(float("inf") if found is None else found),
        "certain": f"{facts['certainty']:.2f}",
        "diameter": f"{facts['diameter_A']:.0f} Å",
    }


def _map(folder: Path, facts: dict[str, Any]) -> Float[Tensor, "n n n"]:
    return read_map(existing_file(folder / facts["folder"] / f"{RunKind.INITIAL_MODEL}.mrc"))[0].double()


def _projections(folder: Path, facts: dict[str, Any]) -> dict[str, str]:
    volume = _map(folder, facts)
    return grey_pictures({f"along {along}": volume.sum(axis) for along, axis in _AXES})

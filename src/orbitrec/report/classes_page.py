"""The page of a classification: a gallery of its averages, from the files of the run."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file
from orbitrec.io.mrc import read_header
from orbitrec.report.page import write_page
from orbitrec.report.page_facts import duration_text
from orbitrec.report.page_pictures import grey_pictures

_FILES = {
    "classes.mrcs": "the averages, by falling size",
    "classes.csv": "what was measured of each",
    "members.mrcs": "raw members of every class, low-passed to the averages' resolution: eight of each, in their order",
    "particle_classes.csv": "class, its probability, and whether it is kept, of every particle",
    "history.csv": "likelihood, step by step",
    "summary.json": "all facts of the run",
}


def write_classes_page(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished classification, from the files in it, and return its path.

    Raises:
        InputError: if the folder holds no finished classification, a file in it is broken, or it cannot be written to.
    """
    return write_page(folder, "classes.html", _content(folder, _read_summary(folder)))


def _read_summary(folder: Path) -> dict[str, Any]:
    path = existing_file(folder / "summary.json")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["kind"] == "classes":
            return summary
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is broken ({error}); run again") from error
    raise InputError(f"{folder} holds no classification")


def _content(folder: Path, summary: dict[str, Any]) -> dict[str, object]:
    averages, members = (_read_images(folder / name) for name in ("classes.mrcs", "members.mrcs"))
    shown = len(members) // max(1, len(averages))
    tables = {summary["classified"]: "all particles with class, its probability, in-plane angle and origin"}
    if summary["kept_table"]:
        tables[summary["kept_table"]] = "those of the good classes"
    good = sum(each["good"] for each in summary["classes"])
    return {
        "title": f"Classes of {Path(summary['input']).name}",
        "subtitle": f"{folder} · orbitrec {summary['orbitrec']}",
        "checks": summary["checks"],
        "tiles": {
            "particles": f"{summary['particles']:,}",
            "kept": f"{summary['kept']:,}",
            "good classes": f"{good} of {len(summary['classes'])}",
            "averages to": f"{summary['resolution_A']:.1f} Å",
            "time": duration_text(summary["seconds"]["total"]),
            "memory": f"{summary['peak_memory_GiB']:.2f} GiB",
        },
        "classes": [
            {**facts, **_pictures(averages[d], members[d * shown : (d + 1) * shown]), **_words(facts)}
            for d, facts in enumerate(summary["classes"])
        ],
        "edge_A": f"{summary['box_px'] * summary['pixel_size_A']:.0f}",
        "resolution_A": f"{summary['resolution_A']:.1f}",
        "folder": folder,
        "files": {**tables, **_FILES},
        "facts": json.dumps({**summary, "classes": "see classes.csv"}, indent=2, ensure_ascii=False),
    }


def _words(facts: dict[str, Any]) -> dict[str, str]:
    found = facts["resolution_A"]
    return {
        "resolution": "unresolved" if found is None else f"{found:.1f} Å",
        "count": f"{facts['members']:,}",
    }


def _pictures(average: Float[Tensor, "n n"], members: Float[Tensor, "e n n"]) -> dict[str, str]:
    rows = [torch.cat(list(four), dim=1) for four in members.split(4)]
    # y points upwards in pictures: the surest members are in the last of the rows.
    return grey_pictures({"average": average}) | grey_pictures({"raw": torch.cat(rows[::-1])})


def _read_images(path: Path) -> Float[Tensor, "d n n"]:
    header = read_header(path)
    with header.path.open("rb", buffering=0) as file:
        return torch.from_numpy(header.read_sections(file, 0, header.shape[0]).astype("float32"))

"""What a report's page says in words and numbers."""

import math
from collections.abc import Mapping
from typing import Any

from orbitrec.report.fsc import resolution_text
from orbitrec.report.run_files import RunFiles

Facts = dict[str, str]


def tile_facts(run: RunFiles) -> Facts:
    """The few numbers that head the page."""
    summary = run.summary
    tiles = {"particles": f"{summary['particles']:,}"}
    if "truth" in run.curves:
        tiles["FSC 0.5 with the truth"] = _resolution(summary, "fsc05_A")
    tiles["half-maps, FSC 0.143"] = _resolution(summary, "half_maps_fsc0143_A")
    tiles["poses searched to"] = _resolution(summary, "search_resolution_A")
    tiles["time"] = _duration(summary["seconds"]["total"])
    tiles["memory"] = f"{summary['peak_memory_GiB']:.2f} GiB"
    return tiles


def read_facts(summary: Mapping[str, Any]) -> Facts:
    """What the input held."""
    box, pixel = summary["box_px"], summary["pixel_size_A"]
    return {
        "input": str(summary["input"]),
        "format": str(summary["dialect"]),
        "particles": f"{summary['particles']:,}",
        "box": f"{box} px = {box * pixel:.0f} Å",
        "pixel size": f"{pixel:g} Å",
        "CTF": "from the file, for every particle" if summary["ctf"] else "none: taken as free of a CTF",
    }


def assumed_facts(summary: Mapping[str, Any]) -> Facts:
    """What was chosen, found or taken for granted."""
    return {
        "particle diameter": f"{summary['diameter_A']:.0f} Å; outside this ball the map is zero",
        "contrast": _contrast(summary),
        "hand": summary["hand"],
        "symmetry": _symmetry(summary),
        "search for poses": f"to {summary['search_resolution_A']:.1f} Å",
        "shifts": f"found to spread by {summary['shift_spread_px'] * summary['pixel_size_A']:.1f} Å in x and in y",
        "half-sets": summary.get("half_sets_from", "every other particle"),
        "noise": "its spectrum taken from the corners of the images",
        "seed": f"{summary['seed']}; {_again(summary)} this map again",
    }


def resolution_sentences(run: RunFiles) -> list[str]:
    """How good the map is, and what the number is worth."""
    summary = run.summary
    halves = _resolution(summary, "half_maps_fsc0143_A")
    worth = (
        "The halves were refined apart, each with its own map: the number stands for the resolution."
        if summary["half_sets"] == "independent"
        else "The poses of both halves were found with one reference, so this says how far the map is reproducible; "
        "how far it is right it does not say."
    )
    sentences = [
        f"The maps of two halves of the particles agree to {halves} (FSC 0.143, within the mask and corrected for "
        f"what it adds; {_resolution(summary, 'half_maps_unmasked_fsc0143_A')} without a mask). {worth}"
    ]
    if "truth" in run.curves:
        sentences.append(
            f"With the truth that was given: FSC 0.5 at {_resolution(summary, 'fsc05_A')}, 0.143 at "
            f"{_resolution(summary, 'fsc0143_A')}, correlation {summary['correlation']:.3f}"
            f"{', of the mirror image' if summary['mirrored'] else ''}."
        )
    return sentences


def file_facts(run: RunFiles) -> Facts:
    """The files of the run and what is in them."""
    known = {
        f"{run.name}.mrc": "the map, dense positive, Å per voxel in the header",
        "half1.mrc": "map of one half of the particles, not masked",
        "half2.mrc": "map of the other half",
        "mask.mrc": "where the particle is, with soft edges",
        run.summary["posed"]: "the particles with their poses, otherwise as they were given",
        "fsc.csv": "Fourier shell correlations",
        "fsc.star": "the same as a STAR file",
        "history.csv": "every step of the climb",
        "summary.json": "the numbers of this page",
        "summary.png": "a picture of the run",
        "views.mrcs": "averages of particles, then the map's projections",
        "views.csv": "their directions",
    }
    return {name: what for name, what in known.items() if (run.folder / name).exists()}


def _again(summary: Mapping[str, Any]) -> str:
    """Where the same seed gives the same map; runs of earlier versions were all on the CPU."""
    device = summary.get("device", "cpu")
    if device == "cpu":
        return f"with {summary['threads']} thread(s) on this machine it gives"
    return f"on {device} of this machine it should give"


def _symmetry(summary: Mapping[str, Any]) -> str:
    score = summary.get("symmetry_score")
    return "C1: none" if score is None else f"{summary['symmetry']}, imposed; without it the map has it to {score:.2f}"


def _contrast(summary: Mapping[str, Any]) -> str:
    """What the map was made with, and what the images said before."""
    before = summary["contrast_of_images"]
    return f"{summary['contrast']} in the images" + (
        "" if before == summary["contrast"] else f"; before the run: {before}"
    )


def _resolution(summary: Mapping[str, Any], key: str) -> str:
    """JSON has no ∞: a curve without resolution is null."""
    value = summary.get(key)
    return resolution_text(math.inf if value is None else value)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"

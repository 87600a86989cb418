"""What the page of a run says in words and numbers."""

from orbitrec.cryoem.confidence import calibration, verdict
from orbitrec.report.fsc_curves import resolution_text
from orbitrec.report.run_files import RunFiles
from orbitrec.report.summary import Confidence, HalfSetKind, Handedness, Summary

Facts = dict[str, str]


def tile_facts(run: RunFiles) -> Facts:
    """The few numbers that head the page."""
    summary = run.summary
    tiles = {"particles": f"{summary.particles:,}"}
    if summary.confidence is not None:
        tiles["right, at a first guess"] = f"{100 * summary.confidence.probability:.0f} %"
    if summary.truth is not None:
        tiles["FSC 0.5 with the truth"] = resolution_text(summary.truth.fsc05_A)
    tiles["half-maps, FSC 0.143"] = resolution_text(summary.half_maps.fsc0143_A)
    tiles["poses searched to"] = resolution_text(summary.search_resolution_A)
    tiles["time"] = duration_text(summary.total_seconds)
    if summary.peak_memory_GiB is not None:
        tiles["memory"] = f"{summary.peak_memory_GiB:.2f} GiB"
    return tiles


def read_facts(summary: Summary) -> Facts:
    """What was read from the input."""
    box, pixel = summary.box_px, summary.pixel_size_A
    return {
        "input": summary.input,
        "format": summary.dialect,
        "particles": f"{summary.particles:,}",
        "box": f"{box} px = {box * pixel:.0f} Å",
        "pixel size": f"{pixel:g} Å",
        "CTF": "from the file, for every particle" if summary.ctf else "none: taken as free of a CTF",
    }


def assumed_facts(summary: Summary) -> Facts:
    """What was chosen, found or taken for granted."""
    return {
        "particle diameter": f"{summary.diameter_A:.0f} Å; outside this ball the map is zero",
        "contrast": _contrast(summary),
        "handedness": handedness_text(summary.handedness),
        "symmetry": _symmetry(summary),
        "pose search": f"to {summary.search_resolution_A:.1f} Å",
        "shifts": f"found to spread by {summary.shift_spread_px * summary.pixel_size_A:.1f} Å in x and in y",
        "half-sets": summary.half_maps.origin,
        "noise": "its spectrum taken from the corners of the images",
        "seed": f"{summary.seed}; {_repeatability(summary)} this map again",
    }


def confidence_text(found: Confidence) -> str:
    """The probability that the map is right, and what says so."""
    return (
        f"with a probability of {100 * found.probability:.0f} %: {verdict(found.probability)} (log-likelihood of a "
        f"particle {found.log_likelihood:.1f}, half-maps just beyond the search {found.beyond:.2f}, nearest other "
        f"start {found.starts:.2f})"
    )


def _calibrated() -> str:
    """What the probability means, and how much it rests on."""
    return (
        "Right is a map that agrees with the truth (FSC 0.5) to at least half the resolution of known poses; "
        f"the probability is fitted to {calibration().runs} simulated runs, some of which went wrong."
    )


def handedness_text(handedness: Handedness) -> str:
    """What is known of the map's handedness."""
    mirrored = "; mirrored, as asked" if handedness is Handedness.MIRRORED else ""
    return f"undetermined: the mirror image of the map explains the images equally well{mirrored}"


def resolution_sentences(run: RunFiles) -> list[str]:
    """How good the map is, and what the number is worth."""
    halves, truth = run.summary.half_maps, run.summary.truth
    worth = (
        "The halves were refined apart, each with its own map: the number stands for the resolution."
        if halves.kind is HalfSetKind.INDEPENDENT
        else "The poses of both halves were found with one reference, so this says how far the map is reproducible; "
        "how far it is right it does not say."
    )
    told = run.summary.confidence
    sentences = [] if told is None else [f"The map is right {confidence_text(told)}. {_calibrated()}"]
    sentences.append(
        f"The maps of two halves of the particles agree to {resolution_text(halves.fsc0143_A)} (FSC 0.143, within the "
        "mask and corrected for its effect on the correlation; "
        f"{resolution_text(halves.unmasked_fsc0143_A)} without a mask). {worth}"
    )
    if truth is not None:
        sentences.append(
            f"With the truth that was given: FSC 0.5 at {resolution_text(truth.fsc05_A)}, 0.143 at "
            f"{resolution_text(truth.fsc0143_A)}, correlation {truth.correlation:.3f}"
            f"{', of the mirror image' if truth.mirrored else ''}."
        )
    return sentences


def file_facts(run: RunFiles) -> Facts:
    """The files of the run and what is in them."""
    known = {
        run.map_file.name: "the map, dense positive, Å per voxel in the header",
        "half1.mrc": "map of one half of the particles, not masked",
        "half2.mrc": "map of the other half",
        "mask.mrc": "where the particle is, with soft edges",
        run.summary.posed: "the particles with their poses, otherwise as they were given",
        "fsc.csv": "Fourier shell correlations",
        "conical_fsc.csv": "the half-maps' correlation in cones around many axes, shell by shell",
        "fsc.star": "the same as a STAR file",
        "history.csv": "every step of the search: stage, resolution, log-likelihood",
        "summary.json": "the numbers of this page",
        "summary.png": "a picture of the run",
        "views.mrcs": "averages of particles, then the map's projections",
        "views.csv": "their directions",
    }
    return {name: what for name, what in known.items() if (run.folder / name).exists()}


def _repeatability(summary: Summary) -> str:
    """Where the same seed gives the same map."""
    if summary.device == "cpu":
        return f"with {summary.threads} thread(s) on this machine it gives"
    return f"on {summary.device} of this machine it should give"


def _symmetry(summary: Summary) -> str:
    if summary.symmetry_score is None or summary.symmetry_kept is None:
        return "C1: none"
    return (
        f"{summary.symmetry}, imposed; without it the map correlates by {summary.symmetry_score:.2f} with itself "
        f"rotated, and with it has {100 * summary.symmetry_kept:.0f} % of the log-likelihood"
    )


def _contrast(summary: Summary) -> str:
    """What the map was made with, and what the images said before."""
    before = summary.contrast_of_images
    return f"{summary.contrast} in the images" + ("" if before is summary.contrast else f"; before the run: {before}")


def duration_text(seconds: float) -> str:
    """A duration in the unit that a person would use."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"

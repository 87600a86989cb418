"""A classification on disk: averages, particles with their classes, facts and page."""

import math
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec import __version__
from orbitrec.cryoem.classes.config import ClassesConfig
from orbitrec.cryoem.classes.pipeline import Classification
from orbitrec.errors import InputError, WriteError
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.io.classified import write_classified
from orbitrec.io.files import existing_file, printable, to_json, write_csv, write_json
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import RunFolder
from orbitrec.io.tables import read_table
from orbitrec.report.classes_page import write_classes_page
from orbitrec.report.page import REPORT
from orbitrec.report.run_files import HISTORY, SUMMARY

CLASSES, MEMBERS = "classes.mrcs", "members.mrcs"
CLASS_TABLE, PARTICLE_TABLE = "classes.csv", "particle_classes.csv"
SHOWN_MEMBERS = 8
"""Raw members of a class that the page shows."""
KIND = "classes"
"""What ``summary.json`` says that the run made."""


@dataclass(frozen=True)
class ClassFacts:
    """A class in the table.

    Attributes:
        number: from 1, by falling size.
        members: particles that are probably what the class shows.
        resolution_A: where the correlation of the averages of two halves falls below 0.143; None if nowhere above.
        signal: mean log-likelihood of a member over that of an image of noise.
        offset_A: distance of the centre of the average's density from the image's.
        symmetry: rotational, such as C2; C1 where none is seen.
        symmetry_evidence: between 0 and 1, of that symmetry or else of the likeliest.
        score: how probably the class shows the molecule, between 0 and 1.
        good: whether its members are kept.
        why: what speaks against it; empty for good classes.
    """

    number: int
    members: int
    resolution_A: float | None
    signal: float
    offset_A: float
    symmetry: str
    symmetry_evidence: float
    score: float
    good: bool
    why: str


@dataclass(frozen=True)
class ClassesSummary:
    """The facts of a classification, as ``summary.json`` has them.

    Attributes:
        orbitrec: version.
        kind: what the run made, :data:`KIND`.
        input: the table of particles.
        particles: how many.
        kept: how many are members of good classes.
        box_px: pixels along an edge of an image.
        pixel_size_A: of the images, in Å.
        dialect: of the table.
        classified: name of the table with classes.
        kept_table: name of the table of those that are kept; None where there are none.
        ctf: whether images have a CTF.
        checks: reasons to doubt the result, one sentence each.
        seed: of random numbers.
        threads: of torch.
        diameter_A: of the averages' disc.
        resolution_A: finest of the averages.
        contrast_of_images: in words.
        classes: by falling size.
        seconds: of each part of the run.
        peak_memory_GiB: of the process.
    """

    orbitrec: str
    kind: str
    input: str
    particles: int
    kept: int
    box_px: int
    pixel_size_A: float
    dialect: str
    classified: str
    kept_table: str | None
    ctf: bool
    checks: tuple[str, ...]
    seed: int
    threads: int
    diameter_A: float
    resolution_A: float
    contrast_of_images: str
    classes: tuple[ClassFacts, ...]
    seconds: dict[str, float]
    peak_memory_GiB: float

    def to_json(self) -> str:
        """The text of ``summary.json``."""
        return to_json({"format": 1, **asdict(self)})


def classes_summary(stack: ParticleStack, config: ClassesConfig, found: Classification) -> ClassesSummary:
    """The facts of a classification.

    Args:
        stack: the particles.
        config: of the run.
        found: by it.

    Returns:
        The record that goes to ``summary.json``.
    """
    pixel, kept = stack.pixel_size_A, int(found.kept.sum())
    notes = found.image_statistics.notes(diameter_given=config.diameter_A is not None)
    return ClassesSummary(
        orbitrec=__version__,
        kind=KIND,
        input=printable(stack.table.path),
        particles=len(stack),
        kept=kept,
        box_px=stack.n,
        pixel_size_A=pixel,
        dialect=stack.table.dialect,
        classified=f"particles{stack.table.suffix}",
        kept_table=f"kept{stack.table.suffix}" if kept else None,
        ctf=stack.ctf is not None,
        checks=(*_doubts(found), *notes),
        seed=config.seed,
        threads=torch.get_num_threads(),
        diameter_A=2 * found.radius_px * pixel,
        resolution_A=found.resolution_A,
        contrast_of_images=found.image_statistics.contrast_text(),
        classes=tuple(_facts(found, pixel)),
        seconds=found.seconds | {"total": sum(found.seconds.values())},
        peak_memory_GiB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def _doubts(found: Classification) -> list[str]:
    if bool(found.kept.any()):
        return []
    return ["No class looks like a molecule: see the averages, and try fewer classes or another `diameter_A`."]


def _facts(found: Classification, pixel_size_A: float) -> list[ClassFacts]:
    measured, ranking = found.measured, found.ranking
    resolutions = measured.resolutions_A(pixel_size_A)
    return [
        ClassFacts(
            number=d + 1,
            members=int(measured.members[d]),
            resolution_A=resolutions[d] if math.isfinite(resolutions[d]) else None,
            signal=round(float(measured.likelihood[d]), 2),
            offset_A=round(float(measured.offsets_px[d]) * pixel_size_A, 2),
            symmetry=f"C{int(measured.fold[d])}",
            symmetry_evidence=round(float(measured.symmetry[d]), 3),
            score=round(float(ranking.score[d]), 3),
            good=bool(ranking.good[d]),
            why=ranking.why[d],
        )
        for d in range(len(resolutions))
    ]


def write_classes(run: RunFolder, stack: ParticleStack, config: ClassesConfig, found: Classification) -> ClassesSummary:
    """Write the files of a classification.

    ``classes.mrcs`` (averages by falling size) and ``classes.csv``; the particles in the input's dialect with their
    classes, and those that are kept; ``particle_classes.csv``; ``members.mrcs`` (raw members of every class);
    ``history.csv``; ``summary.json``; ``report.html``.

    Args:
        run: the folder.
        stack: the particles.
        config: of the run.
        found: by it.

    Returns:
        The facts of the run.

    Raises:
        WriteError: if the disk is full, or the page cannot be made of what was written.
    """
    summary, pixel = classes_summary(stack, config, found), stack.pixel_size_A
    with StackWriter(run.file(CLASSES), len(found.images), stack.n, pixel) as averages:
        averages.write(found.images)
    _write_members(run, stack, found)
    write_csv(run.file(CLASS_TABLE), [asdict(each) for each in summary.classes])
    write_csv(run.file(PARTICLE_TABLE), _particle_rows(found))
    write_csv(run.file(HISTORY), [asdict(row) for row in found.history])
    _write_tables(run, stack, found, summary)
    write_json(run.file(SUMMARY), {"format": 1, **asdict(summary)})
    run.file(REPORT)
    try:
        write_classes_page(run.path)
    except InputError as error:  # the rest is whole, and must not be removed for the page
        raise WriteError(f"the run in {run.path} is complete, but its report could not be made: {error}") from error
    return summary


def _write_tables(run: RunFolder, stack: ParticleStack, found: Classification, summary: ClassesSummary) -> None:
    posterior = found.measured.found
    path = run.file(summary.classified)
    stacks = [Path(header.path).absolute() for header in stack.stacks]
    for suffix in stack.table.companions:
        run.file(path.with_suffix(suffix).name)
    write_classified(
        stack.table,
        path,
        found.classes,
        found.probability,
        posterior.angles,
        posterior.shifts_px * stack.pixel_size_A,
        stacks,
    )
    if summary.kept_table is not None:
        for suffix in stack.table.companions:
            run.file(Path(summary.kept_table).with_suffix(suffix).name)
        read_table(path).write_rows(run.file(summary.kept_table), found.kept.nonzero().flatten())


def _write_members(run: RunFolder, stack: ParticleStack, found: Classification) -> None:
    """The surest members of every class, as they are but for a low-pass filter; a class with few has empty images."""
    count = len(found.images)
    low = radial_frequencies(stack.n) <= 2 * math.pi * stack.pixel_size_A / found.resolution_A
    with StackWriter(run.file(MEMBERS), count * SHOWN_MEMBERS, stack.n, stack.pixel_size_A) as out:
        for d in range(count):
            shown = torch.zeros(SHOWN_MEMBERS, stack.n, stack.n)
            rows = surest(found.classes, found.probability, d)
            if len(rows):
                images = stack.images(rows)
                shown[: len(rows)] = centred_ifft(centred_fft(images) * low).real.float()
            out.write(shown)


def surest(classes: Int[Tensor, "N"], probability: Float[Tensor, "N"], number: int) -> Int[Tensor, "r"]:
    """The surest members of a class.

    Args:
        classes: (N,) of every particle, by its number.
        probability: (N,) that it belongs there.
        number: of the class.

    Returns:
        (r,) their rows, up to :data:`SHOWN_MEMBERS`.
    """
    own = (classes == number).nonzero().flatten()
    return own[probability[own].argsort(descending=True, stable=True)[:SHOWN_MEMBERS]]


def _particle_rows(found: Classification) -> list[dict[str, Any]]:
    posterior = found.measured.found
    columns = {
        "class": (found.classes + 1).tolist(),
        "probability": [round(value, 6) for value in found.probability.tolist()],
        "inlier_probability": [round(value, 6) for value in posterior.inlier.tolist()],
        "kept": found.kept.int().tolist(),
    }
    return [
        {"row": row, **dict(zip(columns, values, strict=True))}
        for row, values in enumerate(zip(*columns.values(), strict=True), start=1)
    ]


def particle_classes(path: Path) -> pd.DataFrame:
    """The rows of a run's ``particle_classes.csv``.

    Raises:
        InputError: if the file is not there, or is not one that a run wrote.
    """
    try:
        table = pd.read_csv(existing_file(path))
        return pd.DataFrame({name: table[name] for name in ("class", "probability", "inlier_probability", "kept")})
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no list of particles that a run wrote; run again") from error


def classified_table(folder: Path) -> Path:
    """The table with the class of every particle, of a finished classification.

    Raises:
        InputError: if the folder holds none.
    """
    tables = [folder / f"particles{suffix}" for suffix in (".star", ".cs")]
    found = next((table for table in tables if table.is_file()), None)
    if found is None or not (folder / PARTICLE_TABLE).is_file():
        raise InputError(f"{folder} holds no finished classification; name the folder of one")
    return found


def particles_of(path: Path) -> Path:
    """The table of particles that a path means: of the folder of a classification, that of those it keeps.

    Raises:
        InputError: if a classification keeps none.
    """
    if not (path / PARTICLE_TABLE).is_file():
        return path
    kept = classified_table(path).with_stem("kept")
    if not kept.is_file():
        raise InputError(f"{path}: no class looks like a molecule, so that no particle is kept; select some classes")
    return kept

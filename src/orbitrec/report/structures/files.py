"""Several structures on disk: a run's folder for each, all particles with their class, facts, picture and page."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from orbitrec import __version__
from orbitrec.cryoem.config import AbInitioConfig
from orbitrec.cryoem.species.pipeline import OfClass, Separated
from orbitrec.errors import InputError, WriteError
from orbitrec.io.classified import write_in_classes
from orbitrec.io.files import existing_file, printable, to_json, write_csv, write_json
from orbitrec.io.particle_table import ParticleStatistics
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import RunFolder
from orbitrec.report.page import REPORT
from orbitrec.report.run import summary_of, write_run
from orbitrec.report.run_files import SUMMARY
from orbitrec.report.structures.page import KIND, draw_structures, write_structures_page
from orbitrec.report.summary import Resolution, RunKind
from orbitrec.runtime.memory import peak_GiB

CLASSES = "classes.csv"


@dataclass(frozen=True)
class StructureFacts:
    """One of the structures.

    Attributes:
        number: from 1, by falling number of particles.
        folder: of its run, in that of all.
        particles: how many.
        share: of all particles.
        certainty: mean probability of the class of its particles.
        moved: how many the last comparison gave to it.
        diameter_A: of its ball.
        fsc0143_A: where its half-maps cease to agree.
        checks: of its run.
    """

    number: int
    folder: str
    particles: int
    share: float
    certainty: float
    moved: int
    diameter_A: float
    fsc0143_A: Resolution
    checks: tuple[str, ...]


@dataclass(frozen=True)
class StructuresSummary:
    """The facts of a run with several classes, as ``summary.json`` has them.

    Attributes:
        orbitrec: version.
        kind: what the run made, :data:`KIND`.
        input: the table of particles.
        particles: how many.
        box_px: pixels along an edge of an image.
        pixel_size_A: of the images, in Å.
        dialect: of the table.
        posed: name of the table of all particles, with poses and classes.
        asked: classes that were asked for.
        classes: those there are.
        checks: reasons to doubt the result, of all classes.
        seed: of random numbers.
        threads: of torch.
        device: where images were compared.
        parting: held-out log-likelihood of a particle, for every set of random volumes.
        seconds: of each part of the run.
        peak_memory_GiB: of the process; None where that is not known.
    """

    orbitrec: str
    kind: str
    input: str
    particles: int
    box_px: int
    pixel_size_A: float
    dialect: str
    posed: str
    asked: int
    classes: tuple[StructureFacts, ...]
    checks: tuple[str, ...]
    seed: int
    threads: int
    device: str
    parting: tuple[float, ...]
    seconds: dict[str, float]
    peak_memory_GiB: float | None

    def to_json(self) -> str:
        """The text of ``summary.json``."""
        return to_json({"format": 1, **asdict(self)})


def structures_summary(stack: ParticleStack, config: AbInitioConfig, asked: int, found: Separated) -> StructuresSummary:
    """The facts of a run with several classes.

    Args:
        stack: all particles.
        config: of the run.
        asked: how many classes were asked for.
        found: by it.

    Returns:
        The record that goes to ``summary.json``.
    """
    classes = tuple(_facts(number, each, found, config) for number, each in enumerate(found.classes, start=1))
    own = [f"Class {each.number}: {check}" for each in classes for check in each.checks]
    return StructuresSummary(
        orbitrec=__version__,
        kind=KIND,
        input=printable(stack.table.path),
        particles=len(stack),
        box_px=stack.n,
        pixel_size_A=stack.pixel_size_A,
        dialect=stack.table.dialect,
        posed=f"particles{stack.table.suffix}",
        asked=asked,
        classes=classes,
        checks=(*found.checks, *own),
        seed=config.seed,
        threads=torch.get_num_threads(),
        device=config.device,
        parting=tuple(round(score, 4) for score in found.parted.scores),
        seconds=found.seconds | {"total": sum(found.seconds.values())},
        peak_memory_GiB=peak_GiB(),
    )


def _facts(number: int, each: OfClass, found: Separated, config: AbInitioConfig) -> StructureFacts:
    summary = summary_of(each.stack, config, each.found, None)
    return StructureFacts(
        number=number,
        folder=f"class_{number}",
        particles=len(each.rows),
        share=round(len(each.rows) / len(found.posterior), 4),
        certainty=round(float(found.posterior[each.rows, number - 1].mean()), 4),
        moved=each.moved,
        diameter_A=round(summary.diameter_A, 2),
        fsc0143_A=summary.half_maps.fsc0143_A,
        checks=summary.checks,
    )


def write_structures(
    run: RunFolder, stack: ParticleStack, config: AbInitioConfig, summary: StructuresSummary, found: Separated
) -> StructuresSummary:
    """Write the files of a run with several classes.

    ``class_1``, ``class_2`` …, each a run's folder (:func:`orbitrec.report.run.write_run`); all particles in the
    input's dialect with class and pose; ``classes.csv`` with the probability of every class for every particle;
    ``summary.json``, ``summary.png`` and ``report.html``.

    Args:
        run: the folder.
        stack: all particles.
        config: of the run.
        summary: its facts.
        found: by it.

    Returns:
        The facts.

    Raises:
        WriteError: if the disk is full, or the page cannot be made of what was written.
    """
    for facts, each in zip(summary.classes, found.classes, strict=True):
        write_run(run.folder(facts.folder), each.stack, config, each.found, None, RunKind.INITIAL_MODEL)
    _write_table(run, stack, summary, found)
    write_csv(run.file(CLASSES), _rows(found))
    write_json(run.file(SUMMARY), {"format": 1, **asdict(summary)})
    run.file("summary.png")
    run.file(REPORT)
    try:
        draw_structures(run.path)
        write_structures_page(run.path)
    except InputError as error:  # the rest is whole, and must not be removed for the page
        raise WriteError(f"the run in {run.path} is complete, but its report could not be made: {error}") from error
    return summary


def _statistics(found: Separated) -> ParticleStatistics:
    """Of all particles, each by its own class; the probability of the best pose is that of class and pose."""
    count, parts = len(found.posterior), [each.found.statistics for each in found.classes]
    whole = ParticleStatistics(*(values.new_zeros(count) for values in vars(parts[0]).values()))
    for number, (each, part) in enumerate(zip(found.classes, parts, strict=True)):
        for values, own in zip(vars(whole).values(), vars(part).values(), strict=True):
            values[each.rows] = own
        whole.log_likelihood[each.rows] = found.log_likelihood[each.rows, number].to(whole.log_likelihood)
    probability = found.posterior[torch.arange(count), found.members].to(whole.max_probability)
    return replace(
        whole,
        max_probability=whole.max_probability * probability,
        inlier_probability=whole.inlier_probability * probability,
    )


def _write_table(run: RunFolder, stack: ParticleStack, summary: StructuresSummary, found: Separated) -> None:
    count = len(found.posterior)
    rotations = torch.zeros(count, 3, 3, dtype=torch.float64)
    shifts_px, halves = torch.zeros(count, 2, dtype=torch.float64), torch.zeros(count, dtype=torch.long)
    for each in found.classes:
        rotations[each.rows], shifts_px[each.rows] = each.found.rotations.double(), each.found.shifts_px.double()
        halves[each.rows] = each.found.half_sets
    path = run.file(summary.posed)
    for suffix in stack.table.companions:
        run.file(path.with_suffix(suffix).name)
    stack.write_posed(path, rotations, shifts_px, halves, _statistics(found))
    write_in_classes(path, found.members)


def _rows(found: Separated) -> list[dict[str, int | float]]:
    """Class, its probability, that of being a view of its map, and probability and likelihood of every class."""
    members, statistics = found.members, _statistics(found)
    own = found.posterior[torch.arange(len(members)), members]
    rows = []
    for row, (number, probability, inlier, posterior, likelihood) in enumerate(
        zip(
            members.tolist(), own.tolist(), statistics.inlier_probability.tolist(), found.posterior.tolist(),
            found.log_likelihood.tolist(), strict=True,
        ),
        start=1,
    ):  # fmt: skip
        line: dict[str, int | float] = {"row": row, "class": number + 1, "probability": round(probability, 6)}
        line["inlier_probability"] = round(inlier, 6)
        line |= {f"probability_{k}": round(value, 6) for k, value in enumerate(posterior, start=1)}
        line |= {f"log_likelihood_{k}": round(value, 3) for k, value in enumerate(likelihood, start=1)}
        rows.append(line)
    return rows


def structure_classes(folder: Path) -> pd.DataFrame:
    """The rows of a run's ``classes.csv``.

    Raises:
        InputError: if the file is not there, or is not one that a run wrote.
    """
    path = folder / CLASSES
    try:
        table = pd.read_csv(existing_file(path))
        return pd.DataFrame({name: table[name] for name in ("class", "probability", "inlier_probability")})
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no list of particles that a run wrote; run again") from error

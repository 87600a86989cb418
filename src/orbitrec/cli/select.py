"""``orbitrec select``: the particles of a run that are views of its map, or members of its classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from orbitrec.io.particle_table import ParticleTable


def select(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished abinitio, refine or classify2d.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write, in the format of the run's.")],
    keep: Annotated[
        float, typer.Option(min=0, max=1, help="Least probability that a particle is a view of the map, or its class.")
    ] = 0.5,
    classes: Annotated[
        str | None, typer.Option("--class", help="Classes such as 3,7-12. [of classify2d, those like a molecule]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the particles of a run without those that look like no view of its map, or those of some classes.

    Junk, empty boxes and what the map does not explain have a low probability in the run's particle_statistics.csv, or
    particle_classes.csv. The rows that stay keep all their columns.

    Example:  orbitrec select run -o clean.star
    """
    from orbitrec.errors import InputError
    from orbitrec.io.files import to_json
    from orbitrec.io.particle_table import require_new
    from orbitrec.report.classes import PARTICLE_TABLE
    from orbitrec.report.structures.page import is_structures

    structures = is_structures(run)
    classified = structures or (run / PARTICLE_TABLE).is_file()
    if classes is not None and not classified:
        raise InputError(f"{run} holds no classes; name the folder of a finished orbitrec classify2d, or of abinitio")
    of_classes = _of_structures if structures else _classified
    table, rows = of_classes(run, classes, keep) if classified else _posed(run, keep)
    if output.suffix.lower() != table.suffix:
        raise InputError(f"the table is written in the format of {table.path}; name it {output.stem}{table.suffix}")
    require_new(output, table)
    if len(rows) == 0:
        what = f"of {'these' if classes or structures else 'the good'} classes" if classified else "a view of its map"
        raise InputError(f"no particle of {run} is {what} with a probability of {keep:g}; lower it")
    table.write_rows(output, rows)
    if as_json:
        typer.echo(to_json({"particles": len(table), "kept": len(rows)}))
        return
    typer.echo(f"{len(rows):,} of {len(table):,} particles kept: {output}")


def _posed(run: Path, keep: float) -> "tuple[ParticleTable, Int[Tensor, 'K']]":
    """The table of a run with a map, and the rows that are views of it."""
    from orbitrec.errors import InputError
    from orbitrec.io.tables import read_table
    from orbitrec.report.run_files import STATISTICS, SUMMARY, inlier_probabilities
    from orbitrec.report.summary import Summary

    if not (run / SUMMARY).is_file():
        raise InputError(
            f"{run} holds no finished run of orbitrec abinitio, refine or classify2d; name the folder of one"
        )
    posed = read_table(run / Summary.read(run / SUMMARY).posed)
    probability = inlier_probabilities(run / STATISTICS)
    _require_rows(len(probability), posed, run / STATISTICS)
    return posed, (probability >= keep).nonzero().flatten()


def _classified(run: Path, chosen: str | None, keep: float) -> "tuple[ParticleTable, Int[Tensor, 'K']]":
    """The table of a classification, and the rows of the chosen classes, or of the good ones."""
    import torch

    from orbitrec.io.tables import read_table
    from orbitrec.report.classes import PARTICLE_TABLE, classified_table, particle_classes

    found = particle_classes(run / PARTICLE_TABLE)
    table = read_table(classified_table(run))
    _require_rows(len(found), table, run / PARTICLE_TABLE)
    number = int(found["class"].to_numpy().max())
    own = found["kept"] == 1 if chosen is None else found["class"].isin(_numbers(chosen, number))
    wanted = own & (found["inlier_probability"] >= keep)
    return table, torch.from_numpy(wanted.to_numpy().nonzero()[0])


def _of_structures(run: Path, chosen: str | None, keep: float) -> "tuple[ParticleTable, Int[Tensor, 'K']]":
    """The table of a run with several classes, and the rows of the chosen ones, or of all."""
    import torch

    from orbitrec.io.tables import read_table
    from orbitrec.report.structures.files import CLASSES, structure_classes
    from orbitrec.report.structures.page import read_structures

    summary, found = read_structures(run), structure_classes(run)
    table = read_table(run / summary["posed"])
    _require_rows(len(found), table, run / CLASSES)
    wanted = found["inlier_probability"] >= keep
    if chosen is not None:
        wanted &= found["class"].isin(_numbers(chosen, len(summary["classes"])))
    return table, torch.from_numpy(wanted.to_numpy().nonzero()[0])


def _require_rows(count: int, table: "ParticleTable", listed: Path) -> None:
    from orbitrec.errors import InputError

    if count != len(table):
        raise InputError(f"{listed} has {count} rows and {table.path} {len(table)}: run again")


def _numbers(text: str, last: int) -> list[int]:
    """The numbers of a list such as ``3,7-12``, of classes up to the ``last``."""
    import re

    from orbitrec.errors import InputError

    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if found is None:
            raise InputError(f"--class takes numbers and ranges such as 3,7-12, not {text!r}")
        first, end = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= end <= last:
            raise InputError(f"--class {part.strip()}: particles are in classes 1 to {last}, smaller numbers first")
        numbers += range(first, end + 1)
    return numbers

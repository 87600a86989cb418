"""``orbitrec select``: the particles of a run that are views of its map."""

from pathlib import Path
from typing import Annotated

import typer


def select(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished abinitio or refine.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write, in the format of the run's.")],
    keep: Annotated[
        float, typer.Option(min=0, max=1, help="Least probability that a particle is a view of the map.")
    ] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the posed particles of a run without those that look like no view of its map.

    Junk, empty boxes and what the map does not explain have a low probability in the run's particle_statistics.csv. The
    rows that stay keep all their columns.

    Example:  orbitrec select run -o clean.star
    """
    from orbitrec.errors import InputError
    from orbitrec.io.files import to_json
    from orbitrec.io.particle_table import require_new
    from orbitrec.io.tables import read_table
    from orbitrec.report.run_files import STATISTICS, SUMMARY, inlier_probabilities
    from orbitrec.report.summary import Summary

    if not (run / SUMMARY).is_file():
        raise InputError(f"{run} holds no finished run of orbitrec abinitio or refine; name the folder of one")
    posed = read_table(run / Summary.read(run / SUMMARY).posed)
    if output.suffix.lower() != posed.suffix:
        raise InputError(f"the table is written in the format of {posed.path}; name it {output.stem}{posed.suffix}")
    require_new(output, posed)
    probability = inlier_probabilities(run / STATISTICS)
    if len(probability) != len(posed):
        raise InputError(f"{run / STATISTICS} has {len(probability)} rows and {posed.path} {len(posed)}: run again")
    rows = (probability >= keep).nonzero().flatten()
    if len(rows) == 0:
        raise InputError(f"no particle of {run} is a view of its map with a probability of {keep:g}; lower it")
    posed.write_rows(output, rows)
    if as_json:
        typer.echo(to_json({"particles": len(posed), "kept": len(rows)}))
        return
    typer.echo(f"{len(rows):,} of {len(posed):,} particles kept: {output}")

"""``orbitrec report``: make the page of a run anew."""

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]) -> None:
    """Write RUN/report.html again from the files of a finished run.

    The page is one file that opens in any browser without a network: quality checks, what was read and assumed,
    resolution, the map to rotate, slices, particles against the map, views, shifts, convergence, and how to go on in
    other programs. That of orbitrec classify2d is a gallery of averages; several classes are shown side by side.

    Example:  orbitrec report run
    """
    from orbitrec.report.classes import PARTICLE_TABLE
    from orbitrec.report.classes_page import write_classes_page
    from orbitrec.report.page import write_report
    from orbitrec.report.structures.page import is_structures, write_structures_page

    if is_structures(run):
        typer.echo(write_structures_page(run))
        return
    classified = (run / PARTICLE_TABLE).is_file()
    typer.echo(write_classes_page(run) if classified else write_report(run))

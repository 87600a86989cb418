"""``orbitrec report``: make the page of a run anew."""

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of orbitrec abinitio or refine.")]) -> None:
    """Write RUN/report.html again from the files of a finished run.

    The page is one file that opens in any browser without a network: quality checks, what was read and assumed,
    resolution, the map to rotate, slices, particles against the map, views, shifts, convergence, and how to go on in
    other programs.

    Example:  orbitrec report run
    """
    from orbitrec.report.page import write_report

    typer.echo(write_report(run))

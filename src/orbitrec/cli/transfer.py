"""``orbitrec transfer``: the poses of a run on the table of the particles as they were before they were binned."""

from pathlib import Path
from typing import Annotated

import typer

from orbitrec.cli.options.inputs import Passthrough, PixelSize


def transfer(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished abinitio or refine.")],
    onto: Annotated[Path, typer.Option("--onto", help="Table of the same particles (.star, .cs).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Table to write. [RUN/NAME_posed, NAME that of --onto]")
    ] = None,
    pixel_size: PixelSize = None,
    passthrough: Passthrough = None,
) -> None:
    """Write the poses of a run on to another table of its particles: unbinned, or extracted again in another box.

    Particles are told by their uid, or micrograph and coordinates, or image name. The rows of the table that the run
    posed are written in its own dialect, with all its columns; only angles, origins, half-sets and what the run found
    of every particle change.

    Example:  orbitrec transfer run --onto Extract/job012/particles.star
    """
    from orbitrec.errors import InputError
    from orbitrec.io.particle_table import require_new
    from orbitrec.io.tables import read_table
    from orbitrec.io.transfer import transfer_poses
    from orbitrec.report.run_files import STATISTICS, SUMMARY, particle_statistics, posed_table
    from orbitrec.report.summary import Summary

    if not (run / SUMMARY).is_file():
        raise InputError(f"{run} holds no finished run of orbitrec abinitio or refine; name the folder of one")
    summary = Summary.read(run / SUMMARY)
    # Both tables' Å are those that the files state, or both are those that were given.
    posed = read_table(run / summary.posed)
    if pixel_size is not None or posed.stated_pixel_sizes_A() is None:
        posed = posed_table(run / summary.posed, summary.pixel_size_A)
    target = read_table(onto, pixel_size, passthrough)
    path = output or run / f"{onto.stem}_posed{target.suffix}"
    if path.suffix.lower() != target.suffix:
        raise InputError(f"the table is written in the format of {onto}; name it {path.stem}{target.suffix}")
    require_new(path, target)
    statistics = particle_statistics(run / STATISTICS, len(posed)) if (run / STATISTICS).is_file() else None
    found = transfer_poses(posed, target, path, statistics)
    left = len(posed) - len(found.rows)
    typer.echo(
        f"{len(found.rows)} of {len(target)} rows of {onto} have poses of {run}, told by {found.by}: {path}"
        + (f"; {left} particles of the run are not in it" if left else "")
    )

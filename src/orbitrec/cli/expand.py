"""``orbitrec expand``: every particle of a symmetric run at each of its equivalent poses."""

from pathlib import Path
from typing import Annotated

import typer


def expand(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished abinitio or refine.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="STAR file to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the posed particles of a symmetric run at each of their equivalent poses (symmetry expansion).

    Every row is repeated as often as the run's group has rotations, with all its columns and its half-set, so that each
    subunit is seen in its place: classify or refine the table without symmetry and without a search for poses.

    Example:  orbitrec expand run -o expanded.star
    """
    import torch

    from orbitrec.errors import InputError
    from orbitrec.geometry.point_groups import PointGroup
    from orbitrec.io.files import to_json
    from orbitrec.io.particle_table import require_new
    from orbitrec.io.relion import RelionTable
    from orbitrec.io.tables import read_table
    from orbitrec.report.run_files import SUMMARY
    from orbitrec.report.summary import Summary

    if not (run / SUMMARY).is_file():
        raise InputError(f"{run} holds no finished run of orbitrec abinitio or refine; name the folder of one")
    summary = Summary.read(run / SUMMARY)
    group, posed = PointGroup.named(summary.symmetry), read_table(run / summary.posed)
    if group.order == 1:
        raise InputError(f"the run in {run} had no symmetry, so no two poses are equivalent: give --symmetry to a run")
    if not isinstance(posed, RelionTable):
        raise InputError(
            f"{posed.path} is cryoSPARC's, whose particles need identifiers of their own; its job Symmetry Expansion "
            f"gives them: import the table, and choose {group}"
        )
    if output.suffix.lower() != posed.suffix:
        raise InputError(f"the table is written in the format of {posed.path}; name it {output.stem}{posed.suffix}")
    require_new(output, posed)
    poses = posed.poses()
    if poses is None:
        raise InputError(f"{posed.path} has no poses any more; run again")
    rotations, shifts_A = poses
    rows = torch.arange(len(posed)).repeat_interleave(group.order)
    equivalent = (group.matrices() @ rotations[:, None]).flatten(0, 1)
    posed.write_posed(output, equivalent, shifts_A[rows], None, None, rows)
    if as_json:
        typer.echo(to_json({"particles": len(posed), "rows": len(rows), "symmetry": str(group)}))
        return
    typer.echo(f"{len(posed):,} particles at {group.order} equivalent poses of {group}: {output}")

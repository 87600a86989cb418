"""``orbitrec rebalance``: posed particles without dominant views."""

from pathlib import Path
from typing import Annotated

import typer

from orbitrec.cli.options.inputs import Passthrough
from orbitrec.errors import InputError


def rebalance(
    particles: Annotated[
        Path, typer.Argument(metavar="PARTICLES", help="Particles with poses (.star, .cs), such as a run's.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write, in the same format.")],
    percentile: Annotated[
        float,
        typer.Option(min=0, max=100, help="Directions with more particles than this share of all are cut to it, in %."),
    ] = 80.0,
    symmetry: Annotated[str, typer.Option(help="Of the particle: equivalent views count as one.")] = "C1",
    seed: Annotated[int, typer.Option(help="Same seed, same particles.")] = 1,
    passthrough: Passthrough = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Leave out particles where views are many, so that no direction dominates.

    Viewing directions are divided into 256 bins. Bins that hold more particles than the bin at the percentile keep as
    many as that one, chosen by chance. The rows that stay keep all their columns. SCF* says how evenly the views sample
    Fourier space, 1 being uniform: views that are not there at all, thinning cannot mend.

    Example:  orbitrec rebalance run/particles.star -o balanced.star
    """
    import torch
    from rich.console import Console
    from rich.table import Table

    from orbitrec.evaluation.balance import balanced_rows
    from orbitrec.evaluation.orientation import fourier_sampling
    from orbitrec.geometry.point_groups import PointGroup
    from orbitrec.io.files import to_json
    from orbitrec.io.particle_table import require_new
    from orbitrec.io.tables import read_table

    table, group = read_table(particles, passthrough=passthrough), PointGroup.named(symmetry).matrices()
    poses = table.poses()
    if poses is None:
        raise InputError(f"{particles} has no poses; give the table of a run, or of another refinement")
    if output.suffix.lower() != table.suffix:
        raise InputError(
            f"the table is written in the format of {particles}; name it {output.with_suffix(table.suffix)}"
        )
    require_new(output, table)
    rotations = poses[0]
    kept = balanced_rows(rotations, torch.Generator().manual_seed(seed), group=group, percentile=percentile)
    table.write_rows(output, kept)
    before, after = (fourier_sampling(each, group) for each in (rotations, rotations[kept]))
    facts = {
        "particles": len(table),
        "kept": len(kept),
        "scf_star_before": before.scf_star,
        "scf_star": after.scf_star,
        "unsampled": after.unsampled,
    }
    if as_json:
        typer.echo(to_json(facts))
        return
    shown = Table(title=str(output), show_header=False)
    shown.add_row("particles kept", f"{len(kept):,} of {len(table):,}")
    shown.add_row("SCF* of their views", f"{after.scf_star:.2f}, before {before.scf_star:.2f}")
    shown.add_row("directions of Fourier space in no slice", f"{100 * after.unsampled:.0f} %")
    Console().print(shown)

"""``orbitrec classify2d``: two-dimensional classes of a particle stack."""

from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.options.inputs import Datadir, Diameter, NoCTF, Particles, Passthrough, PixelSize
from orbitrec.cli.options.threads import Threads
from orbitrec.cli.particle_runs import AsJson, Output, Resume, Seed, ShiftPx, progress, settings, shared_run

if TYPE_CHECKING:
    from pathlib import Path

    from orbitrec.report.classes import ClassesSummary


def classify2d(
    particles: Particles,
    output: Output,
    classes: Annotated[int, typer.Option("--classes", "-k", min=1, help="How many classes.")] = 50,
    diameter: Diameter = None,
    resolution: Annotated[
        float | None, typer.Option("--resolution", min=0.1, help="Finest resolution in Å of the averages.")
    ] = None,
    shift_px: ShiftPx = None,
    seed: Seed = 1,
    no_ctf: NoCTF = False,
    datadir: Datadir = None,
    pixel_size: PixelSize = None,
    passthrough: Passthrough = None,
    threads: Threads = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Sort particles into two-dimensional classes: what they show, and which of them to keep.

    OUTPUT gets report.html with the averages, classes.mrcs, particles.star with the class of every particle, kept.star
    with the particles of classes that look like a molecule, and the numbers. Other classes are chosen by orbitrec
    select; orbitrec abinitio takes OUTPUT for its kept particles.

    Example:  orbitrec classify2d particles.star -k 50 -o classes
    """
    given = settings("classify2d", locals())
    from orbitrec.api import open_particles
    from orbitrec.classification import classify2d as compute
    from orbitrec.cryoem.classes.config import ClassesConfig

    config = ClassesConfig(
        classes=classes, diameter_A=diameter, resolution_A=resolution, shift_px=shift_px, seed=seed
    )  # fmt: skip
    with shared_run(output, given, resume, "cpu") as (run, checkpoints):
        stack = open_particles(
            particles, datadir=datadir, pixel_size_A=pixel_size, passthrough=passthrough, ctf=not no_ctf
        )
        with progress(run is not None) as callback:
            result = compute(stack, config, callback=callback, checkpoints=checkpoints)
        if run is None:  # one of several processes, of which the first writes
            return
        summary = result.write(run)
    if as_json:
        typer.echo(summary.to_json())
        return
    _print_summary(output, summary)


def _print_summary(folder: "Path", summary: "ClassesSummary") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from orbitrec.cli.messages import for_command_line

    good = [each.number for each in summary.classes if each.good]
    found = [each.resolution_A for each in summary.classes if each.good and each.resolution_A is not None]
    table = Table(title=escape(f"Classes in {folder}"), show_header=False)
    rows = {
        "particles": f"{summary.particles} of {summary.box_px} px, {summary.pixel_size_A:g} Å per pixel",
        "good classes": f"{len(good)} of {len(summary.classes)}, with {summary.kept} particles",
        "averages": f"searched to {summary.resolution_A:.1f} Å in a disc of {summary.diameter_A:.0f} Å"
        + (f"; good ones agree to {min(found):.1f}–{max(found):.1f} Å" if found else ""),
        "time": f"{summary.seconds['total']:.0f} s, peak memory {summary.peak_memory_GiB:.2f} GiB",
    }
    for label, value in rows.items():
        table.add_row(label, value)
    console = Console()
    for check in summary.checks:
        console.print(f"[bold yellow]quality check:[/] {escape(for_command_line(check))}", soft_wrap=True)
    console.print(table)
    where = f"look at {folder / 'report.html'}; averages {folder / 'classes.mrcs'}; all {folder / summary.classified}"
    kept = "" if summary.kept_table is None else f"; kept {folder / summary.kept_table}"
    console.print(escape(where + kept), soft_wrap=True)  # a path that is cut in two cannot be copied

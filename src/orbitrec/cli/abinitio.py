"""``orbitrec abinitio``: the main job."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.inputs import Datadir, Diameter, Invert, NoCTF, Particles, Passthrough, PixelSize
from orbitrec.errors import InputError

if TYPE_CHECKING:
    from orbitrec.io.checkpoints import Checkpoints
    from orbitrec.io.runs import RunFolder


class StartName(StrEnum):
    """Where the starts beside random ones are from."""

    moments = "moments"
    momnet = "momnet"
    random = "random"


def abinitio(
    particles: Particles,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make for the run.")],
    diameter: Diameter = None,
    resolution: Annotated[
        float | None, typer.Option("--resolution", min=0.1, help="Finest resolution in Å of the search for poses.")
    ] = None,
    shift_px: Annotated[
        float | None, typer.Option(min=0.1, help="First guess of the shifts' standard deviation, pixels. [0.05 box]")
    ] = None,
    start: Annotated[
        StartName, typer.Option(help="Starts beside random ones: from moments matched, MoM-net's one, or none.")
    ] = StartName.moments,
    matched: Annotated[int, typer.Option(min=0, help="Starts from moments.")] = 2,
    starts: Annotated[int, typer.Option(min=0, help="Random starts.")] = 6,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 1,
    no_ctf: NoCTF = False,
    invert: Invert = None,
    datadir: Datadir = None,
    pixel_size: PixelSize = None,
    passthrough: Passthrough = None,
    symmetry: Annotated[str, typer.Option(help="Of the particle, where it is known: C2, C4, D7 …")] = "C1",
    flip: Annotated[bool, typer.Option("--flip", help="Give the map of the other hand, with its poses.")] = False,
    truth: Annotated[Path | None, typer.Option(help="True map, to compare the result with (MRC).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run in OUTPUT was.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """A 3-D initial model and the pose of every particle, from a particle stack alone.

    OUTPUT gets report.html to look at, initial_model.mrc, particles.star (posed), half maps, mask, and the numbers. The
    hand cannot be told from projections: the map may be the mirror image. A run that was interrupted, even killed, goes
    on with the same command and --resume to the same result.

    Example:  orbitrec abinitio particles.star -o run
    """
    given = settings("abinitio", locals())
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from orbitrec.geometry.symmetry import PointGroup
    from orbitrec.io.files import to_json
    from orbitrec.io.particles import ParticleStack
    from orbitrec.recovery.abinitio import Schedule
    from orbitrec.recovery.options import Options
    from orbitrec.recovery.pipeline import initial_model
    from orbitrec.recovery.starts import StartKind
    from orbitrec.report.run import KnownMap, write_initial_model

    kind = StartKind(start.value)
    matched = kind.at_most(matched)
    if matched + starts == 0:
        raise InputError("--matched 0 with --starts 0 leaves nothing to start from; ask for at least one start")
    group = PointGroup.named(symmetry)
    with shared_run(output, given, resume) as (run, checkpoints):
        stack = ParticleStack.open(
            particles, datadir=datadir, pixel_size_A=pixel_size, passthrough=passthrough, ctf=not no_ctf
        )
        true_map = None if truth is None else KnownMap.read(truth, stack)
        schedule = replace(Schedule(), matched=matched, starts=starts)
        options = Options(
            diameter, resolution, shift_px, seed, schedule, kind, dense_is_dark=invert, flip=flip, group=group
        )
        columns = (TextColumn("{task.description:<26}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=run is None or not console.is_terminal) as bar:
            task = bar.add_task("starting", total=1.0)
            result = initial_model(
                stack, options, lambda stage, share: bar.update(task, description=stage, completed=share), checkpoints
            )
        if run is None:  # one of several processes, of which the first writes
            return
        summary = write_initial_model(run, particles, stack, options, result, true_map)
    if as_json:
        typer.echo(to_json(summary))
        return
    print_summary(output, summary, "initial_model")


@contextmanager
def shared_run(
    output: Path, given: dict[str, object], resume: bool
) -> "Iterator[tuple[RunFolder | None, Checkpoints]]":
    """The run's folder and records for the first of the processes that torchrun started; the others have none."""
    from orbitrec.io.checkpoints import Checkpoints
    from orbitrec.io.runs import resumable_run
    from orbitrec.recovery.ranks import joined, rank

    with joined():
        if rank() > 0:
            yield None, Checkpoints()
        else:
            with resumable_run(output, given, resume=resume) as opened:
                yield opened


def settings(command: str, given: dict[str, object]) -> dict[str, object]:
    """All that decides the result of a command on particles: what was ``given`` to it, and the table's content."""
    from hashlib import sha256

    from orbitrec import __version__

    kept = {key: value for key, value in given.items() if key not in ("output", "resume", "as_json", "truth")}
    table = kept["particles"]
    digest = sha256(table.read_bytes()).hexdigest() if isinstance(table, Path) and table.is_file() else None
    return {"command": command, "version": __version__, **kept, "content of particles": digest}


def print_summary(folder: Path, summary: dict, name: str) -> None:
    """The facts of a run, whose map is called ``name``."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{name.replace('_', ' ').capitalize()} in {folder}", show_header=False)
    rows = {
        "particles": f"{summary['particles']} of {summary['box_px']} px, {summary['pixel_size_A']:g} Å per pixel",
        "search": f"to {summary['search_resolution_A']:.1f} Å in a ball of {summary['diameter_A']:.0f} Å",
        "half-sets": summary["half_sets_from"],
        f"half maps ({summary['half_sets']})": f"FSC 0.143 at {summary['half_maps_fsc0143_A']:.2f} Å, "
        f"{summary['half_maps_unmasked_fsc0143_A']:.2f} Å without a mask",
        "contrast": summary["contrast"],
        "hand": summary["hand"],
        "time": f"{summary['seconds']['total']:.0f} s, peak memory {summary['peak_memory_GiB']:.2f} GiB",
    }
    if "fsc05_A" in summary:
        rows["against the truth"] = (
            f"FSC 0.5 at {summary['fsc05_A']:.2f} Å, 0.143 at {summary['fsc0143_A']:.2f} Å, "
            f"correlation {summary['correlation']:.3f}" + (" (mirrored)" if summary["mirrored"] else "")
        )
    for label, value in rows.items():
        table.add_row(label, value)
    console = Console()
    for warning in summary["warnings"]:
        console.print(f"[bold yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    console.print(table)
    console.print(f"look at {folder / 'report.html'}; map {folder / f'{name}.mrc'}; poses {folder / summary['posed']}")

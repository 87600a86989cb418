"""What `abinitio` and `refine` share: the options of a run on particles, its folder, its progress bar, its summary."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.bars import staying_bar

if TYPE_CHECKING:
    from orbitrec.io.runs import RunFolder
    from orbitrec.report.structures.files import StructuresSummary
    from orbitrec.report.summary import HalfMaps, RunKind, Summary
    from orbitrec.runtime.checkpoints import Checkpoints
    from orbitrec.runtime.progress import Callback

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to make for the run.")]
Resolution = Annotated[
    float | None, typer.Option("--resolution", min=0.1, help="Finest resolution in Å of the search for poses.")
]
ShiftPx = Annotated[
    float | None, typer.Option(min=0.1, help="First guess of the shifts' standard deviation, pixels. [0.05 box]")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same result.")]
Symmetry = Annotated[str, typer.Option(help="Of the particle, where it is known: C2, D7, T, O, I …")]
Flip = Annotated[bool, typer.Option("--flip", help="Give the map of the other handedness, with its poses.")]
Truth = Annotated[Path | None, typer.Option(help="True map, to compare the result with (MRC).")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run in OUTPUT was.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


@contextmanager
def shared_run(
    output: Path, given: dict[str, object], resume: bool, device: str
) -> "Iterator[tuple[RunFolder | None, Checkpoints]]":
    """The run's folder and records for the first of the processes that torchrun started; the others have none.

    ``device``: that of this process.
    """
    from orbitrec.runtime.checkpoints import Checkpoints
    from orbitrec.runtime.distributed import joined, rank
    from orbitrec.runtime.runs import resumable_run

    with joined(device):
        if rank() > 0:
            yield None, Checkpoints()
        else:
            with resumable_run(output, given, resume=resume) as opened:
                yield opened


@contextmanager
def progress(shown: bool) -> "Iterator[Callback]":
    """A bar, as a callback of a run."""
    with staying_bar(shown) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda status: bar.update(task, description=str(status), completed=status.share)


def settings(command: str, given: dict[str, object]) -> dict[str, object]:
    """All that decides the result of a command on particles: what was ``given`` to it, and the content of the files.

    Where it computes decides the result to rounding only, as threads do: a run may go on on another device.
    """
    from orbitrec import __version__
    from orbitrec.io.files import existing_file

    without = ("output", "resume", "as_json", "truth", "device", "threads")
    kept = {key: value for key, value in given.items() if key not in without}
    files = {key: value for key, value in kept.items() if isinstance(value, Path) and not os.path.isdir(value)}
    return {
        "command": command,
        "version": __version__,
        **kept,
        **{f"content of {key}": _digest(existing_file(file)) for key, file in files.items()},
    }


def _digest(file: Path) -> str:
    from hashlib import file_digest

    with file.open("rb") as content:  # in pieces: a stack may be larger than memory
        return file_digest(content, "sha256").hexdigest()


def print_summary(folder: Path, summary: "Summary", kind: "RunKind") -> None:
    """Print the facts of a run."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from orbitrec.cli.messages import for_command_line
    from orbitrec.report.fsc_curves import resolution_text
    from orbitrec.report.page_facts import confidence_text, handedness_text
    from orbitrec.report.summary import Handedness

    halves, truth = summary.half_maps, summary.truth
    flip = " (--flip gives it)" if summary.handedness is Handedness.AS_FOUND else ""
    table = Table(title=escape(f"{kind.title} in {folder}"), show_header=False)
    rows = {
        "particles": f"{summary.particles} of {summary.box_px} px, {summary.pixel_size_A:g} Å per pixel",
        "pose search": f"to {summary.search_resolution_A:.1f} Å in a ball of {summary.diameter_A:.0f} Å",
        "half-sets": halves.origin,
        f"half-maps ({_worth(halves)})": f"FSC 0.143 at {resolution_text(halves.fsc0143_A, 2)}, "
        f"{resolution_text(halves.unmasked_fsc0143_A, 2)} without a mask",
        "contrast": summary.contrast,
        "handedness": handedness_text(summary.handedness) + flip,
        "time": f"{summary.total_seconds:.0f} s"
        + ("" if summary.peak_memory_GiB is None else f", peak memory {summary.peak_memory_GiB:.2f} GiB"),
    }
    if (told := summary.confidence) is not None:
        rows = {"right, at a first guess": confidence_text(told)} | rows
    if (found := summary.directions) is not None:
        rows["by direction"] = (
            f"{resolution_text(found.finest_A, 2)} to {resolution_text(found.coarsest_A, 2)}, cFAR {found.cfar:.2f}; "
            f"views: SCF* {found.scf_star:.2f}"
        )
    if truth is not None:
        rows["against the truth"] = (
            f"FSC 0.5 at {resolution_text(truth.fsc05_A, 2)}, 0.143 at {resolution_text(truth.fsc0143_A, 2)}, "
            f"correlation {truth.correlation:.3f}" + (" (mirrored)" if truth.mirrored else "")
        )
    for label, value in rows.items():
        table.add_row(label, value)
    console = Console()
    for check in summary.checks:
        console.print(f"[bold yellow]quality check:[/] {escape(for_command_line(check))}", soft_wrap=True)
    console.print(table)
    where = f"look at {folder / 'report.html'}; map {folder / f'{kind}.mrc'}; poses {folder / summary.posed}"
    console.print(escape(where), soft_wrap=True)  # a path that is cut in two cannot be copied


def print_structures(folder: Path, summary: "StructuresSummary") -> None:
    """Print the facts of a run with several classes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from orbitrec.cli.messages import for_command_line
    from orbitrec.report.fsc_curves import resolution_text

    table = Table("class", "particles", "share", "FSC 0.143", "ball", title=escape(f"Structures in {folder}"))
    for each in summary.classes:
        resolution, ball = resolution_text(each.fsc0143_A, 2), f"{each.diameter_A:.0f} Å"
        table.add_row(str(each.number), str(each.particles), f"{100 * each.share:.0f} %", resolution, ball)
    console = Console()
    for check in summary.checks:
        console.print(f"[bold yellow]quality check:[/] {escape(for_command_line(check))}", soft_wrap=True)
    console.print(table)
    memory = "" if summary.peak_memory_GiB is None else f", peak memory {summary.peak_memory_GiB:.2f} GiB"
    where = (
        f"{summary.seconds['total']:.0f} s{memory}; look at {folder / 'report.html'}; classes {folder / summary.posed}"
    )
    console.print(escape(where), soft_wrap=True)  # a path that is cut in two cannot be copied


def _worth(halves: "HalfMaps") -> str:
    """What the correlation of the half-maps stands for."""
    from orbitrec.report.summary import HalfSetKind

    return halves.kind if halves.kind is HalfSetKind.INDEPENDENT else f"{halves.kind}: an upper bound"

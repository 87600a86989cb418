"""What `abinitio` and `refine` share: the options of a run on particles, its folder, its progress bar, its summary."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orbitrec.io.runs import RunFolder
    from orbitrec.runtime.checkpoints import Checkpoints

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to make for the run.")]
Resolution = Annotated[
    float | None, typer.Option("--resolution", min=0.1, help="Finest resolution in Å of the search for poses.")
]
ShiftPx = Annotated[
    float | None, typer.Option(min=0.1, help="First guess of the shifts' standard deviation, pixels. [0.05 box]")
]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Symmetry = Annotated[str, typer.Option(help="Of the particle, where it is known: C2, C4, D7 …")]
Flip = Annotated[bool, typer.Option("--flip", help="Give the map of the other hand, with its poses.")]
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
    """A bar with the time left, as a callback of a run; only where somebody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<30}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda status: bar.update(task, description=str(status), completed=status.share)


def settings(command: str, given: dict[str, object]) -> dict[str, object]:
    """All that decides the result of a command on particles: what was ``given`` to it, and the table's content.

    Where it computes decides the result to rounding only, as threads do: a run may go on on another device.
    """
    from hashlib import sha256

    from orbitrec import __version__

    kept = {key: value for key, value in given.items() if key not in ("output", "resume", "as_json", "truth", "device")}
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

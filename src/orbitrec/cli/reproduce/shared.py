"""What the commands that reproduce a table or a figure share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

    from orbitrec.io.runs import RunFolder

app = typer.Typer(no_args_is_help=True)

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder to make for the table (JSON and CSV) and its pictures."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Scale(StrEnum):
    """How much to do."""

    quick = "quick"
    full = "full"


@app.callback()
def reproduce() -> None:
    """Reproduce a table or figure of the thesis, its own figures beside ours."""


@contextmanager
def experiment_run(output: Path | None) -> "Iterator[tuple[RunFolder | None, Progress]]":
    """The folder for an experiment's results, if one is wanted, and a progress bar for a person to watch."""
    from contextlib import nullcontext

    from rich.console import Console
    from rich.progress import Progress

    from orbitrec.io.runs import new_run

    console = Console(stderr=True)
    with (
        nullcontext() if output is None else new_run(output) as run,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        yield run, bar


def show(as_json: bool, data: Mapping[str, object], *tables: "RenderableType") -> None:
    """Print ``data`` as JSON, or the same as tables."""
    from rich.console import Console

    from orbitrec.io.files import to_json

    if as_json:
        typer.echo(to_json(data))
    else:
        console = Console()
        console.width = max(console.width, 140)  # a table cut short tells nothing; a terminal folds it
        console.print(*tables, sep="\n")

"""What the commands that reproduce a table or a figure share."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.bars import passing_bar
from orbitrec.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from orbitrec.io.runs import RunFolder
    from orbitrec.runtime.checkpoints import Checkpoints
    from orbitrec.thesis.records import ExperimentResult, Made

app = typer.Typer(no_args_is_help=True)

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder to make for the table (JSON and CSV) and its pictures."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in the folder of -o.")]
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
    """The folder for an experiment's results, if one is wanted, and a progress bar."""
    from contextlib import nullcontext

    from orbitrec.io.runs import new_run

    with nullcontext() if output is None else new_run(output) as run, passing_bar() as bar:
        yield run, bar


@contextmanager
def resumable_experiment(
    output: Path | None, settings: Mapping[str, object], *, resume: bool
) -> "Iterator[tuple[RunFolder | None, Checkpoints, Progress]]":
    """As :func:`experiment_run`, for hours of work: what is done is kept in the folder until the end."""
    from contextlib import nullcontext

    from orbitrec.runtime.checkpoints import Checkpoints
    from orbitrec.runtime.runs import resumable_run

    if resume and output is None:
        raise InputError("--resume goes on with the run in a folder; say in which by -o DIR")
    folder = nullcontext((None, Checkpoints())) if output is None else resumable_run(output, settings, resume=resume)
    with folder as (run, checkpoints), passing_bar() as bar:
        yield run, checkpoints, bar


def made() -> "Made":
    """By what the result of the running command is made."""
    import platform

    import torch

    from orbitrec.cli.reproduce.provenance import commit
    from orbitrec.thesis.records import Made

    threads = torch.get_num_threads()
    return Made(running_command(), commit(), f"{platform.machine()}, {threads} thread{'s' if threads > 1 else ''}")


def running_command() -> str:
    """The command that is running, as it was typed."""
    return shlex.join(["orbitrec", *sys.argv[1:]])


def show(as_json: bool, result: "ExperimentResult", by: "Made") -> None:
    """Print the result as JSON, or as tables."""
    from rich.console import Console

    from orbitrec.io.files import to_json

    if as_json:
        typer.echo(to_json(result.to_json(by)))
    else:
        console = Console()
        console.width = max(console.width, 140)  # a table cut short says nothing; a terminal folds it
        console.print(*(table.for_terminal() for table in result.tables()), sep="\n")

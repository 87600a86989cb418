"""The ``orbitrec`` command: one function per command, each in its own file.

Command files import the library inside their functions, so that ``--help`` does not wait for torch.
"""

import os
import re
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from types import FrameType
from typing import Annotated

import typer

from orbitrec import __version__
from orbitrec.cli import (
    abinitio,
    classify2d,
    evaluate,
    expand,
    info,
    moments,
    mra,
    rebalance,
    refine,
    report,
    reproduce,
    select,
    simulate,
    train,
    transfer,
)
from orbitrec.cli.messages import say
from orbitrec.errors import InputError
from orbitrec.runtime.memory import keep_freed_memory

# Read once, when torch loads: threads that spin while they wait slow every step wherever another program has work for
# the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="orbitrec",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(abinitio.abinitio)
app.command()(classify2d.classify2d)
app.command()(evaluate.evaluate)
app.command()(expand.expand)
app.command()(info.info)
app.command()(rebalance.rebalance)
app.command()(refine.refine)
app.command()(report.report)
app.command()(select.select)
app.command()(transfer.transfer)
app.add_typer(moments.app, name="moments")
app.add_typer(mra.app, name="mra")
app.add_typer(reproduce.app, name="reproduce")
app.add_typer(simulate.app, name="simulate")
app.add_typer(train.app, name="train")

OUT_OF_MEMORY = "can't allocate memory|not enough memory|out of memory"


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"orbitrec {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On bad input show the traceback too.")] = False,
) -> None:
    """Recover an object from noisy copies of it that an unknown group element has moved.

    From a RELION particle stack to a 3-D initial model with poses: orbitrec abinitio PARTICLES.star -o RUN
    """


class _Terminated(BaseException):
    """SIGTERM, as an exception: files half written are removed on its way up."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise _Terminated


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 2 on what is no fault of the program (said in one sentence).

    130 when interrupted, 143 on SIGTERM, as a batch system sends it.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        _run(arguments)
    except _Terminated:
        sys.stderr.write("orbitrec: stopped by SIGTERM; files written are whole, and --resume goes on from them\n")
        sys.exit(143)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: Sequence[str] | None) -> None:
    # --debug may stand anywhere, but typer knows it only in front of the command.
    ordered = sorted(sys.argv[1:] if arguments is None else arguments, key=lambda argument: argument != "--debug")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that has no Å shows a question mark
            stream.reconfigure(errors="replace")
    keep_freed_memory()
    try:
        app(ordered)
    except Exception as error:
        told = None if "--debug" in ordered else _told(error)
        if told is None:
            raise
        say(told, "red")
        sys.exit(2)


def _told(error: Exception) -> str | None:
    """One sentence on an error that is no fault of the program; None for all others."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        # A run keeps its folder then: a disk may come back.
        return f"cannot read or write {error.filename}: {error.strerror}; a run that had begun goes on with `resume`"
    # torch has no class of its own for memory that the CPU does not have.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(OUT_OF_MEMORY, str(error))):
        return (
            "there is not enough memory: fewer particles, a coarser `resolution_A` or larger pixels need less, and "
            "`device` cpu has more than a GPU; a run that had begun goes on with `resume`"
        )
    return None

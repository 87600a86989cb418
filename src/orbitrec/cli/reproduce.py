"""``orbitrec reproduce``: the thesis's tables and figures, one command each."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.errors import InputError

if TYPE_CHECKING:
    from orbitrec.experiments.optimiser_table import Comparison

app = typer.Typer(no_args_is_help=True)


class Scale(StrEnum):
    """How much to do."""

    quick = "quick"
    full = "full"


@app.callback()
def reproduce() -> None:
    """Reproduce a table or figure of the thesis, its own figures beside ours."""


@app.command("table-2.1")
def table_2_1(
    scale: Annotated[
        Scale, typer.Option(help="quick: the shipped weights; full: train them from nothing first.")
    ] = Scale.quick,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make for table.json, table.csv, predictions.png.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Problems in each mean.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Encoders for multireference alignment: errors on mixtures of 1, 2 and 3 Gaussians.

    Example:  orbitrec reproduce table-2.1 -o table-2.1
    """
    from contextlib import nullcontext

    from rich.console import Console
    from rich.progress import Progress

    from orbitrec.experiments import table_2_1 as experiment
    from orbitrec.io.files import to_json
    from orbitrec.io.runs import new_run

    if scale is Scale.full and output is None:
        raise InputError("--scale full makes new weights and needs a folder for them; give -o DIR")
    console = Console(stderr=True)
    with (
        nullcontext() if output is None else new_run(output) as run,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        weights = experiment.shipped_weights()
        if scale is Scale.full and run is not None:
            task = bar.add_task("training", total=len(weights))
            weights = experiment.retrained_weights(run.path, lambda done: bar.update(task, completed=done))
        task = bar.add_task("table", total=experiment.ROWS)
        rows = experiment.table(weights, samples, lambda row: bar.advance(task))
        if run is not None:
            experiment.write_results(run, rows, weights)
    if as_json:
        typer.echo(to_json(experiment.as_json(rows)))
    else:
        Console().print(experiment.as_text(rows))


@app.command("mra-accuracy")
def mra_accuracy(
    scale: Annotated[
        Scale, typer.Option(help="quick: 10⁴ observations; full: 10⁴, 10⁵ and 10⁶, an hour or so.")
    ] = Scale.quick,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make for table.json, table.csv, accuracy.png.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Only this method of mra recover; may be repeated. [all]")
    ] = None,
    problems: Annotated[
        int | None, typer.Option(min=1, help="Problems in each median. [3; 2 with --scale quick]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every recovery of multireference alignment: error and seconds against the number of observations and the noise.

    Example:  orbitrec reproduce mra-accuracy -o accuracy
    """
    from contextlib import nullcontext
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import Progress

    from orbitrec.experiments import mra_accuracy as experiment
    from orbitrec.io.files import to_json
    from orbitrec.io.runs import new_run

    settings = experiment.QUICK if scale is Scale.quick else experiment.Settings()
    settings = replace(settings, problems=problems or settings.problems)
    methods = experiment.chosen(method)
    console = Console(stderr=True)
    with (
        nullcontext() if output is None else new_run(output) as run,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("table", total=experiment.row_count(settings, methods))
        rows = experiment.table(settings, methods, listen=lambda row: bar.advance(task))
        if run is not None:
            experiment.write_results(run, settings, rows)
    if as_json:
        typer.echo(to_json(experiment.as_json(settings, rows)))
    else:
        Console().print(experiment.as_text(rows))


@app.command("figure-2.4")
def figure_2_4(
    scale: Annotated[
        Scale, typer.Option(help="quick: 6 problems of 10⁵ observations, 300 iterations; full: 20, 10⁶, 3000.")
    ] = Scale.quick,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make for figure.png, curves.csv, summary.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The reconstruction phase of multireference alignment: trained, untrained and spectral starts.

    Example:  orbitrec reproduce figure-2.4 --scale full -o figure-2.4
    """
    from contextlib import nullcontext

    from rich.console import Console
    from rich.progress import Progress

    from orbitrec.experiments import figure_2_4 as experiment
    from orbitrec.io.files import to_json
    from orbitrec.io.runs import new_run

    size = experiment.QUICK if scale is Scale.quick else experiment.Scale()
    console = Console(stderr=True)
    with (
        nullcontext() if output is None else new_run(output) as run,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("matching", total=size.iterations * len(experiment.STARTS))
        rows = experiment.curves(size, lambda: bar.advance(task))
        if run is not None:
            experiment.write_results(run, rows, size)
    if as_json:
        typer.echo(to_json(experiment.as_json(rows, size)))
    else:
        Console(width=140).print(experiment.as_text(rows))


@app.command("table-4.1")
def table_4_1(
    scale: Annotated[
        Scale, typer.Option(help="quick: 3 seeds, at most 1,000 epochs; full: 5 seeds, 14,000.")
    ] = Scale.quick,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make for table, traces and pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Gradient methods on windowed MRA: epochs, passes and seconds to 1e-14, with strong baselines.

    Example:  orbitrec reproduce table-4.1 --scale full -o table-4.1
    """
    from orbitrec.experiments import table_4_1 as experiment

    seeds, epochs = (3, 1_000.0) if scale is Scale.quick else (5, 14_000.0)
    runs = 2 * seeds * len(experiment.contestants(1))
    _compare_optimisers(lambda listen: experiment.table(seeds, epochs, listen), experiment.TITLE, runs, output, as_json)


@app.command("table-4.2")
def table_4_2(
    scale: Annotated[
        Scale, typer.Option(help="quick: 3 seeds, at most 1,000 epochs; full: 5 seeds, 14,000.")
    ] = Scale.quick,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make for table, traces and pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """EM methods on windowed MRA: epochs, passes and seconds to 1e-14, with accelerated EM beside them.

    Example:  orbitrec reproduce table-4.2 --scale full -o table-4.2
    """
    from orbitrec.experiments import table_4_2 as experiment

    seeds, epochs = (3, 1_000.0) if scale is Scale.quick else (5, 14_000.0)
    runs = 2 * seeds * len(experiment.contestants())
    _compare_optimisers(lambda listen: experiment.table(seeds, epochs, listen), experiment.TITLE, runs, output, as_json)


@app.command("table-4.3")
def table_4_3(
    scale: Annotated[
        Scale, typer.Option(help="quick: 1 seed, at most 500 epochs; full: 5 seeds, 2,000.")
    ] = Scale.quick,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make for table, traces and picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Optimisers on cryo-EM at low resolution: epochs, passes and seconds to 1e-14, with strong baselines.

    Example:  orbitrec reproduce table-4.3 -o table-4.3
    """
    from orbitrec.experiments import table_4_3 as experiment

    seeds, epochs = (1, 500.0) if scale is Scale.quick else (5, 2_000.0)
    runs = seeds * len(experiment.contestants())
    _compare_optimisers(lambda listen: experiment.table(seeds, epochs, listen), experiment.TITLE, runs, output, as_json)


@app.command("optimiser-starts")
def optimiser_starts(
    scale: Annotated[Scale, typer.Option(help="quick: at most 100 epochs for each run; full: 1,000.")] = Scale.quick,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make for table.json, table.csv.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every optimiser from 20 random starts of each problem: which diverge, which find the lowest minimum.

    Example:  orbitrec reproduce optimiser-starts -o starts
    """
    from contextlib import nullcontext

    from rich.console import Console
    from rich.progress import Progress

    from orbitrec.experiments import optimiser_starts as experiment
    from orbitrec.io.files import to_json
    from orbitrec.io.runs import new_run

    console = Console(stderr=True)
    with (
        nullcontext() if output is None else new_run(output) as run,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("runs", total=4 * experiment.STARTS * len(experiment.contestants(1)))
        rows = experiment.table(
            experiment.STARTS, 100.0 if scale is Scale.quick else 1_000.0, lambda: bar.advance(task)
        )
        if run is not None:
            experiment.write_results(run, rows)
    if as_json:
        typer.echo(to_json(experiment.as_json(rows)))
    else:
        Console(width=140).print(experiment.as_text(rows))


def _compare_optimisers(
    compare: "Callable[[Callable[[], None]], list[Comparison]]",
    title: str,
    runs: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Run ``compare`` with a bar of so many runs, write its results to ``output`` and print them."""
    from contextlib import nullcontext

    from rich.console import Console
    from rich.progress import Progress

    from orbitrec.experiments import optimiser_table
    from orbitrec.io.files import to_json
    from orbitrec.io.runs import new_run

    console = Console(stderr=True)
    with (
        nullcontext() if output is None else new_run(output) as run,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("runs", total=runs)
        comparisons = compare(lambda: bar.advance(task))
        if run is not None:
            optimiser_table.write_results(run, title, comparisons)
    if as_json:
        typer.echo(to_json(optimiser_table.as_json(comparisons)))
    else:
        Console(width=140).print(*optimiser_table.as_text(title, comparisons), sep="\n")

"""Chapter 4's experiments: the optimisers of likelihoods."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.reproduce.shared import AsJson, Output, Scale, app, experiment_run, show

if TYPE_CHECKING:
    from orbitrec.experiments.optimiser_table import Comparison


@app.command("table-4.1")
def table_4_1(
    scale: Annotated[
        Scale, typer.Option(help="quick: 3 seeds, at most 1,000 epochs; full: 5 seeds, 14,000.")
    ] = Scale.quick,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Gradient methods on windowed MRA: epochs, passes and seconds to 1e-14, with strong baselines.

    Example:  orbitrec reproduce table-4.1 --scale full -o table-4.1
    """
    from orbitrec.experiments import table_4_1 as experiment

    seeds, epochs = (3, 1_000.0) if scale is Scale.quick else (5, 14_000.0)
    runs = 2 * seeds * len(experiment.contestants(1))
    _compare(lambda listen: experiment.table(seeds, epochs, listen), experiment.TITLE, runs, output, as_json)


@app.command("table-4.2")
def table_4_2(
    scale: Annotated[
        Scale, typer.Option(help="quick: 3 seeds, at most 1,000 epochs; full: 5 seeds, 14,000.")
    ] = Scale.quick,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """EM methods on windowed MRA: epochs, passes and seconds to 1e-14, with accelerated EM beside them.

    Example:  orbitrec reproduce table-4.2 --scale full -o table-4.2
    """
    from orbitrec.experiments import table_4_2 as experiment

    seeds, epochs = (3, 1_000.0) if scale is Scale.quick else (5, 14_000.0)
    runs = 2 * seeds * len(experiment.contestants())
    _compare(lambda listen: experiment.table(seeds, epochs, listen), experiment.TITLE, runs, output, as_json)


@app.command("table-4.3")
def table_4_3(
    scale: Annotated[
        Scale, typer.Option(help="quick: 1 seed, at most 500 epochs; full: 5 seeds, 2,000.")
    ] = Scale.quick,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Optimisers on cryo-EM at low resolution: epochs, passes and seconds to 1e-14, with strong baselines.

    Example:  orbitrec reproduce table-4.3 -o table-4.3
    """
    from orbitrec.experiments import table_4_3 as experiment

    seeds, epochs = (1, 500.0) if scale is Scale.quick else (5, 2_000.0)
    runs = seeds * len(experiment.contestants())
    _compare(lambda listen: experiment.table(seeds, epochs, listen), experiment.TITLE, runs, output, as_json)


@app.command("optimiser-starts")
def optimiser_starts(
    scale: Annotated[Scale, typer.Option(help="quick: at most 100 epochs for each run; full: 1,000.")] = Scale.quick,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Every optimiser from 20 random starts of each problem: which diverge, which find the lowest minimum.

    Example:  orbitrec reproduce optimiser-starts -o starts
    """
    from orbitrec.experiments import optimiser_starts as experiment

    epochs = 100.0 if scale is Scale.quick else 1_000.0
    with experiment_run(output) as (run, bar):
        task = bar.add_task("runs", total=4 * experiment.STARTS * len(experiment.contestants(1)))
        rows = experiment.table(experiment.STARTS, epochs, lambda: bar.advance(task))
        if run is not None:
            experiment.write_results(run, rows)
    show(as_json, experiment.as_json(rows), experiment.as_text(rows))


def _compare(
    compare: "Callable[[Callable[[], None]], list[Comparison]]",
    title: str,
    runs: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Run ``compare`` with a bar of so many runs, write its results to ``output`` and show them."""
    from orbitrec.experiments import optimiser_table

    with experiment_run(output) as (run, bar):
        task = bar.add_task("runs", total=runs)
        comparisons = compare(lambda: bar.advance(task))
        if run is not None:
            optimiser_table.write_results(run, title, comparisons)
    show(as_json, optimiser_table.as_json(comparisons), *optimiser_table.as_text(title, comparisons))

"""Chapter 4's experiments: the optimisers of likelihoods."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.reproduce.shared import AsJson, Output, Resume, Scale, app, made, resumable_experiment, show

if TYPE_CHECKING:
    from orbitrec.thesis.optimiser_table import SolverExperiment


@app.command("table-4.1")
def table_4_1(
    scale: Annotated[
        Scale, typer.Option(help="quick: 3 seeds, at most 1,000 epochs; full: 5 seeds, 14,000.")
    ] = Scale.quick,
    output: Output = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Gradient methods on windowed MRA: epochs, passes and seconds to 1e-14, with strong baselines.

    Example:  orbitrec reproduce table-4.1 --scale full -o table-4.1
    """
    from orbitrec.thesis.table_4_1 import EXPERIMENT

    size = (3, 1_000.0) if scale is Scale.quick else (5, 14_000.0)
    _compare(EXPERIMENT, size, output, resume, as_json)


@app.command("table-4.2")
def table_4_2(
    scale: Annotated[
        Scale, typer.Option(help="quick: 3 seeds, at most 1,000 epochs; full: 5 seeds, 14,000.")
    ] = Scale.quick,
    output: Output = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """EM methods on windowed MRA: epochs, passes and seconds to 1e-14, with accelerated EM beside them.

    Example:  orbitrec reproduce table-4.2 --scale full -o table-4.2
    """
    from orbitrec.thesis.table_4_2 import EXPERIMENT

    size = (3, 1_000.0) if scale is Scale.quick else (5, 14_000.0)
    _compare(EXPERIMENT, size, output, resume, as_json)


@app.command("table-4.3")
def table_4_3(
    scale: Annotated[
        Scale, typer.Option(help="quick: 1 seed, at most 500 epochs; full: 5 seeds, 2,000.")
    ] = Scale.quick,
    output: Output = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Optimisers on cryo-EM at low resolution: epochs, passes and seconds to 1e-14, with strong baselines.

    Example:  orbitrec reproduce table-4.3 -o table-4.3
    """
    from orbitrec.thesis.table_4_3 import EXPERIMENT

    size = (1, 500.0) if scale is Scale.quick else (5, 2_000.0)
    _compare(EXPERIMENT, size, output, resume, as_json)


@app.command("optimiser-starts")
def optimiser_starts(
    scale: Annotated[Scale, typer.Option(help="quick: at most 100 epochs for each run; full: 1,000.")] = Scale.quick,
    output: Output = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Every optimiser from 20 random starts of each problem: which diverge, which find the lowest minimum.

    Example:  orbitrec reproduce optimiser-starts -o starts
    """
    from orbitrec.thesis import optimiser_starts as experiment
    from orbitrec.thesis.steps import Steps

    epochs = 100.0 if scale is Scale.quick else 1_000.0
    settings = {"experiment": "optimiser-starts", "epochs": epochs}
    with resumable_experiment(output, settings, resume=resume) as (run, checkpoints, bar):
        task = bar.add_task("runs", total=4 * experiment.STARTS * len(experiment.contestants(1)))
        result = experiment.table(experiment.STARTS, epochs, Steps(lambda: bar.advance(task), checkpoints))
        by = made()
        if run is not None:
            result.write(run, by, [asdict(row) for row in result.rows])
    show(as_json, result, by)


def _compare(
    experiment: "SolverExperiment", size: tuple[int, float], output: Path | None, resume: bool, as_json: bool
) -> None:
    """Run the experiment at a size of seeds and epochs, write the results to ``output`` and show them."""
    from orbitrec.thesis.steps import Steps

    seeds, epochs = size
    settings = {"experiment": experiment.name, "seeds": seeds, "epochs": epochs}
    with resumable_experiment(output, settings, resume=resume) as (run, checkpoints, bar):
        task = bar.add_task("runs", total=seeds * experiment.runs)
        comparisons = experiment.run(seeds, epochs, Steps(lambda: bar.advance(task), checkpoints))
        result, by = experiment.table(comparisons), made()
        if run is not None:
            result.write(run, by, [asdict(row) for row in result.rows])
            experiment.draw(run, comparisons)
    show(as_json, result, by)

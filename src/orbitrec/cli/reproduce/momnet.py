"""Chapter 3's experiments: MoM-net."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from orbitrec.cli.reproduce.shared import (
    AsJson,
    Output,
    Resume,
    Scale,
    app,
    experiment_run,
    resumable_experiment,
    show,
)

Maps = Annotated[list[Path], typer.Option("--map", help="True map (MRC); may be repeated. The thesis's: EMD-0409 …")]


@app.command("table-3.1")
def table_3_1(
    maps: Maps,
    scale: Annotated[
        Scale, typer.Option(help="quick: 1,000 test problems, 2 densities a map; full: 13,000 and 5.")
    ] = Scale.quick,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """MoM-net's shipped encoder alone: Kam loss on its family, and resolution on real maps outside of it.

    Example:  orbitrec reproduce table-3.1 --map emd_0409.mrc --map emd_25892.mrc -o table-3.1
    """
    from orbitrec.thesis import table_3_1 as experiment

    samples, problems, iterations = (1_000, 2, 100) if scale is Scale.quick else (13_000, 5, 300)
    with experiment_run(output) as (run, bar):
        task = bar.add_task("maps", total=len(maps) * problems)
        cases = experiment.maps(maps, problems, iterations, lambda row: bar.advance(task))
        task = bar.add_task("families", total=2 * samples)
        tested = experiment.families(samples, lambda done: bar.advance(task, done))
        if run is not None:
            experiment.write_results(run, tested, cases)
    show(as_json, experiment.as_json(tested, cases), experiment.as_text(tested, cases))


@app.command("table-3.2")
def table_3_2(
    path: Annotated[Path, typer.Option("--map", help="True map (MRC), the thesis's is EMD-0409.")],
    scale: Annotated[
        Scale, typer.Option(help="quick: moments to a third of Nyquist; full: to half of it.")
    ] = Scale.quick,
    refining: Annotated[
        int | None,
        typer.Option(min=0, help="Steps of FourierNet; by default quick has 10 and full 300, half a day's work."),
    ] = None,
    output: Output = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Reconstruction from moments with shifts of 0, 2 and 4 pixels, and without knowing of shifts.

    Example:  orbitrec reproduce table-3.2 --map emd_0409.mrc -o table-3.2
    """
    from orbitrec.thesis import table_3_2 as experiment

    size = experiment.QUICK if scale is Scale.quick else experiment.ShiftTableSize()
    if refining is not None:
        size = replace(size, refining=refining)
    settings = {"map": str(path), **asdict(size)}
    with resumable_experiment(output, settings, resume=resume) as (run, checkpoints, bar):
        task = bar.add_task("rows", total=2 * len(experiment.REPORTED))
        found = experiment.table(path, size, lambda row: bar.advance(task), checkpoints)
        if run is not None:
            experiment.write_results(run, found, size)
    show(as_json, experiment.as_json(found, size), experiment.as_text(found, size))


@app.command("figure-3.7")
def figure_3_7(
    path: Annotated[Path, typer.Option("--map", help="True map (MRC), the thesis's is EMD-0409.")],
    scale: Annotated[Scale, typer.Option(help="quick: 500 iterations; full: 3,000.")] = Scale.quick,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Reconstruction without shifts from the trained and from an untrained encoder: Kam loss against iterations.

    Example:  orbitrec reproduce figure-3.7 --map emd_0409.mrc -o figure-3.7
    """
    from orbitrec.thesis import figure_3_7 as experiment

    iterations = 500 if scale is Scale.quick else 3_000
    with experiment_run(output) as (run, bar):
        task = bar.add_task("runs", total=4)
        found = experiment.runs(path, iterations, lambda: bar.advance(task))
        if run is not None:
            experiment.write_results(run, found)
    show(as_json, experiment.as_json(found), experiment.as_text(found))

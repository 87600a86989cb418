"""Chapter 2's experiments on multireference alignment."""

from dataclasses import asdict, replace
from typing import Annotated

import typer

from orbitrec.cli.reproduce.shared import AsJson, Output, Scale, app, experiment_run, made, show
from orbitrec.errors import InputError


@app.command("table-2.1")
def table_2_1(
    scale: Annotated[
        Scale, typer.Option(help="quick: the pretrained weights; full: train them from nothing first.")
    ] = Scale.quick,
    output: Output = None,
    samples: Annotated[int, typer.Option(min=1, help="Problems in each mean.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Encoders for multireference alignment: errors on mixtures of 1, 2 and 3 Gaussians.

    Example:  orbitrec reproduce table-2.1 -o table-2.1
    """
    from orbitrec.cli.reproduce.provenance import commit
    from orbitrec.networks.provenance import Origin
    from orbitrec.thesis import table_2_1 as experiment

    if scale is Scale.full and output is None:
        raise InputError("--scale full makes new weights and needs a folder for them; give -o DIR")
    with experiment_run(output) as (run, bar):
        weights = experiment.pretrained_weights()
        if scale is Scale.full and run is not None:
            task = bar.add_task("training", total=len(weights))
            origin = Origin("orbitrec reproduce table-2.1 --scale full -o DIR", commit())
            weights = experiment.retrained_weights(run.path, origin, lambda done: bar.update(task, completed=done))
        task = bar.add_task("table", total=experiment.ROWS)
        result = experiment.table(weights, samples, lambda row: bar.advance(task))
        by = made()
        if run is not None:
            result.write(run, by, [asdict(row) for row in result.rows])
            experiment.draw(run, weights)
    show(as_json, result, by)


@app.command("mra-accuracy")
def mra_accuracy(
    scale: Annotated[
        Scale, typer.Option(help="quick: 10⁴ observations; full: 10⁴, 10⁵ and 10⁶, an hour or so.")
    ] = Scale.quick,
    output: Output = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Only this method of mra recover; may be repeated. [all]")
    ] = None,
    problems: Annotated[
        int | None, typer.Option(min=1, help="Problems in each median. [3; 2 with --scale quick]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Every recovery of multireference alignment: error and seconds against the number of observations and the noise.

    Example:  orbitrec reproduce mra-accuracy -o accuracy
    """
    from orbitrec.thesis import mra_accuracy as experiment

    settings = experiment.QUICK if scale is Scale.quick else experiment.AccuracySettings()
    settings = replace(settings, problems=problems or settings.problems)
    methods = experiment.chosen(method)
    with experiment_run(output) as (run, bar):
        task = bar.add_task("table", total=experiment.row_count(settings, methods))
        result = experiment.table(settings, methods, callback=lambda row: bar.advance(task))
        by = made()
        if run is not None:
            result.write(run, by, [asdict(row) for row in result.rows])
            experiment.draw(run, result.rows)
    show(as_json, result, by)


@app.command("figure-2.4")
def figure_2_4(
    scale: Annotated[
        Scale, typer.Option(help="quick: 6 problems of 10⁵ observations, 300 iterations; full: 20, 10⁶, 3000.")
    ] = Scale.quick,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """The reconstruction phase of multireference alignment: trained, untrained and spectral starts.

    Example:  orbitrec reproduce figure-2.4 --scale full -o figure-2.4
    """
    from orbitrec.thesis import figure_2_4 as experiment

    size = experiment.QUICK if scale is Scale.quick else experiment.CurveSize()
    with experiment_run(output) as (run, bar):
        task = bar.add_task("matching", total=size.iterations * len(experiment.STARTS))
        points = experiment.curves(size, lambda: bar.advance(task))
        result, by = experiment.summary(points, size), made()
        if run is not None:
            result.write(run, by)
            experiment.draw(run, points, size)
    show(as_json, result, by)

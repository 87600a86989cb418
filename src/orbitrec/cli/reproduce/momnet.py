"""Chapter 3's experiments: MoM-net."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.reproduce.shared import (
    AsJson,
    Output,
    Resume,
    Scale,
    app,
    experiment_run,
    made,
    resumable_experiment,
    show,
)

if TYPE_CHECKING:
    from orbitrec.thesis.encoder_training import ReferenceMomNetTraining

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
    """MoM-net's pretrained encoder alone: Kam loss on its family, and resolution on real maps outside of it.

    Example:  orbitrec reproduce table-3.1 --map emd_0409.mrc --map emd_25892.mrc -o table-3.1
    """
    from orbitrec.thesis import table_3_1 as experiment

    samples, problems, iterations = (1_000, 2, 100) if scale is Scale.quick else (13_000, 5, 300)
    with experiment_run(output) as (run, bar):
        task = bar.add_task("maps", total=len(maps) * problems)
        cases = experiment.maps(maps, problems, iterations, lambda row: bar.advance(task))
        task = bar.add_task("families", total=2 * samples)
        tested = experiment.families(samples, lambda done: bar.advance(task, done))
        result, by = experiment.TrainedMomNetTable.of(tested, cases), made()
        if run is not None:
            result.write(run, by, [asdict(case.row) for case in cases])
            experiment.draw(run, cases)
    show(as_json, result, by)


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
        result, by = experiment.ShiftTable.of(found, size), made()
        if run is not None:
            result.write(run, by, [asdict(case.row) for case in found.cases])
            experiment.draw(run, found)
    show(as_json, result, by)


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
        by = made()
        if run is not None:
            found.write(run, by)
            experiment.draw(run, found)
    show(as_json, found, by)


@app.command("momnet-encoder")
def momnet_encoder(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make for the run.")],
    atoms: Annotated[int, typer.Option(help="Gaussian atoms of a protein.")] = 20,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 4000,
    batch: Annotated[int, typer.Option(help="New problems in each step.")] = 128,
    rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUTPUT, by its own options.")] = False,
) -> None:
    """Train MoM-net's encoder as the thesis has it, two-dimensional convolutions on the Cartesian moments.

    The families, the loss and the files are those of train momnet; a step takes three times as long.

    Example:  orbitrec reproduce momnet-encoder -o encoder
    """
    from orbitrec.cli.train import train_to_the_end
    from orbitrec.io.runs import RunFolder, new_run
    from orbitrec.networks.molecules import ProteinLaw
    from orbitrec.networks.training import Trainer
    from orbitrec.thesis.encoder_training import ReferenceMomNetTraining

    if resume:
        trainer = Trainer.resumed(output / "checkpoint.safetensors", ReferenceMomNetTraining)
        train_to_the_end(RunFolder(output), trainer, _encoder_command(trainer.task))
        return
    task = ReferenceMomNetTraining(proteins=ProteinLaw(atoms), steps=steps, batch=batch, learning_rate=rate, seed=seed)
    with new_run(output) as run:
        train_to_the_end(run, Trainer(task), _encoder_command(task))


def _encoder_command(task: "ReferenceMomNetTraining") -> str:
    """The command that makes the same weights."""
    from orbitrec.cli.train import options_text

    options = [
        ("--atoms", task.proteins.atoms),
        ("--steps", task.steps),
        ("--batch", task.batch),
        ("--rate", task.learning_rate),
        ("--seed", task.seed),
    ]
    return f"orbitrec reproduce momnet-encoder {options_text(options)} -o DIR"

"""Chapter 2's experiments on cryo-EM: volumes from moments."""

from pathlib import Path
from typing import Annotated

import typer

from orbitrec.cli.reproduce.shared import AsJson, Output, Resume, Scale, app, made, resumable_experiment, show

Maps = Annotated[
    list[Path] | None,
    typer.Option("--map", help="EMD-0409 or EMD-25892 (MRC), its number in the name; may be repeated."),
]
Scales = Annotated[
    Scale,
    typer.Option(
        help="Pseudo-atoms match moments to 20, 45 and 3 Å from few starts, or (full) to 20, 20 and 2.5 Å from 64."
    ),
]
Neural = Annotated[
    bool, typer.Option("--neural-truth", help="Take for the truths FourierNets fitted to them, as the thesis does.")
]


@app.command("table-2.2")
def table_2_2(
    maps: Maps = None,
    scale: Scales = Scale.quick,
    neural_truth: Neural = False,
    output: Output = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Volumes from two and three moments: errors of the moments. Four Gaussians, and the maps that are given.

    Example:  orbitrec reproduce table-2.2 --map emd_0409.mrc --map emd_25892.mrc -o table-2.2
    """
    _both(maps or [], scale, neural_truth, output, resume, as_json)


@app.command("table-2.3")
def table_2_3(
    maps: Maps = None,
    scale: Scales = Scale.quick,
    neural_truth: Neural = False,
    output: Output = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Volumes from two and three moments: their resolutions. The same runs, and the same table, as table-2.2.

    Example:  orbitrec reproduce table-2.3 --map emd_0409.mrc --map emd_25892.mrc -o table-2.3
    """
    _both(maps or [], scale, neural_truth, output, resume, as_json)


def _both(maps: list[Path], scale: Scale, neural: bool, output: Path | None, resume: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from orbitrec.thesis import table_2_2 as experiment
    from orbitrec.thesis.neural_truth import neural_truth
    from orbitrec.thesis.steps import Steps
    from orbitrec.thesis.table_2_2_results import VolumeTable, draw
    from orbitrec.thesis.two_moments import TrueVolume

    quick = scale is Scale.quick
    size = experiment.QUICK if quick else experiment.FULL
    three = experiment.QUICK_THREE if quick else experiment.FULL_THREE
    truths = [*(TrueVolume.of_map(path) for path in maps), TrueVolume.gaussians()]
    settings = {"experiment": "table-2.2", "maps": [str(path) for path in maps], "neural": neural, **asdict(size)}
    settings["three"] = {name: asdict(plan) for name, plan in three.items()}
    with resumable_experiment(output, settings, resume=resume) as (run, checkpoints, bar):
        fits: dict[str, float] = {}
        if neural:
            fitting = bar.add_task("neural truths", total=len(truths))
            for i, truth in enumerate(truths):
                truths[i], fits[truth.name] = neural_truth(truth)
                bar.advance(fitting)
        task = bar.add_task("steps", total=experiment.step_count(truths, size, three))
        rows, pictures = experiment.table(truths, size, three, Steps(lambda: bar.advance(task), checkpoints))
        result, by = VolumeTable.of(size, rows, fits), made()
        if run is not None:
            result.write(run, by, [asdict(row) for row in rows])
            draw(run, size, truths, pictures)
    show(as_json, result, by)

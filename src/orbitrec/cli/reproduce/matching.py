"""Chapter 2's experiments on cryo-EM: volumes from two moments."""

from pathlib import Path
from typing import Annotated

import typer

from orbitrec.cli.reproduce.shared import AsJson, Output, Scale, app, experiment_run, show

Maps = Annotated[
    list[Path] | None,
    typer.Option("--map", help="EMD-0409 or EMD-25892 (MRC), its number in the name; may be repeated."),
]
Scales = Annotated[
    Scale, typer.Option(help="quick: moments to 20, 60 and 3.6 Å, 3 starts; full: to 15, 30 and 2.5 Å, 16 starts.")
]


@app.command("table-2.2")
def table_2_2(maps: Maps = None, scale: Scales = Scale.quick, output: Output = None, as_json: AsJson = False) -> None:
    """Volumes from the first two moments: errors of the moments. Four Gaussians, and the maps that are given.

    Example:  orbitrec reproduce table-2.2 --map emd_0409.mrc --map emd_25892.mrc -o table-2.2
    """
    _both(maps or [], scale, output, as_json)


@app.command("table-2.3")
def table_2_3(maps: Maps = None, scale: Scales = Scale.quick, output: Output = None, as_json: AsJson = False) -> None:
    """Volumes from the first two moments: their resolutions. The same runs, and the same table, as table-2.2.

    Example:  orbitrec reproduce table-2.3 --map emd_0409.mrc --map emd_25892.mrc -o table-2.3
    """
    _both(maps or [], scale, output, as_json)


def _both(maps: list[Path], scale: Scale, output: Path | None, as_json: bool) -> None:
    from orbitrec.experiments import table_2_2 as experiment

    size = experiment.QUICK if scale is Scale.quick else experiment.FULL
    truths = [*(experiment.Truth.of_map(path) for path in maps), experiment.Truth.gaussians()]
    with experiment_run(output) as (run, bar):
        task = bar.add_task("starts", total=len(truths) * (size.starts + 2))
        found = experiment.table(truths, size, lambda name: bar.advance(task))
        if run is not None:
            experiment.write_results(run, size, truths, found)
    show(as_json, experiment.as_json(found[0], size), experiment.as_text(found[0]))

"""``orbitrec train``: the supervised phase."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.devices import Device, usable

if TYPE_CHECKING:
    from orbitrec.io.runs import RunFolder
    from orbitrec.networks.training import Trainer

app = typer.Typer(no_args_is_help=True)


class EncoderName(StrEnum):
    """What may be trained."""

    thesis = "thesis"
    structured = "structured"


class MomNetName(StrEnum):
    """What may be trained for cryo-EM."""

    polar = "polar"
    printed = "printed"


@app.callback()
def train() -> None:
    """Train an encoder on moments of a whole family of signals or volumes."""


@app.command()
def mra(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make for the run.")],
    gaussians: Annotated[int, typer.Option(help="Gaussians in a signal and in a density.")] = 2,
    encoder: Annotated[EncoderName, typer.Option(help="Architecture.")] = EncoderName.structured,
    length: Annotated[int, typer.Option(help="Samples of a signal.")] = 41,
    widths: Annotated[
        tuple[float, float], typer.Option(help="Range of the Gaussians' standard deviations, in circumferences.")
    ] = (0.04, 0.10),
    weight_spread: Annotated[float, typer.Option(help="Weights are uniform in 1 ± this.")] = 0.5,
    noise: Annotated[
        tuple[float, float], typer.Option(help="Range of σ in the training moments, for signals of mean square 1.")
    ] = (0.1, 2.0),
    observations: Annotated[tuple[float, float], typer.Option(help="Range of the number of observations.")] = (
        1e4,
        1e6,
    ),
    exact: Annotated[float, typer.Option(help="Share of problems with exact moments; 1: no noise at all.")] = 0.5,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 5000,
    batch: Annotated[int, typer.Option(help="New problems in each step.")] = 256,
    rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 1,
    device: Device = "cpu",
    half: Annotated[bool, typer.Option("--half", help="Write the weights in half precision.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUTPUT, by its own options, --device and --half.")
    ] = False,
) -> None:
    """Train an encoder for multireference alignment on problems drawn as it goes.

    OUTPUT gets encoder.safetensors with its recipe as encoder.json, history.csv, and checkpoint.safetensors, from which
    --resume goes on to the same weights as without the interruption.

    Example:  orbitrec train mra --gaussians 2 --encoder structured -o encoder-2
    """
    from orbitrec.io.runs import RunFolder, new_run
    from orbitrec.mra.families import MixtureLaw
    from orbitrec.mra.sampling import NoiseLaw
    from orbitrec.mra.training import Training
    from orbitrec.networks.training import Trainer

    checked = usable(device, "float32")
    if resume:
        _run(RunFolder(output), Trainer.resumed(output / "checkpoint.safetensors", Training.from_dict, checked), half)
        return
    law = MixtureLaw(gaussians, widths, weight_spread)
    training = Training(encoder.value, law, length, NoiseLaw(noise, observations, exact), steps, batch, rate, seed)
    with new_run(output) as run:
        _run(run, Trainer(training, checked), half)


@app.command()
def momnet(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make for the run.")],
    encoder: Annotated[
        MomNetName, typer.Option(help="Architecture: for polar moments, or the thesis's on Cartesian ones.")
    ] = MomNetName.polar,
    atoms: Annotated[int, typer.Option(help="Gaussian atoms of a protein.")] = 20,
    width: Annotated[int, typer.Option(help="Units of a layer (polar).")] = 320,
    proposals: Annotated[int, typer.Option(help="Answers, of which the one of least Kam loss counts (polar).")] = 4,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 4000,
    batch: Annotated[int, typer.Option(help="New problems in each step.")] = 128,
    rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUTPUT, by its own options.")] = False,
) -> None:
    """Train MoM-net: from the moments of images to a volume, its views and the spread of shifts.

    Problems are drawn as it goes: protein-like volumes, five von Mises–Fisher views, shifts. OUTPUT gets the same files
    as that of train mra. A fifth of a second a step of 128 on one core, with the printed encoder three times as much.

    Example:  orbitrec train momnet -o momnet
    """
    from orbitrec.io.runs import RunFolder, new_run
    from orbitrec.networks.molecules import ProteinLaw
    from orbitrec.networks.momnet_training import MomNetTraining
    from orbitrec.networks.training import Trainer

    if resume:
        _run(
            RunFolder(output), Trainer.resumed(output / "checkpoint.safetensors", MomNetTraining.from_dict), half=False
        )
        return
    training = MomNetTraining(
        ProteinLaw(atoms),
        width=width,
        proposals=proposals,
        steps=steps,
        batch=batch,
        learning_rate=rate,
        seed=seed,
        encoder=encoder.value,
    )
    with new_run(output) as run:
        _run(run, Trainer(training), half=False)


def _run(run: "RunFolder", trainer: "Trainer", half: bool) -> None:
    """Train to the end with a bar, and write the results."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from orbitrec.networks.provenance import write_training

    columns = (TextColumn("{task.description:<30}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=trainer.training.steps, completed=trainer.step)
        facts = write_training(
            run,
            trainer,
            lambda now: bar.update(task, completed=now.step, description=_in_words(now.errors)),
            half=half,
        )
    typer.echo(
        f"held-out {_in_words(facts)} after {trainer.step} steps in {trainer.seconds:.0f} s: "
        f"{run.path / 'encoder.safetensors'}"
    )


def _in_words(errors: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in errors.items())

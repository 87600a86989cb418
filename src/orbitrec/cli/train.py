"""``orbitrec train``: the supervised phase."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.bars import staying_bar
from orbitrec.cli.options.devices import Device, usable

if TYPE_CHECKING:
    from orbitrec.io.runs import RunFolder
    from orbitrec.mra.training import MRATraining
    from orbitrec.networks.momnet_training import MomNetTraining
    from orbitrec.networks.training import Trainer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def train() -> None:
    """Train an encoder on moments of a whole family of signals or volumes."""


@app.command()
def mra(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make for the run.")],
    gaussians: Annotated[int, typer.Option(help="Gaussians in a signal and in a density.")] = 2,
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

    OUTPUT gets encoder.safetensors with its provenance as encoder.json, history.csv, and checkpoint.safetensors, from
    which --resume goes on to the same weights as without the interruption.

    Example:  orbitrec train mra --gaussians 2 -o encoder-2
    """
    from orbitrec.io.runs import RunFolder, new_run
    from orbitrec.mra.families import MixtureLaw
    from orbitrec.mra.sampling import NoiseLaw
    from orbitrec.mra.training import MRATraining
    from orbitrec.networks.training import Trainer

    checked = usable(device, "float32")
    if resume:
        trainer = Trainer.resumed(output / "checkpoint.safetensors", MRATraining, checked)
        train_to_the_end(RunFolder(output), trainer, mra_command(trainer.task, half=half), half=half)
        return
    law = MixtureLaw(gaussians, widths, weight_spread)
    task = MRATraining(
        law, length, NoiseLaw(noise, observations, exact), steps=steps, batch=batch, learning_rate=rate, seed=seed
    )
    with new_run(output) as run:
        train_to_the_end(run, Trainer(task, checked), mra_command(task, half=half), half=half)


@app.command()
def momnet(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make for the run.")],
    atoms: Annotated[int, typer.Option(help="Gaussian atoms of a protein.")] = 20,
    width: Annotated[int, typer.Option(help="Units of a layer.")] = 320,
    proposals: Annotated[int, typer.Option(help="Answers, of which the one of least Kam loss counts.")] = 4,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 4000,
    batch: Annotated[int, typer.Option(help="New problems in each step.")] = 128,
    rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUTPUT, by its own options.")] = False,
) -> None:
    """Train MoM-net: from the moments of images to a volume, its views and the spread of shifts.

    Problems are drawn as it goes: protein-like volumes, five von Mises–Fisher views, shifts. OUTPUT gets the same files
    as that of train mra. A fifth of a second a step of 128 on one core.

    Example:  orbitrec train momnet -o momnet
    """
    from orbitrec.io.runs import RunFolder, new_run
    from orbitrec.networks.molecules import ProteinLaw
    from orbitrec.networks.momnet_training import MomNetTraining
    from orbitrec.networks.training import Trainer

    if resume:
        trainer = Trainer.resumed(output / "checkpoint.safetensors", MomNetTraining)
        train_to_the_end(RunFolder(output), trainer, momnet_command(trainer.task))
        return
    task = MomNetTraining(
        proteins=ProteinLaw(atoms),
        width=width,
        proposals=proposals,
        steps=steps,
        batch=batch,
        learning_rate=rate,
        seed=seed,
    )
    with new_run(output) as run:
        train_to_the_end(run, Trainer(task), momnet_command(task))


def mra_command(task: "MRATraining", *, half: bool) -> str:
    """The command that makes the same weights."""
    law, noise = task.law, task.noise
    options = [
        ("--gaussians", law.components),
        ("--length", task.n),
        ("--widths", *law.widths),
        ("--weight-spread", law.weight_spread),
        ("--noise", *noise.sigma),
        ("--observations", *noise.count),
        ("--exact", noise.exact),
        ("--steps", task.steps),
        ("--batch", task.batch),
        ("--rate", task.learning_rate),
        ("--seed", task.seed),
        *([("--half",)] if half else []),
    ]
    return f"orbitrec train mra {options_text(options)} -o DIR"


def momnet_command(task: "MomNetTraining") -> str:
    """The command that makes the same weights; half precision would blur what the moments are compared with."""
    options = [
        ("--atoms", task.proteins.atoms),
        ("--width", task.width),
        ("--proposals", task.proposals),
        ("--steps", task.steps),
        ("--batch", task.batch),
        ("--rate", task.learning_rate),
        ("--seed", task.seed),
    ]
    return f"orbitrec train momnet {options_text(options)} -o DIR"


def options_text(options: list[tuple[str | int | float, ...]]) -> str:
    """Options as a user types them."""
    words = [word for option in options for word in option]
    return " ".join(format(word, "g") if isinstance(word, float) else str(word) for word in words)


def train_to_the_end(run: "RunFolder", trainer: "Trainer", command: str, *, half: bool = False) -> None:
    """Train with a bar, and write the results; ``command`` makes the same weights."""
    from orbitrec.cli.reproduce.provenance import commit
    from orbitrec.networks.provenance import Origin
    from orbitrec.networks.training_run import write_training

    with staying_bar() as bar:
        shown = bar.add_task("training", total=trainer.task.steps, completed=trainer.step)
        errors = write_training(
            run,
            trainer,
            Origin(command, commit()),
            lambda now: bar.update(shown, completed=now.step, description=_in_words(now.errors)),
            half=half,
        )
    typer.echo(
        f"held-out {_in_words(errors)} after {trainer.step} steps in {trainer.seconds:.0f} s: "
        f"{run.path / 'encoder.safetensors'}"
    )


def _in_words(errors: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in errors.items())

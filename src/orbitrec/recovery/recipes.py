"""How an encoder was made: the command, seed, device, time and commit that go with its weights."""

import platform
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from orbitrec import __version__
from orbitrec.io.files import write_csv
from orbitrec.io.runs import RunFolder
from orbitrec.networks.shipped import write_encoder
from orbitrec.recovery.supervised import Progress, Trainer, Training, errors


def train_command(training: Training, *, half: bool) -> str:
    """The command that makes the same weights."""
    law, noise = training.law, training.noise
    options: list[object] = ["--gaussians", law.components, "--encoder", training.encoder, "--length", training.n]
    options += ["--widths", *law.widths, "--weight-spread", law.weight_spread]
    options += ["--noise", *noise.sigma, "--observations", *noise.count, "--exact", noise.exact]
    options += ["--steps", training.steps, "--batch", training.batch, "--rate", training.learning_rate]
    options += ["--seed", training.seed, *(["--half"] if half else [])]
    return "orbitrec train mra " + " ".join(map(_plain, options)) + " -o DIR"


def _plain(option: object) -> str:
    return format(option, "g") if isinstance(option, float) else str(option)


def recipe(trainer: Trainer, density_error: float, signal_error: float, *, half: bool) -> dict[str, object]:
    """All of it, with the mean errors (2.9) of held-out problems with the weights as written."""
    return {
        "encoder": trainer.training.encoder,
        "n": trainer.training.n,
        "command": train_command(trainer.training, half=half),
        "training": asdict(trainer.training),
        "validation": {"density_error": density_error, "signal_error": signal_error},
        "seconds": round(trainer.seconds, 1),
        "device": f"{trainer.device.type}, {platform.machine()}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "version": __version__,
    }


def _commit() -> str | None:
    """The commit of a checkout that runs; None where the package is installed without its history."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_training(
    run: RunFolder, trainer: Trainer, listen: Callable[[Progress], None], *, half: bool = False
) -> dict[str, float]:
    """Train to the end, writing checkpoint.safetensors on the way, encoder.safetensors and history.csv at the end.

    Returns:
        The mean errors (2.9) of held-out problems with the weights as written: ``density_error``, ``signal_error``.
    """
    every = max(1, trainer.training.steps // 50)
    trainer.run(run.file("checkpoint.safetensors"), every, listen)
    encoder = trainer.encoder.cpu()
    if half:
        encoder.half().float()
    density, signal = (float(error.mean()) for error in errors(encoder, trainer.training.held_out(2048)))
    run.file("encoder.json")
    write_encoder(
        run.file("encoder.safetensors"),
        encoder,
        recipe(trainer, density, signal, half=half),
        torch.float16 if half else torch.float32,
    )
    write_csv(run.file("history.csv"), [asdict(row) for row in trainer.history])
    return {"density_error": density, "signal_error": signal}

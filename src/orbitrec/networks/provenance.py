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
from orbitrec.networks.pretrained import write_encoder
from orbitrec.networks.training import Progress, Trainer


def recipe(trainer: Trainer, errors: dict[str, float], *, half: bool) -> dict[str, object]:
    """All of it, with the mean errors of held-out problems with the weights as written."""
    training = asdict(trainer.training)
    return {
        "encoder": trainer.training.encoder,
        **({"n": training["n"]} if "n" in training else {}),
        "command": trainer.training.command(half=half),
        "training": training,
        "validation": errors,
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
    run: RunFolder, trainer: Trainer, callback: Callable[[Progress], None], *, half: bool = False
) -> dict[str, float]:
    """Train to the end, writing checkpoint.safetensors on the way, encoder.safetensors and history.csv at the end.

    Returns:
        The mean errors of held-out problems with the weights as written, by name.
    """
    every = max(1, trainer.training.steps // 20)
    trainer.run(run.file("checkpoint.safetensors"), every, callback)
    encoder = trainer.encoder.cpu()
    if half:
        encoder.half().float()
    errors = trainer.training.validation(encoder, trainer.training.held_out(2048))
    run.file("encoder.json")
    dtype = torch.float16 if half else torch.float32
    write_encoder(run.file("encoder.safetensors"), encoder, recipe(trainer, errors, half=half), dtype)
    write_csv(run.file("history.csv"), [row.row() for row in trainer.history])
    return errors

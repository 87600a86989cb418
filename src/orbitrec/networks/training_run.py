"""A training run and the files that it leaves."""

from collections.abc import Callable

import torch

from orbitrec.io.files import write_csv
from orbitrec.io.runs import RunFolder
from orbitrec.networks.pretrained import write_network
from orbitrec.networks.provenance import Origin, Provenance
from orbitrec.networks.training import Trainer, TrainingProgress


def write_training(
    run: RunFolder,
    trainer: Trainer,
    origin: Origin,
    callback: Callable[[TrainingProgress], None],
    *,
    half: bool = False,
) -> dict[str, float]:
    """Train to the end, writing checkpoint.safetensors on the way, encoder.safetensors and history.csv at the end.

    Args:
        run: the folder.
        trainer: what is trained.
        origin: command and commit, for the weights' provenance.
        callback: called twenty times on the way.
        half: write the weights in half precision.

    Returns:
        The mean errors of held-out problems with the weights as written, by name.

    Raises:
        InputError: if training diverges.
    """
    every = max(1, trainer.task.steps // 20)
    trainer.run(run.file("checkpoint.safetensors"), every, callback)
    network = trainer.network.cpu()
    if half:
        network.half().float()
    errors = trainer.task.validation(network, trainer.task.held_out(2048))
    run.file("encoder.json")
    dtype = torch.float16 if half else torch.float32
    write_network(run.file("encoder.safetensors"), network, Provenance.of(trainer, errors, origin), dtype)
    write_csv(run.file("history.csv"), [row.row() for row in trainer.history])
    return errors

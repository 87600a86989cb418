"""How a network was made: the command, task, device, time and commit that are kept with its weights."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from orbitrec import __version__
from orbitrec.networks.training import Trainer


@dataclass(frozen=True)
class Origin:
    """What only the caller knows of a training run.

    Attributes:
        command: what makes the same weights again, as a user types it.
        commit: of the source code; None where there is no history.
    """

    command: str
    commit: str | None = None


@dataclass(frozen=True)
class Provenance:
    """What a file of weights says about them.

    Attributes:
        encoder: name of the network's class, :attr:`orbitrec.networks.base.StoredNetwork.name`.
        command: that makes the same weights again.
        training: the task's fields, in JSON's types.
        validation: mean errors of held-out problems with the weights as written, by name.
        seconds: of training.
        device: type of the device, and the machine's architecture.
        date: of the end of training, UTC.
        commit: of the source code, if it was known.
        version: of this library.
    """

    encoder: str
    command: str
    training: Mapping[str, object]
    validation: Mapping[str, float]
    seconds: float
    device: str
    date: str
    commit: str | None
    version: str

    @classmethod
    def of(cls, trainer: Trainer, errors: Mapping[str, float], origin: Origin) -> "Provenance":
        """That of a finished training run.

        Args:
            trainer: the run.
            errors: mean errors of held-out problems with the weights as written, by name.
            origin: command and commit.

        Returns:
            The record.
        """
        return cls(
            encoder=trainer.task.architecture.name,
            command=origin.command,
            training=asdict(trainer.task),
            validation=errors,
            seconds=round(trainer.seconds, 1),
            device=f"{trainer.device.type}, {platform.machine()}",
            date=datetime.now(UTC).date().isoformat(),
            commit=origin.commit,
            version=__version__,
        )

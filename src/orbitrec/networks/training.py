"""The supervised phase of any network: problems drawn as training goes, Adam, checkpoints.

Everything that decides how training goes on is in the checkpoint: what is resumed ends in the same weights.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.io.plain import from_plain
from orbitrec.networks.base import StoredNetwork
from orbitrec.optim.adam import RateSchedule, ScheduledAdam, warm_up_cosine
from orbitrec.runtime.checkpoints import read_checkpoint, write_checkpoint

KIND = "training checkpoint"
STREAM = 1_000_000
"""Between the seeds of streams of problems. Generators on the CPU heed the low 32 bits of a seed only."""


@runtime_checkable
class Movable(Protocol):
    """A batch of problems, which may be moved to another device."""

    def to(self, device: torch.device) -> "Movable":
        """The same on another device."""
        ...


N = TypeVar("N", bound=StoredNetwork)
P = TypeVar("P", bound=Movable)


@dataclass(frozen=True, kw_only=True)
class TrainingTask(ABC, Generic[N, P]):
    """What is trained on what, as a record of numbers: a network of class N on problems of class P.

    Attributes:
        steps: of the optimiser (Adam), each on ``batch`` new problems.
        batch: problems of a step.
        learning_rate: the largest.
        seed: decides the weights to begin with and the problems.

    Raises:
        InputError: if a number is not positive or the seed is out of range.
    """

    steps: int
    batch: int
    learning_rate: float = 1e-3
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) <= 0 or not 0 < self.learning_rate < math.inf:
            raise InputError("`steps`, `batch` and `learning_rate` must be positive")
        if not 0 <= self.seed < STREAM:
            raise InputError(f"a seed of {self.seed} is not between 0 and {STREAM - 1}; choose one that is")

    @property
    @abstractmethod
    def architecture(self) -> type[N]:
        """The network's class."""

    @abstractmethod
    def network(self, generator: torch.Generator) -> N:
        """The untrained network, its weights drawn from the generator."""

    @abstractmethod
    def loss(self, network: N, generator: torch.Generator, device: torch.device) -> Float[Tensor, ""]:
        """Mean loss of ``batch`` new problems, which are drawn on the CPU.

        Args:
            network: on ``device``.
            generator: source of the problems, on the CPU.
            device: where to compute.

        Returns:
            A number that can be differentiated in the network's weights.
        """

    @abstractmethod
    def problems(self, size: int, generator: torch.Generator) -> P:
        """New problems, in float32."""

    @abstractmethod
    def validation(self, network: N, problems: P) -> dict[str, float]:
        """Mean errors on problems, by name."""

    def held_out(self, size: int, stream: int = 0) -> P:
        """Problems that training never sees; other streams hold others."""
        return self.problems(size, torch.Generator().manual_seed(self.seed + STREAM * (1 + stream)))

    def untrained(self) -> N:
        """The network that training begins with."""
        return self.network(torch.Generator().manual_seed(self.seed))


T = TypeVar("T", bound=TrainingTask[Any, Any])


def learning_rate(task: TrainingTask) -> RateSchedule:
    """Rises over the first 2 % of the steps and falls as a cosine to zero."""
    return warm_up_cosine(task.learning_rate, task.steps, max(1, task.steps // 50))


@dataclass(frozen=True)
class TrainingProgress:
    """What is known after ``step`` steps: mean errors of held-out problems by name, and seconds of training.

    Seconds are the processor's, or the clock's on an accelerator.
    """

    step: int
    seconds: float
    errors: Mapping[str, float]

    def row(self) -> dict[str, int | float]:
        """The same as one row of a table."""
        return {"step": self.step, **self.errors, "seconds": self.seconds}


class Trainer(Generic[T]):
    """One training run: network, Adam, and the stream of problems.

    Args:
        task: what to train.
        device: where the network is; problems are drawn on the CPU, so that the device does not change them.
    """

    def __init__(self, task: T, device: str | torch.device = "cpu") -> None:
        self.task, self.device = task, torch.device(device)
        self.generator = torch.Generator().manual_seed(task.seed)
        self.network: StoredNetwork = task.network(self.generator).to(self.device)
        self.adam = ScheduledAdam(self.network.parameters(), learning_rate(task), largest_norm=1.0)
        self.step, self.seconds = 0, 0.0
        self.history: list[TrainingProgress] = []

    def advance(self) -> None:
        """One optimiser step on new problems."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        start = clock()
        self.adam.step(self.task.loss(self.network, self.generator, self.device))
        self.step += 1
        self.seconds += clock() - start

    def run(
        self, checkpoint: Path, every: int, callback: Callable[[TrainingProgress], None], held_out: int = 512
    ) -> StoredNetwork:
        """Train to the end.

        Args:
            checkpoint: the file that keeps the run, written every ``every`` steps and at the end.
            every: steps between two validations.
            callback: called after each validation.
            held_out: problems of a validation.

        Returns:
            The network.

        Raises:
            InputError: if the weights are no longer numbers.
        """
        problems = self.task.held_out(held_out).to(self.device)
        while self.step < self.task.steps:
            self.advance()
            if self.step % every == 0 or self.step == self.task.steps:
                progress = TrainingProgress(self.step, self.seconds, self.task.validation(self.network, problems))
                if not math.isfinite(sum(progress.errors.values())):
                    raise InputError(
                        f"training diverged within {self.step} steps; choose a `learning_rate` below "
                        f"{self.task.learning_rate:g}"
                    )
                self.history.append(progress)
                self.save(checkpoint)
                callback(progress)
        return self.network

    def save(self, path: Path) -> None:
        """Write weights, the optimiser's and the generator's state, and the history, in one checkpoint."""
        names = [name for name, _ in self.network.named_parameters()]
        running = {
            f"adam.{key}.{names[index]}": value
            for index, state in self.adam.state().items()
            for key, value in state.items()
        }
        record = {
            **{f"weights.{name}": value for name, value in self.network.state_dict().items()},
            **running,
            "generator": self.generator.get_state(),
            "architecture": self.task.architecture.name,
            "task": asdict(self.task),
            "step": self.step,
            "seconds": self.seconds,
            "history": [asdict(row) for row in self.history],
        }
        write_checkpoint(path, record, KIND)

    @classmethod
    def resumed(cls, path: Path, kind: type[T], device: str | torch.device = "cpu") -> "Trainer[T]":
        """The run that wrote the checkpoint, as it was then.

        Args:
            path: the checkpoint.
            kind: of task that is resumed.
            device: where the network is.

        Returns:
            The run.

        Raises:
            InputError: if the file is missing, broken, or no checkpoint of that kind.
        """
        record = read_checkpoint(path, KIND, "begin another training run")
        another = InputError(f"{path} is the checkpoint of another kind of training; resume it by its own command")
        try:
            task, name = from_plain(kind, record["task"]), record["architecture"]
        except (KeyError, TypeError) as error:
            raise another from error
        if name != task.architecture.name:
            raise another
        trainer = cls(task, device)
        trainer._restore(record)
        return trainer

    def _restore(self, record: Mapping[str, Any]) -> None:
        """Go on from what :meth:`save` recorded."""
        weights = {
            name.removeprefix("weights."): value for name, value in record.items() if name.startswith("weights.")
        }
        self.network.load_state_dict(weights)
        running = {
            index: {key: record[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for index, (name, _) in enumerate(self.network.named_parameters())
            if f"adam.step.{name}" in record
        }
        self.adam.restore(running, record["step"])
        self.generator.set_state(record["generator"])
        self.step, self.seconds = record["step"], record["seconds"]
        self.history = [TrainingProgress(**row) for row in record["history"]]


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights that layers start from again, from ``generator``: uniform with variance 1/(3 fan-in), as torch.

    A layer made with zero weights keeps all it has.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and bool(module.weight.any()):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

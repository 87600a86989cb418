"""The supervised phase of any encoder: problems drawn as training goes, Adam, checkpoints.

Everything that decides how training goes on is in the checkpoint: what is resumed ends in the same weights.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.io.tensors import read_tensors, write_tensors
from orbitrec.optim.adam import Schedule, ScheduledAdam, warm_up_cosine

STREAM = 1_000_000
"""Between the seeds of streams of problems. Generators on the CPU heed the low 32 bits of a seed only."""


@runtime_checkable
class TrainingTask(Protocol):
    """What is trained on what, as a frozen dataclass of plain values (and dataclasses of them)."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def encoder(self) -> str:
        """The architecture's name."""
        ...

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        ...

    @property
    def batch(self) -> int:
        """New problems in each."""
        ...

    @property
    def learning_rate(self) -> float:
        """The largest."""
        ...

    @property
    def seed(self) -> int:
        """Decides the weights to begin with and the problems."""
        ...

    def network(self, generator: torch.Generator) -> nn.Module:
        """The untrained network, its weights drawn from the generator."""
        ...

    def loss(self, network: nn.Module, generator: torch.Generator, device: torch.device) -> Float[Tensor, ""]:
        """Mean loss of ``batch`` new problems, which are drawn on the CPU."""
        ...

    def held_out(self, size: int) -> Any:  # noqa: ANN401 — of each task its own kind
        """So many problems that training never sees, with a method ``to(device)``."""
        ...

    def validation(self, network: nn.Module, problems: Any) -> dict[str, float]:  # noqa: ANN401
        """Mean errors on problems, by name."""
        ...

    def command(self, *, half: bool) -> str:
        """The command that makes the same weights."""
        ...


Task = TypeVar("Task", bound=TrainingTask)


def check_training(task: TrainingTask) -> None:
    """What every training needs.

    Raises:
        InputError: if steps, batch or rate are not positive or the seed is out of range.
    """
    if min(task.steps, task.batch) <= 0 or not 0 < task.learning_rate < math.inf:
        raise InputError("steps, batch and learning rate must be positive")
    if not 0 <= task.seed < STREAM:
        raise InputError(f"a seed of {task.seed} is not between 0 and {STREAM - 1}; choose one that is")


def learning_rate(task: TrainingTask) -> Schedule:
    """Rises over the first 2 % of the steps and falls as a cosine to zero."""
    return warm_up_cosine(task.learning_rate, task.steps, max(1, task.steps // 50))


def options_text(options: list[object]) -> str:
    """A command's options as a user types them."""
    return " ".join(format(option, "g") if isinstance(option, float) else str(option) for option in options)


@dataclass(frozen=True)
class Progress:
    """What is known after ``step`` steps: mean errors of held-out problems by name, and seconds of training.

    Seconds are the processor's, or the clock's on an accelerator.
    """

    step: int
    seconds: float
    errors: Mapping[str, float]

    def row(self) -> dict[str, int | float]:
        """The same as one row of a table."""
        return {"step": self.step, **self.errors, "seconds": self.seconds}


class Trainer(Generic[Task]):
    """One training run: encoder, Adam, and the stream of problems.

    Args:
        training: what to train.
        device: where the network is; problems are drawn on the CPU, so that the device does not change them.
    """

    def __init__(self, training: Task, device: str | torch.device = "cpu") -> None:
        self.training, self.device = training, torch.device(device)
        self.generator = torch.Generator().manual_seed(training.seed)
        self.encoder = training.network(self.generator).to(self.device)
        self.adam = ScheduledAdam(self.encoder.parameters(), learning_rate(training), largest_norm=1.0)
        self.step, self.seconds = 0, 0.0
        self.history: list[Progress] = []

    def advance(self) -> None:
        """One optimiser step on new problems."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        start = clock()
        self.adam.step(self.training.loss(self.encoder, self.generator, self.device))
        self.step += 1
        self.seconds += clock() - start

    def run(self, checkpoint: Path, every: int, callback: Callable[[Progress], None], held_out: int = 512) -> nn.Module:
        """Train to the end; every so many steps and at the end validate, write the checkpoint and tell ``callback``.

        Raises:
            InputError: if the weights are no longer numbers.
        """
        problems = self.training.held_out(held_out).to(self.device)
        while self.step < self.training.steps:
            self.advance()
            if self.step % every == 0 or self.step == self.training.steps:
                progress = Progress(self.step, self.seconds, self.training.validation(self.encoder, problems))
                if not math.isfinite(sum(progress.errors.values())):
                    raise InputError(
                        f"training diverged within {self.step} steps; choose a smaller rate than "
                        f"{self.training.learning_rate:g}"
                    )
                self.history.append(progress)
                self.save(checkpoint)
                callback(progress)
        return self.encoder

    def save(self, path: Path) -> None:
        """Write weights, the optimiser's and the generator's state, and the history, in one atomic file."""
        tensors = {f"weights.{name}": value for name, value in self.encoder.state_dict().items()}
        names = [name for name, _ in self.encoder.named_parameters()]
        for index, state in self.adam.state().items():
            tensors |= {f"adam.{key}.{names[index]}": value for key, value in state.items()}
        tensors["generator"] = self.generator.get_state()
        facts = {"step": self.step, "seconds": self.seconds, "history": [asdict(row) for row in self.history]}
        metadata = {"training": json.dumps(asdict(self.training)), "facts": json.dumps(facts)}
        write_tensors(path, "training checkpoint", tensors, metadata)

    @classmethod
    def resumed(
        cls, path: Path, from_dict: Callable[[dict], Task], device: str | torch.device = "cpu"
    ) -> "Trainer[Task]":
        """The run that wrote the checkpoint, as it was then; ``from_dict`` makes its kind of training.

        Raises:
            InputError: if the file is missing, broken, or no checkpoint of that kind.
        """
        tensors, metadata = read_tensors(path, "training checkpoint", "leave out --resume to begin a training run")
        try:
            training = from_dict(json.loads(metadata["training"]))
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path} is the checkpoint of another kind of training; resume it by its own command"
            ) from error
        trainer = cls(training, device)
        trainer.encoder.load_state_dict(
            {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
        )
        names = [name for name, _ in trainer.encoder.named_parameters()]
        state = {
            index: {key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for index, name in enumerate(names)
            if f"adam.step.{name}" in tensors
        }
        trainer.generator.set_state(tensors["generator"])
        facts = json.loads(metadata["facts"])
        trainer.adam.restore(state, facts["step"])
        trainer.step, trainer.seconds = facts["step"], facts["seconds"]
        trainer.history = [Progress(**row) for row in facts["history"]]
        return trainer


def initialise(encoder: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights that layers start from again, from ``generator``: uniform with variance 1/(3 fan-in), as torch.

    A layer made with zero weights keeps all it has.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and bool(module.weight.any()):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

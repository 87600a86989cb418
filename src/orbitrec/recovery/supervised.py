"""The supervised phase: an encoder learns to invert the moments of a whole family of signals and densities.

Problems are drawn as training goes, so that none is seen twice. The loss is the mean of (2.9) for density and signal.
Everything that decides how training goes on is in the checkpoint: what is resumed ends in the same weights.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.inference.losses import orbit_error
from orbitrec.io.tensors import read_tensors, write_tensors
from orbitrec.models.families import LENGTH, MixtureLaw
from orbitrec.networks.encoders import ENCODERS, Encoder
from orbitrec.recovery.mra.sampling import NoiseLaw, Problems

_STREAM = 1_000_000
"""Between the seeds of streams of problems. Generators on the CPU heed the low 32 bits of a seed only."""


@dataclass(frozen=True)
class Training:
    """What a training run is made of.

    Attributes:
        encoder: a name in :data:`orbitrec.networks.encoders.ENCODERS`.
        law: family of signals and densities.
        n: samples of a signal.
        noise: noise in the training moments.
        steps: optimiser steps (Adam), each on ``batch`` new problems.
        batch: problems of a step.
        learning_rate: the largest; it rises over the first 2 % of the steps and falls as a cosine to zero.
        seed: decides the weights to begin with and the problems.

    Raises:
        InputError: if there is no such encoder, a number is not positive, or the seed is out of range.
    """

    encoder: str
    law: MixtureLaw
    n: int = LENGTH
    noise: NoiseLaw = field(default_factory=NoiseLaw)
    steps: int = 10_000
    batch: int = 256
    learning_rate: float = 1e-3
    seed: int = 1

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise InputError(f"there is no encoder {self.encoder!r}; choose among {', '.join(ENCODERS)}")
        if min(self.steps, self.batch, self.n - 4) <= 0 or not 0 < self.learning_rate < math.inf:
            raise InputError("steps, batch and learning rate must be positive, and n at least 5")
        if not 0 <= self.seed < _STREAM:
            raise InputError(f"a seed of {self.seed} is not between 0 and {_STREAM - 1}; choose one that is")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm_up = max(1, self.steps // 50)
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * min(1.0, (step + 1) / warm_up) * cosine

    def problems(self, size: int, generator: torch.Generator) -> Problems:
        """New problems of this training, in float32."""
        return Problems.draw(self.law, self.n, self.noise, size, generator, torch.float32)

    def held_out(self, size: int, stream: int = 0) -> Problems:
        """Problems that training never sees; other streams hold others."""
        return self.problems(size, torch.Generator().manual_seed(self.seed + _STREAM * (1 + stream)))

    @classmethod
    def from_dict(cls, values: dict) -> "Training":
        """What :func:`dataclasses.asdict` made of one, and JSON of that."""

        def ranges(part: dict) -> dict:
            return {key: tuple(value) if isinstance(value, list) else value for key, value in part.items()}

        law, noise = MixtureLaw(**ranges(values["law"])), NoiseLaw(**ranges(values["noise"]))
        return cls(**{**values, "law": law, "noise": noise})


@dataclass(frozen=True)
class Progress:
    """What is known after ``step`` steps: mean errors (2.9) of held-out problems, and seconds of training.

    Seconds are the processor's, or the clock's on an accelerator.
    """

    step: int
    density_error: float
    signal_error: float
    seconds: float


def errors(encoder: Encoder, problems: Problems, chunk: int = 1024) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The errors (2.9) of density and signal for each problem."""
    parts = []
    with torch.no_grad():
        for part in torch.arange(len(problems.signal)).split(chunk):
            some = problems.select(part)
            density, signal = encoder(some.moments, some.sigma, some.count)
            parts.append((orbit_error(density, some.density), orbit_error(signal, some.signal)))
    density, signal = (torch.cat(column) for column in zip(*parts, strict=True))
    return density, signal


class Trainer:
    """One training run: encoder, Adam, and the stream of problems.

    Args:
        training: what to train.
        device: where the network is; problems are drawn on the CPU, so that the device does not change them.
    """

    def __init__(self, training: Training, device: str | torch.device = "cpu") -> None:
        self.training, self.device = training, torch.device(device)
        self.generator = torch.Generator().manual_seed(training.seed)
        self.encoder = ENCODERS[training.encoder](training.n)
        _initialise(self.encoder, self.generator)
        self.encoder.to(self.device)
        self.adam = torch.optim.Adam(self.encoder.parameters(), lr=training.learning_rate)
        self.step, self.seconds = 0, 0.0
        self.history: list[Progress] = []

    def advance(self) -> None:
        """One optimiser step on new problems."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        start = clock()
        problems = self.training.problems(self.training.batch, self.generator).to(self.device)
        for group in self.adam.param_groups:
            group["lr"] = self.training.rate(self.step)
        # bfloat16 is an accelerator's; the closed-form parts are complex, which autocast leaves as they are.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            density, signal = self.encoder(problems.moments, problems.sigma, problems.count)
        loss = (
            orbit_error(density.float(), problems.density).mean() + orbit_error(signal.float(), problems.signal).mean()
        )
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.adam.step()
        self.step += 1
        self.seconds += clock() - start

    def run(self, checkpoint: Path, every: int, listen: Callable[[Progress], None], held_out: int = 2048) -> Encoder:
        """Train to the end; every so many steps and at the end validate, write the checkpoint and tell ``listen``.

        Raises:
            InputError: if the weights are no longer numbers.
        """
        problems = self.training.held_out(held_out).to(self.device)
        while self.step < self.training.steps:
            self.advance()
            if self.step % every == 0 or self.step == self.training.steps:
                density, signal = errors(self.encoder, problems)
                progress = Progress(self.step, float(density.mean()), float(signal.mean()), self.seconds)
                if not math.isfinite(progress.density_error + progress.signal_error):
                    raise InputError(
                        f"training diverged within {self.step} steps; choose a smaller rate than "
                        f"{self.training.learning_rate:g}"
                    )
                self.history.append(progress)
                self.save(checkpoint)
                listen(progress)
        return self.encoder

    def save(self, path: Path) -> None:
        """Write weights, the optimiser's and the generator's state, and the history, in one atomic file."""
        tensors = {f"weights.{name}": value for name, value in self.encoder.state_dict().items()}
        names = [name for name, _ in self.encoder.named_parameters()]
        for index, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{key}.{names[index]}": value for key, value in state.items()}
        tensors["generator"] = self.generator.get_state()
        facts = {"step": self.step, "seconds": self.seconds, "history": [asdict(row) for row in self.history]}
        metadata = {"training": json.dumps(asdict(self.training)), "facts": json.dumps(facts)}
        write_tensors(path, "training checkpoint", tensors, metadata)

    @classmethod
    def resumed(cls, path: Path, device: str | torch.device = "cpu") -> "Trainer":
        """The run that wrote the checkpoint, as it was then.

        Raises:
            InputError: if the file is missing, broken, or no checkpoint.
        """
        tensors, metadata = read_tensors(path, "training checkpoint", "leave out --resume to begin a training run")
        trainer = cls(Training.from_dict(json.loads(metadata["training"])), device)
        trainer.encoder.load_state_dict(
            {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
        )
        names = [name for name, _ in trainer.encoder.named_parameters()]
        state = {
            index: {key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for index, name in enumerate(names)
            if f"adam.step.{name}" in tensors
        }
        trainer.adam.load_state_dict({"state": state, "param_groups": trainer.adam.state_dict()["param_groups"]})
        trainer.generator.set_state(tensors["generator"])
        facts = json.loads(metadata["facts"])
        trainer.step, trainer.seconds = facts["step"], facts["seconds"]
        trainer.history = [Progress(**row) for row in facts["history"]]
        return trainer


def _initialise(encoder: Encoder, generator: torch.Generator) -> None:
    """Draw the weights that layers start from again, from ``generator``: uniform with variance 1/(3 fan-in), as torch.

    A layer made with zero weights keeps all it has.
    """
    for module in encoder.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d) and bool(module.weight.any()):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters():
                torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)

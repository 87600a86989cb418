"""The supervised phase of multireference alignment: an encoder learns to invert the moments of a family of signals.

The loss is the mean of (2.9) for density and signal.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.moments.losses import orbit_error
from orbitrec.mra.families import LENGTH, MixtureLaw
from orbitrec.mra.sampling import NoiseLaw, Problems
from orbitrec.networks.encoders import ENCODERS, Encoder
from orbitrec.networks.training import STREAM, check_training, initialise, options_text


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
        learning_rate: the largest.
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
        if self.n < 5:
            raise InputError(f"signals of {self.n} samples are too short; give at least 5")
        check_training(self)

    def network(self, generator: torch.Generator) -> Encoder:
        """The untrained encoder."""
        encoder = ENCODERS[self.encoder](self.n)
        initialise(encoder, generator)
        return encoder

    def loss(self, network: nn.Module, generator: torch.Generator, device: torch.device) -> Float[Tensor, ""]:
        """Mean errors (2.9) of density and signal on new problems, added."""
        problems = self.problems(self.batch, generator).to(device)
        # bfloat16 is an accelerator's; the closed-form parts are complex, which autocast leaves as they are.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            density, signal = network(problems.moments, problems.sigma, problems.count)
        density_error = orbit_error(density.float(), problems.density).mean()
        return density_error + orbit_error(signal.float(), problems.signal).mean()

    def validation(self, network: nn.Module, problems: Problems) -> dict[str, float]:
        """Mean errors (2.9): ``density_error``, ``signal_error``."""
        density, signal = errors(network, problems)
        return {"density_error": float(density.mean()), "signal_error": float(signal.mean())}

    def command(self, *, half: bool) -> str:
        """The command that makes the same weights."""
        law, noise = self.law, self.noise
        options: list[object] = ["--gaussians", law.components, "--encoder", self.encoder, "--length", self.n]
        options += ["--widths", *law.widths, "--weight-spread", law.weight_spread]
        options += ["--noise", *noise.sigma, "--observations", *noise.count, "--exact", noise.exact]
        options += ["--steps", self.steps, "--batch", self.batch, "--rate", self.learning_rate]
        options += ["--seed", self.seed, *(["--half"] if half else [])]
        return f"orbitrec train mra {options_text(options)} -o DIR"

    def problems(self, size: int, generator: torch.Generator) -> Problems:
        """New problems of this training, in float32."""
        return Problems.draw(self.law, self.n, self.noise, size, generator, torch.float32)

    def held_out(self, size: int, stream: int = 0) -> Problems:
        """Problems that training never sees; other streams hold others."""
        return self.problems(size, torch.Generator().manual_seed(self.seed + STREAM * (1 + stream)))

    @classmethod
    def from_dict(cls, values: dict) -> "Training":
        """What :func:`dataclasses.asdict` made of one, and JSON of that."""

        def ranges(part: dict) -> dict:
            return {key: tuple(value) if isinstance(value, list) else value for key, value in part.items()}

        law, noise = MixtureLaw(**ranges(values["law"])), NoiseLaw(**ranges(values["noise"]))
        return cls(**{**values, "law": law, "noise": noise})


def errors(encoder: nn.Module, problems: Problems, chunk: int = 1024) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The errors (2.9) of density and signal for each problem."""
    parts = []
    with torch.no_grad():
        for part in torch.arange(len(problems.signal)).split(chunk):
            some = problems.select(part)
            density, signal = encoder(some.moments, some.sigma, some.count)
            parts.append((orbit_error(density, some.density), orbit_error(signal, some.signal)))
    density, signal = (torch.cat(column) for column in zip(*parts, strict=True))
    return density, signal

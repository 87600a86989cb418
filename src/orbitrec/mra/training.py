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
from orbitrec.mra.sampling import NoiseLaw, SignalProblems
from orbitrec.networks.encoders import Encoder, StructuredEncoder
from orbitrec.networks.training import TrainingTask, initialise


@dataclass(frozen=True)
class MRATraining(TrainingTask[Encoder, SignalProblems]):
    """Training of an encoder, by default of :class:`orbitrec.networks.encoders.StructuredEncoder`.

    Attributes:
        law: family of signals and densities.
        n: samples of a signal.
        noise: noise in the training moments.

    Raises:
        InputError: if a number is not positive, or the seed is out of range.
    """

    law: MixtureLaw
    n: int = LENGTH
    noise: NoiseLaw = field(default_factory=NoiseLaw)
    steps: int = field(default=10_000, kw_only=True)
    batch: int = field(default=256, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 5:
            raise InputError(f"signals of {self.n} samples are too short; give at least 5")

    @property
    def architecture(self) -> type[Encoder]:
        """The encoder's class."""
        return StructuredEncoder

    def network(self, generator: torch.Generator) -> Encoder:
        """The untrained encoder."""
        encoder = self.architecture(self.n)
        initialise(encoder, generator)
        return encoder

    def loss(self, network: Encoder, generator: torch.Generator, device: torch.device) -> Float[Tensor, ""]:
        """Mean errors (2.9) of density and signal on new problems, added.

        Args:
            network: on ``device``.
            generator: source of the problems, on the CPU.
            device: where to compute.

        Returns:
            The sum.
        """
        problems = self.problems(self.batch, generator).to(device)
        # bfloat16 is an accelerator's; the closed-form parts are complex, which autocast leaves as they are.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            density, signal = network(problems.moments, problems.sigma, problems.count)
        density_error = orbit_error(density.float(), problems.density).mean()
        return density_error + orbit_error(signal.float(), problems.signal).mean()

    def validation(self, network: Encoder, problems: SignalProblems) -> dict[str, float]:
        """Mean errors (2.9): ``density_error``, ``signal_error``."""
        density, signal = errors(network, problems)
        return {"density_error": float(density.mean()), "signal_error": float(signal.mean())}

    def problems(self, size: int, generator: torch.Generator) -> SignalProblems:
        """New problems of this training, in float32."""
        return SignalProblems.draw(self.law, self.n, self.noise, size, generator, torch.float32)


def errors(
    encoder: nn.Module, problems: SignalProblems, chunk: int = 1024
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The errors (2.9) of density and signal for each problem.

    Args:
        encoder: of signals.
        problems: a batch.
        chunk: so many problems at a time.

    Returns:
        Errors of densities and of signals.
    """
    parts = []
    with torch.no_grad():
        for part in torch.arange(len(problems.signal)).split(chunk):
            some = problems.select(part)
            density, signal = encoder(some.moments, some.sigma, some.count)
            parts.append((orbit_error(density, some.density), orbit_error(signal, some.signal)))
    density, signal = (torch.cat(column) for column in zip(*parts, strict=True))
    return density, signal

"""The supervised phase of MoM-net (section 3.4.1): proteins, view densities and shifts drawn as training goes.

The loss is the Kam loss (3.13) of the answer's moments, and a quarter of the relative error of its coefficients.
Moments alone leave the volume to chance where they say little; the fixed means of the views' law give every problem a
frame, so that coefficients can be compared. They give it no hand: reflected in the origin the volume has the same
moments, so the second part of the loss draws the odd degrees towards zero, the mean of both hands.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.inference.losses import kam_loss
from orbitrec.inference.moments import Moments
from orbitrec.models.molecules import ProteinLaw, ViewLaw
from orbitrec.networks.momnet import Estimate, MomNet, Setting
from orbitrec.recovery.training import STREAM, check_training, initialise, options_text

COEFFICIENT_SHARE = 0.25
_CALIBRATION = 2048  # problems from which the compression is made


@dataclass(frozen=True, eq=False)
class Problems:
    """A batch: coefficients of volumes, views' probabilities, shifts in pixels, and their exact moments."""

    coefficients: Float[Tensor, "b p"]
    density: Float[Tensor, "b d"]
    shift_px: Float[Tensor, "b"]
    moments: Moments

    def to(self, device: torch.device) -> "Problems":
        """The same on another device."""
        m = self.moments
        moments = Moments(m.first.to(device), m.second.to(device), m.weights.to(device))
        return Problems(self.coefficients.to(device), self.density.to(device), self.shift_px.to(device), moments)


@dataclass(frozen=True)
class MomNetTraining:
    """What a training run is made of.

    Attributes:
        proteins: the family of volumes.
        views: the family of densities.
        setting: what the network is made for.
        width: units of its layers.
        steps: optimiser steps (Adam), each on ``batch`` new problems.
        batch: problems of a step.
        learning_rate: the largest.
        seed: decides the weights to begin with and the problems.
        encoder: the architecture's name.

    Raises:
        InputError: if a number is not positive or the seed is out of range.
    """

    proteins: ProteinLaw = field(default_factory=ProteinLaw)
    views: ViewLaw = field(default_factory=ViewLaw)
    setting: Setting = field(default_factory=Setting)
    width: int = 320
    steps: int = 4000
    batch: int = 128
    learning_rate: float = 1e-3
    seed: int = 1
    encoder: str = "polar"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"layers of {self.width} units are none; give --width at least 1")
        check_training(self)

    def problems(self, size: int, generator: torch.Generator) -> Problems:
        """New problems, in float32: spreads of shifts are uniform up to η_max."""
        s = self.setting
        w = self.proteins.draw(size, s.basis, generator).float()
        density = torch.stack([law.density(s.directions) for law in self.views.draw(size, generator)]).float()
        density = density / density.sum(1, keepdim=True)
        shift = torch.rand(size, generator=generator) * s.largest_shift_px
        return Problems(w, density, shift, s.moments(w, density, shift))

    def held_out(self, size: int, stream: int = 0) -> Problems:
        """Problems that training never sees; other streams hold others."""
        return self.problems(size, torch.Generator().manual_seed(self.seed + STREAM * (1 + stream)))

    def network(self, generator: torch.Generator) -> MomNet:
        """The untrained network; what it looks at is fitted to the family first."""
        family = self.problems(_CALIBRATION, generator)
        net = MomNet.for_family(self.setting, family.moments, family.coefficients, self.width)
        initialise(net, generator)
        return net

    def loss(self, network: nn.Module, generator: torch.Generator, device: torch.device) -> Float[Tensor, ""]:
        """Mean Kam loss and a quarter of the mean relative error of the coefficients, on new problems."""
        problems = self.problems(self.batch, generator).to(device)
        estimate = network(problems.moments)
        return (self.kam_losses(estimate, problems) + COEFFICIENT_SHARE * volume_errors(estimate, problems)).mean()

    def kam_losses(self, estimate: Estimate, problems: Problems) -> Float[Tensor, "b"]:
        """(3.13) of every problem."""
        density = estimate.density(self.setting.harmonics(self.setting.directions))
        return kam_loss(problems.moments, self.setting.moments(estimate.coefficients, density, estimate.shift_px))

    def validation(self, network: nn.Module, problems: Problems) -> dict[str, float]:
        """Means of ``kam_loss`` (3.13), ``volume_error`` (relative, of coefficients) and ``shift_error_px``."""
        with torch.no_grad():
            estimate = network(problems.moments)
            return {
                "kam_loss": float(self.kam_losses(estimate, problems).mean()),
                "volume_error": float(volume_errors(estimate, problems).mean()),
                "shift_error_px": float((estimate.shift_px - problems.shift_px).abs().mean()),
            }

    def command(self, *, half: bool) -> str:
        """The command that makes the same weights; half precision would blur what the moments are compared with."""
        options: list[object] = ["--atoms", self.proteins.atoms, "--width", self.width, "--steps", self.steps]
        options += ["--batch", self.batch, "--rate", self.learning_rate, "--seed", self.seed]
        return f"orbitrec train momnet {options_text(options)} -o DIR"

    @classmethod
    def from_dict(cls, values: dict) -> "MomNetTraining":
        """What :func:`dataclasses.asdict` made of one, and JSON of that."""

        def ranges(part: dict) -> dict:
            return {key: tuple(value) if isinstance(value, list) else value for key, value in part.items()}

        proteins, views = ProteinLaw(**ranges(values["proteins"])), ViewLaw(**ranges(values["views"]))
        return cls(**{**values, "proteins": proteins, "views": views, "setting": Setting(**values["setting"])})


def volume_errors(estimate: Estimate, problems: Problems) -> Float[Tensor, "b"]:
    """``‖z_v − w‖ / ‖w‖`` of every problem."""
    return (estimate.coefficients - problems.coefficients).norm(dim=1) / problems.coefficients.norm(dim=1)

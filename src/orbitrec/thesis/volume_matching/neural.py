"""Moment matching with a neural volume and a free density of views (2.17), by Adam, on any grid.

What is kept between the two passes over the quadrature is the transform's values and not the network's layers: first
the values are computed, then the loss and its gradient in the values, and then, a part at a time, what they pull back
to the network. So the memory is that of the moments, at the price of evaluating the volume twice where the quadrature
has more than one part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from orbitrec.moments.analytic import Moments
from orbitrec.moments.losses import moment_loss
from orbitrec.optim.adam import ScheduledAdam
from orbitrec.thesis.volume_matching.grids import MomentGrid
from orbitrec.volumes.base import Volume

Density = Callable[[], Float[Tensor, "q"]]
"""Logits of the quadrature's nodes, as a function of whatever parameters they have."""

Loss = Callable[[Moments], Float[Tensor, ""]]
"""How far the volume's moments are from what they should be."""

POINTS_AT_ONCE = 2**15


@dataclass(frozen=True, eq=False)
class NeuralMatching:
    """A volume and a density with parameters, to be matched on a grid.

    Args:
        grid: where moments are compared.
        loss: of the model's moments; :func:`recon_loss` makes (2.17).
        volume: differentiable in ``parameters``.
        density: logits of the grid's nodes, likewise.
        parameters: what is fitted.
        held: transform at the grid's points of a first part, which the volume refines (3.11) and nothing changes.
    """

    grid: MomentGrid
    loss: Loss
    volume: Volume
    density: Density
    parameters: list[nn.Parameter]
    held: Complex[Tensor, "p"] | None = None

    def backward(self) -> float:
        """The loss; its gradient is added to the parameters' ``.grad``."""
        parts = self._parts()
        if len(parts) == 1:
            loss = self.loss(self._moments(self.volume.fourier(parts[0])))
            loss.backward()
            return float(loss.detach())
        with torch.no_grad():
            values = torch.cat([self.volume.fourier(part) for part in parts])
        values.requires_grad_()
        loss = self.loss(self._moments(values))
        loss.backward()
        assert values.grad is not None
        for part, gradient in zip(parts, values.grad.split(POINTS_AT_ONCE), strict=True):
            self.volume.fourier(part).backward(gradient)
        return float(loss.detach())

    @torch.no_grad()
    def moments(self) -> Moments:
        """The model's moments."""
        return self._moments(torch.cat([self.volume.fourier(part) for part in self._parts()]))

    def _moments(self, values: Complex[Tensor, "p"]) -> Moments:
        values = values if self.held is None else values + self.held
        return self.grid.moments(values, self.density().softmax(0))

    def _parts(self) -> tuple[Tensor, ...]:
        return self.grid.points.to(self.parameters[0].dtype).split(POINTS_AT_ONCE)


def recon_loss(target: Moments, balance: float = 1.0) -> Loss:
    """(2.17) with λ = ``balance``."""
    return lambda moments: moment_loss(target, moments, balance)


def match_neural(
    problem: NeuralMatching, rates: Sequence[float], callback: Callable[[int, float], None] = lambda step, loss: None
) -> None:
    """One step of Adam for each learning rate.

    Args:
        problem: what is matched.
        rates: a learning rate for each step.
        callback: called with each step's number and its loss.
    """
    adam = ScheduledAdam(problem.parameters, rates.__getitem__)
    for step in range(len(rates)):
        adam.zero_grad()
        loss = problem.backward()
        adam.step_down()
        callback(step, loss)

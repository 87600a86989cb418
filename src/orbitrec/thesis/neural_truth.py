"""The thesis's "neural ground truth" (2.4.2): a FourierNet fitted to a map, and taken for the truth in its place.

A network that reconstructs it can represent it, as it cannot a map.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.grids import frequency_vectors
from orbitrec.optim.adam import ScheduledAdam, one_cycle
from orbitrec.thesis.two_moments import TrueVolume
from orbitrec.volumes.fourier_net import FourierNet

REPORTED_ERRORS = {"EMD-0409": 0.043, "EMD-25892": 0.076, "4 Gaussians": 0.004}
"""The thesis's errors (2.16) between map and network."""


@dataclass(frozen=True)
class Fit:
    """How a network is fitted: steps of Adam on so many frequencies each, at this largest rate."""

    steps: int = 600
    points: int = 4096
    rate: float = 2e-4
    width: int = 128


def neural_truth(truth: TrueVolume, fit: Fit = Fit()) -> tuple[TrueVolume, float]:
    """The truth as a network has it, and the network's distance from what is projected of the map (2.16)."""
    n = len(truth.compact)
    points, spectrum = frequency_vectors(n, 3).reshape(-1, 3), centred_fft(truth.compact, 3).reshape(-1) * n**1.5
    net = fitted(truth.max_radius, points.float(), spectrum.to(torch.complex64), fit, torch.Generator().manual_seed(0))
    with torch.no_grad():
        grid = net.to_grid(n).double()
    error = float((grid - truth.compact).norm() / truth.compact.norm())
    grid = grid / grid.norm()
    return replace(truth, voxels=grid, compact=grid), error


def fitted(
    radius: float, points: Float[Tensor, "p 3"], spectrum: Complex[Tensor, "p"], fit: Fit, generator: torch.Generator
) -> FourierNet:
    """A network of least squares. Half of the frequencies are drawn by their power, half evenly, and weighted for it.

    Args:
        radius: of the ball that holds the object, pixels.
        points: frequencies, radians per pixel.
        spectrum: the object's transform there.
        fit: how it is fitted.
        generator: source of the weights and of the draws.

    Returns:
        The network.
    """
    power = spectrum.abs().square()
    drawn = 0.5 * power / power.sum() + 0.5 / len(power)
    scale = 10 * float(power.mean().sqrt())  # within an object's bandwidth power is far above its mean
    net = FourierNet(radius, generator, scale=scale, width=fit.width)
    adam = ScheduledAdam(net.parameters(), one_cycle(fit.rate, fit.steps))
    for _ in range(fit.steps):
        chosen = torch.multinomial(drawn, fit.points, replacement=True, generator=generator)
        squares = (net.fourier(points[chosen]) - spectrum[chosen]).abs().square()
        adam.step((squares / drawn[chosen]).mean() / power.sum())
    return net

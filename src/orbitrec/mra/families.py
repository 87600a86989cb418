"""Families of signals 𝒱 and of shift densities 𝒫 for multireference alignment: Gaussian mixtures on the circle.

The thesis fixes the number of Gaussians (section 2.4.1) and nothing else. The laws here, of means, widths and weights,
are the project's choice. The circle has circumference 1 and n grid points ``(j − n//2)/n``.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError

LENGTH = 41
"""Grid points n of the thesis's experiments; it does not say, 41 is what the field's published experiments use."""


@dataclass(frozen=True)
class MixtureLaw:
    """Law of a random mixture of wrapped Gaussians: means uniform on the circle, all parameters independent.

    Attributes:
        components: number of Gaussians.
        widths: standard deviations are uniform between these two, in circumferences.
        weight_spread: weights are uniform in 1 ± this, before they are made to sum to 1.

    Raises:
        InputError: if there is no component, a width is not positive or above a quarter of the circle, or the spread
            is outside [0, 1).
    """

    components: int
    widths: tuple[float, float] = (0.04, 0.10)
    weight_spread: float = 0.5

    def __post_init__(self) -> None:
        if self.components < 1:
            raise InputError(f"a mixture of {self.components} Gaussians is no mixture; give at least one")
        if not 0 < self.widths[0] <= self.widths[1] <= 0.25:
            raise InputError(f"widths {self.widths} of Gaussians must rise from above 0 to at most 0.25 circumferences")
        if not 0 <= self.weight_spread < 1:
            raise InputError(f"the spread {self.weight_spread} of the weights must be in [0, 1), so that none is zero")

    def densities(
        self, count: int, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> Float[Tensor, "count n"]:
        """Random densities on the circle.

        Args:
            count: how many.
            n: samples.
            generator: source of the random numbers.
            dtype: of the result.

        Returns:
            Probabilities of the n grid points, each row summing to 1.
        """
        means, spread, weights = torch.rand(
            3, count, self.components, 1, generator=generator, dtype=dtype, device=generator.device
        )
        widths = self.widths[0] + (self.widths[1] - self.widths[0]) * spread
        weights = 1 + self.weight_spread * (2 * weights - 1)
        grid = (torch.arange(n, dtype=dtype, device=generator.device) - n // 2) / n
        apart = grid - means
        apart = apart - apart.round()
        # Farther than one turn is beyond six standard deviations of the widest Gaussian allowed.
        bumps = sum(torch.exp(-0.5 * ((apart + turn) / widths).square()) for turn in (-1, 0, 1))
        mixture = (weights / widths * bumps).sum(1)
        return mixture / mixture.sum(1, keepdim=True)

    def signals(
        self, count: int, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> Float[Tensor, "count n"]:
        """Random signals.

        Args:
            count: how many.
            n: samples.
            generator: source of the random numbers.
            dtype: of the result.

        Returns:
            Signals of unit mean square, ``‖v‖² = n``: the signal-to-noise ratio is ``1/σ²``.
        """
        mixture = self.densities(count, n, generator, dtype)
        return mixture * (math.sqrt(n) / mixture.norm(dim=1, keepdim=True))

    def pairs(
        self, count: int, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> tuple[Float[Tensor, "count n"], Float[Tensor, "count n"]]:
        """Independent pairs (signal v, density ρ) of 𝒱 × 𝒫.

        Args:
            count: how many.
            n: samples.
            generator: source of the random numbers.
            dtype: of the result.

        Returns:
            Signals and densities.
        """
        return self.signals(count, n, generator, dtype), self.densities(count, n, generator, dtype)


def default_law(components: int) -> MixtureLaw:
    """The law that encoders are trained on."""
    return MixtureLaw(components)


def harder_law(components: int) -> MixtureLaw:
    """Narrower and wider Gaussians and less even weights: outside what encoders were trained on."""
    return MixtureLaw(components, widths=(0.02, 0.15), weight_spread=0.9)

"""Sums of volumes: a coarse one and its refinement (3.11)."""

from dataclasses import dataclass

from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.volumes.base import Volume


@dataclass(frozen=True, eq=False)
class SummedVolume:
    """The sum of two volumes; a second one that starts at zero, ``FourierNet(…).zero_()``, refines the first (3.11)."""

    first: Volume
    second: Volume

    def fourier(self, points: Float[Tensor, "... 3"]) -> Complex[Tensor, "..."]:
        """Sum of both transforms at frequency vectors in radians per pixel."""
        return self.first.fourier(points) + self.second.fourier(points)

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        """Sum of both densities on an n³ grid in (z, y, x) order."""
        return self.first.to_grid(n) + self.second.to_grid(n)

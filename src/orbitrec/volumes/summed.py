"""Sums of volumes: a coarse one and its refinement (3.11)."""

from dataclasses import dataclass

from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.volumes.base import Volume


@dataclass(frozen=True, eq=False)
class SummedVolume:
    """``v = first + second``: a second part that starts at zero, ``FourierNet(…).zero_()``, refines the first."""

    first: Volume
    second: Volume

    def fourier(self, points: Float[Tensor, "... 3"]) -> Complex[Tensor, "..."]:
        """``v̂(k)`` at frequency vectors in radians per pixel: the parts' sum."""
        return self.first.fourier(points) + self.second.fourier(points)

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        """Density on an n³ grid in (z, y, x) order: the parts' sum."""
        return self.first.to_grid(n) + self.second.to_grid(n)

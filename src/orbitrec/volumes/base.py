"""The protocol of a volume: whatever can say its Fourier transform and its density on a grid."""

from typing import Protocol, runtime_checkable

from jaxtyping import Complex, Float
from torch import Tensor


@runtime_checkable
class Volume(Protocol):
    """A real 3-D density, centred on the origin, known through its Fourier transform.

    Lengths are in pixels and frequencies in radians per pixel.
    """

    def fourier(self, points: Float[Tensor, "... 3"]) -> Complex[Tensor, "..."]:
        """``v̂(k) = ∫ v(x) e^{-ik·x} dx`` at frequency vectors ``k`` in xyz order.

        The unitary 2-D DFT of an n × n projection is ``v̂(R·(kx, ky, 0)) / n``.
        """
        ...

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        """Density samples on an n³ grid in (z, y, x) order, origin at index ``n // 2``."""
        ...

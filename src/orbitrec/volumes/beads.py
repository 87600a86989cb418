"""Molecules made of beads: equal particles at free positions, with a form factor that they share."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.geometry.fourier import centred_ifft, frequencies

_PAIRS_AT_ONCE = 2**22  # frequency × bead pairs held in memory


@dataclass(frozen=True, eq=False)
class FormFactor:
    """``f(k) = exp(−k²w²/2 + Σ_j a_j cos(πjk/k_max))``: the transform of one bead of weight 1.

    The cosines tell what sharpening, filtering and masking have done to a map. Their slope is zero at ``k_max``, and
    beyond it they keep their values there.

    Attributes:
        width: w, pixels.
        ripples: a_1, a_2, …
        k_max: radians per pixel.
    """

    width: Float[Tensor, ""]
    ripples: Float[Tensor, "j"]
    k_max: float

    def __call__(self, k: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """At the frequencies k, radians per pixel."""
        orders = torch.arange(1, len(self.ripples) + 1, dtype=k.dtype)
        cosines = torch.cos(math.pi / self.k_max * k.clamp(max=self.k_max)[..., None] * orders)
        return torch.exp(cosines @ self.ripples.to(k) - (k * self.width.to(k)).square() / 2)


@dataclass(frozen=True, eq=False)
class BeadVolume:
    """``v̂(k) = f(|k|) Σ_a weights_a e^{−ik·centers_a}``: lengths in pixels."""

    centers: Float[Tensor, "A 3"]
    weights: Float[Tensor, "A"]
    form: FormFactor

    def fourier(self, points: Float[Tensor, "... 3"]) -> Complex[Tensor, "..."]:
        """``v̂(k)`` at frequency vectors in radians per pixel, exact; dtype follows ``points``."""
        flat = points.reshape(-1, 3)
        centers, weights = self.centers.to(points), self.weights.to(points)
        parts = flat.split(max(1, _PAIRS_AT_ONCE // len(weights)))
        sums = torch.cat([torch.polar(weights.expand(len(part), -1), -part @ centers.T).sum(-1) for part in parts])
        return (sums * self.form(flat.norm(dim=-1))).reshape(points.shape[:-1])

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        """Density on an n³ grid in (z, y, x) order, of the frequencies that the grid has."""
        k = frequencies(n)
        z, y, x = torch.meshgrid(k, k, k, indexing="ij")
        return centred_ifft(self.fourier(torch.stack([x, y, z], dim=-1)), 3).real / n**1.5

"""Mixtures of isotropic Gaussians: volumes whose transforms, slices and shifts are known in closed form."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.grids import pixels

_PAIRS_AT_ONCE = 2**22  # frequency × Gaussian pairs held in memory


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """``v(x) = Σ_a weights_a N(x; centers_a, widths_a² I)``: lengths in pixels, weights are integrals.

    Raises:
        InputError: if a width is not positive.
    """

    centers: Float[Tensor, "A 3"]
    widths: Float[Tensor, "A"]
    weights: Float[Tensor, "A"]

    def __post_init__(self) -> None:
        if not bool((self.widths > 0).all()):
            raise InputError("a Gaussian's width must be positive; give every one a width above zero")

    def fourier(self, points: Float[Tensor, "... 3"]) -> Complex[Tensor, "..."]:
        """``Σ_a w_a exp(−σ_a² ‖k‖² / 2 − i k·c_a)``, exact; dtype follows ``points``."""
        flat = points.reshape(-1, 3)
        chunk = max(1, _PAIRS_AT_ONCE // len(self.weights))
        values = torch.cat([self._fourier(part) for part in flat.split(chunk)])
        return values.reshape(points.shape[:-1])

    def _fourier(self, points: Float[Tensor, "P 3"]) -> Complex[Tensor, "P"]:
        centers, widths, weights = (t.to(points) for t in (self.centers, self.widths, self.weights))
        envelope = torch.exp(-points.square().sum(-1)[:, None] * widths.square() / 2) * weights
        return torch.polar(envelope, -points @ centers.T).sum(-1)

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        """Density at the voxel centres, (z, y, x); separable, so each axis costs n exponentials per Gaussian."""
        x = pixels(n, self.centers.dtype).to(self.centers.device)
        width = self.widths[:, None, None]
        axes = torch.exp(-((x - self.centers[:, :, None]) / width).square() / 2) / (width * math.sqrt(2 * math.pi))
        along_x, along_y, along_z = axes.unbind(1)
        return torch.einsum("a,az,ay,ax->zyx", self.weights, along_z, along_y, along_x)

"""Molecules made of pseudo-atoms: equal particles at free positions, with a form factor that they share."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.geometry.fourier import centred_ifft
from orbitrec.geometry.grids import frequency_vectors
from orbitrec.volumes.gaussians import GaussianMixture


@dataclass(frozen=True, eq=False)
class FormFactor:
    """``f(k) = exp(−k²w²/2 + Σ_j a_j cos(πjk/k_max))``: the transform of one pseudo-atom of weight 1.

    The cosines stand for what sharpening, filtering and masking have done to a map. Their slope is zero at ``k_max``,
    and beyond it they keep their values there.

    Attributes:
        width: w, pixels.
        form_factor_terms: a_1, a_2, …
        k_max: radians per pixel.
    """

    width: Float[Tensor, ""]
    form_factor_terms: Float[Tensor, "j"]
    k_max: float

    def __call__(self, k: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """At the frequencies k, radians per pixel."""
        return torch.exp(-(k * self.width.to(k)).square() / 2) * self.beyond_gaussian(k)

    def beyond_gaussian(self, k: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The factor beside the Gaussian."""
        orders = torch.arange(1, len(self.form_factor_terms) + 1, dtype=k.dtype)
        cosines = torch.cos(math.pi / self.k_max * k.clamp(max=self.k_max)[..., None] * orders)
        return torch.exp(cosines @ self.form_factor_terms.to(k))


@dataclass(frozen=True, eq=False)
class PseudoAtomVolume:
    """``v̂(k) = f(|k|) Σ_a weights_a e^{−ik·centers_a}``: lengths in pixels."""

    centers: Float[Tensor, "A 3"]
    weights: Float[Tensor, "A"]
    form: FormFactor

    def fourier(self, points: Float[Tensor, "... 3"]) -> Complex[Tensor, "..."]:
        """``v̂(k)`` at frequency vectors in radians per pixel, exact; dtype follows ``points``."""
        gaussians = GaussianMixture(self.centers, self.form.width.expand(len(self.weights)), self.weights)
        return gaussians.fourier(points) * self.form.beyond_gaussian(points.norm(dim=-1))

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        """Density on an n³ grid in (z, y, x) order, of the frequencies that the grid has."""
        return centred_ifft(self.fourier(frequency_vectors(n, 3)), 3).real / n**1.5

"""Mixtures of von Mises–Fisher densities of viewing directions."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.base import ViewDensity
from orbitrec.errors import InputError
from orbitrec.geometry.rotations import direction_frames, random_rotations

_FLATTEST = 1e-8  # a concentration of zero is taken as this: uniform to rounding, and no 0/0


@dataclass(frozen=True, eq=False)
class VonMisesFisherMixture(ViewDensity):
    """Mixture of von Mises–Fisher densities on the sphere: concentration 0 is uniform, κ ≫ 1 a cap of 1/√κ radians.

    Attributes:
        means: unit vectors, one for each component.
        concentrations: κ of each component.
        weights: of the components; they are normalised to sum 1.

    Raises:
        InputError: if a mean is not a unit vector, a concentration or weight is negative, or all weights are zero.
    """

    means: Float[Tensor, "C 3"]
    concentrations: Float[Tensor, "C"]
    weights: Float[Tensor, "C"]

    def __post_init__(self) -> None:
        if not bool(((self.means.norm(dim=1) - 1).abs() < 1e-3).all()):
            raise InputError("every mean of a von Mises–Fisher mixture must be a unit vector; divide it by its norm")
        if not bool((self.concentrations >= 0).all() and (self.weights >= 0).all() and self.weights.sum() > 0):
            raise InputError("concentrations and weights of a von Mises–Fisher mixture must not be negative")

    @classmethod
    def random(cls, generator: torch.Generator, components: int = 5) -> "VonMisesFisherMixture":
        """Uneven views as ice and air–water interfaces give: caps of 15° to 40° around random directions.

        Concentrations are log-uniform in [2, 12], weights uniform in [0.5, 1.5] before they are normalised.
        """
        means = random_rotations(components, generator)[:, :, 2]
        spread, weights = torch.rand(2, components, generator=generator, dtype=torch.float64)
        return cls(means, 2 * 6**spread, 0.5 + weights)

    def log_density(self, directions: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape"]:
        """Logarithm of the density, whose mean over the sphere is 1: finite at any concentration.

        One component is ``κ / sinh κ · e^{κ μ·u} = 2κ / (1 − e^{−2κ}) · e^{κ (μ·u − 1)}`` (Fisher 1953).
        """
        means, kappa = self.means.to(directions), self.concentrations.to(directions).clamp(min=_FLATTEST)
        log_weights = (self.weights / self.weights.sum()).to(directions).log()
        log_norm = (2 * kappa / -torch.expm1(-2 * kappa)).log()
        return torch.logsumexp(log_weights + log_norm + kappa * (directions @ means.T - 1), dim=-1)

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "count 3"]:
        """Exact draws: on the sphere the cosine to the mean has an invertible distribution function."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        kappa = self.concentrations[component].clamp(min=_FLATTEST)
        uniform, azimuth = torch.rand(2, count, generator=generator, dtype=self.means.dtype)
        cosine = 1 + torch.log1p(uniform * torch.expm1(-2 * kappa)) / kappa
        sine = (1 - cosine.square()).clamp(min=0).sqrt()
        azimuth = 2 * math.pi * azimuth
        around = torch.stack([sine * azimuth.cos(), sine * azimuth.sin(), cosine], dim=1)
        return torch.einsum("nij,nj->ni", direction_frames(self.means[component]), around)

"""Densities of viewing directions whose logarithm is a polynomial on the sphere: what moments are matched with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.base import ViewDensity
from orbitrec.geometry.harmonics import largest_degree, nonconstant_harmonics


@dataclass(frozen=True, eq=False)
class HarmonicDensity(ViewDensity):
    """``log ρ = Σ_h coefficients_h Y_h + constant`` over real harmonics of mean square 1, the constant one left out.

    Attributes:
        coefficients: of the harmonics of :func:`orbitrec.geometry.harmonics.nonconstant_harmonics`, which are as many
            as some degree has. Leading axes, if any, are a batch of densities.
    """

    coefficients: Float[Tensor, "*batch h"]

    @property
    def degree(self) -> int:
        """Largest degree of the polynomial."""
        return largest_degree(self.coefficients.shape[-1] + 1)

    def log_density(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "*batch d"]:
        """Logarithm of the density at unit vectors, up to a constant."""
        return polynomial(self.coefficients, nonconstant_harmonics(directions, self.degree))

    def probabilities(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "*batch d"]:
        """Probabilities of unit vectors that are spread evenly: they sum to 1."""
        return probabilities_on_nodes(self.coefficients, nonconstant_harmonics(directions, self.degree))


def polynomial(coefficients: Float[Tensor, "*batch h"], harmonics: Float[Tensor, "d h"]) -> Float[Tensor, "*batch d"]:
    """Values on nodes of a sum of harmonics, in the coefficients' precision."""
    return coefficients @ harmonics.to(coefficients).mT


def log_probabilities_on_nodes(
    coefficients: Float[Tensor, "*batch h"],
    harmonics: Float[Tensor, "d h"],
    reference: Float[Tensor, "d"] | None = None,
) -> Float[Tensor, "*batch d"]:
    """Log probabilities of fixed nodes: what an iteration calls that changes the coefficients only.

    Args:
        coefficients: of the log density; leading axes are a batch.
        harmonics: values of the functions that the coefficients belong to, in any unit, at nodes spread evenly.
        reference: log density, up to a constant, of what the polynomial multiplies; uniform if None.

    Returns:
        Logarithms of probabilities that sum to 1 over the nodes, differentiable in the coefficients.
    """
    return torch.log_softmax(_logits(coefficients, harmonics, reference), dim=-1)


def probabilities_on_nodes(
    coefficients: Float[Tensor, "*batch h"],
    harmonics: Float[Tensor, "d h"],
    reference: Float[Tensor, "d"] | None = None,
) -> Float[Tensor, "*batch d"]:
    """Probabilities of fixed nodes.

    Args:
        coefficients: of the log density; leading axes are a batch.
        harmonics: values of the functions that the coefficients belong to, in any unit, at nodes spread evenly.
        reference: log density, up to a constant, of what the polynomial multiplies; uniform if None.

    Returns:
        Probabilities that sum to 1 over the nodes, differentiable in the coefficients.
    """
    return torch.softmax(_logits(coefficients, harmonics, reference), dim=-1)


def _logits(
    coefficients: Float[Tensor, "*batch h"], harmonics: Float[Tensor, "d h"], reference: Float[Tensor, "d"] | None
) -> Float[Tensor, "*batch d"]:
    values = polynomial(coefficients, harmonics)
    return values if reference is None else reference + values

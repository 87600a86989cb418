"""Densities of viewing directions known on nodes that are spread evenly over the sphere."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.base import ViewDensity
from orbitrec.densities.kernel import smoothing_weights


def mixed_with_uniform(weights: Float[Tensor, "d"], share: float) -> Float[Tensor, "d"]:
    """Probabilities of nodes, mixed with equal ones so that none is given up.

    Args:
        weights: of the nodes, not negative, of any sum.
        share: of the uniform probabilities in the mixture, between 0 and 1.

    Returns:
        ``(1 − share) weights / Σ weights + share / d``, which sum to 1.
    """
    return (1 - share) * weights / weights.sum() + share / len(weights)


@dataclass(frozen=True, eq=False)
class GriddedDensity(ViewDensity):
    """A density between nodes at which it is known: their mean, weighted by a von Mises–Fisher kernel.

    The kernel's standard deviation is half the side of a node's cell of 4π/D.

    Attributes:
        nodes: unit vectors spread evenly, such as a spherical design.
        weights: density or probability of each node, of any sum.
    """

    nodes: Float[Tensor, "d 3"]
    weights: Float[Tensor, "d"]

    def density(self, directions: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape"]:
        """The density at unit vectors, 1 on average."""
        kernel = smoothing_weights(self.nodes, directions, len(self.nodes) / math.pi)
        return kernel @ (self.weights / self.weights.mean()).to(directions)

    def log_density(self, directions: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape"]:
        """Logarithm of the density at unit vectors."""
        return self.density(directions).log()

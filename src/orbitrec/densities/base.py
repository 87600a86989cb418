"""What every density of viewing directions can do."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class ViewDensity(Protocol):
    """A density of viewing directions on the sphere, known up to a positive factor.

    Densities are with respect to the uniform probability measure: the uniform density is 1 everywhere. A class that
    derives from this protocol has to write :meth:`log_density` only.
    """

    def log_density(self, directions: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*batch"]:
        """Logarithm of the density at unit vectors, up to a constant."""
        ...

    def density(self, directions: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*batch"]:
        """The density at unit vectors, up to a positive factor."""
        return self.log_density(directions).exp()

    def probabilities(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "*batch d"]:
        """Probabilities of unit vectors that are spread evenly, such as a spherical design: they sum to 1."""
        density = self.density(directions)
        return density / density.sum(-1, keepdim=True)

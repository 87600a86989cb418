"""Distances between moments: the moment loss (2.15), (2.17), the Kam loss (3.13), relative errors (2.10).

All norms are those of :class:`Moments`: Euclidean for the first moment, Frobenius for the whole second moment, whether
it is kept as one full matrix or as blocks. A polar grid's coordinates are isometric, so its losses are the Cartesian
ones to the quadrature's error. Losses are differentiable except where two moments are equal.
"""

from jaxtyping import Float
from torch import Tensor

from orbitrec.inference.moments import Moments


def moment_loss(target: Moments, model: Moments, balance: float = 1.0) -> Float[Tensor, ""]:
    """``‖M̂¹ − M¹‖ + λ ‖M̂² − M²‖_F``, λ = ``balance`` (2.15), (2.17)."""
    difference = target - model
    return difference.first_norm() + balance * difference.second_norm()


def relative_errors(target: Moments, model: Moments) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """``‖M¹ − M̂¹‖ / ‖M̂¹‖`` and ``‖M² − M̂²‖_F / ‖M̂²‖_F``: relative to the target, as (2.10) has it."""
    difference = model - target
    return difference.first_norm() / target.first_norm(), difference.second_norm() / target.second_norm()


def kam_loss(target: Moments, model: Moments) -> Float[Tensor, ""]:
    """Sum of the two relative errors (3.13)."""
    first, second = relative_errors(target, model)
    return first + second

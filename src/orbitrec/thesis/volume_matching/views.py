"""Densities of views as spherical harmonics of their logarithm."""

import math

from jaxtyping import Float
from torch import Tensor

from orbitrec.volumes.spherical_bessel import real_spherical_harmonics


def view_harmonics(directions: Float[Tensor, "d 3"], degree: int) -> Float[Tensor, "d b"]:
    """Real harmonics above the constant one, of mean square 1 (float64)."""
    return real_spherical_harmonics(directions, degree)[:, 1:] * (4 * math.pi) ** 0.5

"""Non-negative volumes: equal Gaussian blobs on a cubic grid, as spherical-Bessel coefficients.

A basis function is an eigenfunction of the Laplacian, so a Gaussian of width σ at c has the coefficient
``exp(−σ² u_ls² / 2R²) ψ_lms(c)`` but for what leaves the ball. Blobs are thus one matrix, and the volume they make is
positive wherever their amplitudes are.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

_POINTS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class BlobGrid:
    """Blobs ``spacing`` pixels apart, of standard deviation ``width`` pixels, within ``reach`` pixels of the origin.

    Raises:
        InputError: if the blobs do not fit into the basis's ball, or there is none.
    """

    basis: SphericalBesselBasis
    reach: float
    spacing: float
    width: float

    def __post_init__(self) -> None:
        if not 0 < self.reach <= self.basis.radius or not self.spacing > 0:
            raise InputError(
                f"blobs within {self.reach:g} px, {self.spacing:g} px apart, do not fit a ball of "
                f"{self.basis.radius:g} px; choose a positive spacing and a smaller reach"
            )

    @cached_property
    def centers(self) -> Float[Tensor, "v 3"]:
        """Where the blobs are, (x, y, z)."""
        count = int(self.reach / self.spacing)
        axis = torch.arange(-count, count + 1, dtype=torch.float64) * self.spacing
        points = torch.cartesian_prod(axis, axis, axis)
        return points[points.norm(dim=1) < self.reach]

    @cached_property
    def matrix(self) -> Float[Tensor, "v p"]:
        """Coefficients of a blob whose density is 1 on average over its cell (float32)."""
        damping = torch.exp(-(self.width**2) * self.basis.frequency.square() / 2) * self.spacing**3
        parts = self.centers.split(_POINTS_AT_ONCE)
        return torch.cat([(self.basis.values(part) * damping).float() for part in parts])

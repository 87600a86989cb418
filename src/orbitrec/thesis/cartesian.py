"""Cryo-EM on the Cartesian K₂ grid as the thesis prints it (4.25): one template of n² frequencies for each rotation.

The honest baseline of the polar grid: one circular mode, one angle, and rotations that stand for directions. Templates
are ``M_j w`` with known M_j; they are kept as harmonics at the rotated frequencies, which are sixteen times fewer than
the columns of the M_j where the basis has four radial functions to a degree.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.grids import frequency_vectors
from orbitrec.geometry.harmonics import harmonic_phases, real_spherical_harmonics
from orbitrec.models.base import Circle, LinearProjector
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

NO_CIRCLE = Circle(torch.tensor([0]), 1)


@dataclass(frozen=True, eq=False)
class CartesianProjector(LinearProjector):
    """The linear map ``T_j = M_j w`` from spherical-Bessel coefficients to slices on the K₂ grid, in float64.

    Args:
        basis: the volume's basis.
        n: box size of the images.
        rotations: (q, 3, 3) the quadrature's rotations.
        half_plane: keep one of each pair ±k with weight √2, which says the same of real images with half the numbers;
            for odd n, whose frequencies all have partners.
    """

    basis: SphericalBesselBasis
    n: int
    rotations: Float[Tensor, "q 3 3"]
    half_plane: bool = False

    @property
    def dimension(self) -> int:
        """Number of functions of the basis."""
        return len(self.basis)

    def from_images(self, images: Float[Tensor, "b n n"]) -> Complex[Tensor, "b one k"]:
        """Coordinates of images: their unitary transform on the grid."""
        return (centred_fft(images.double()).flatten(1)[:, self._kept] * self._weight)[:, None]

    @cached_property
    def _plane(self) -> Float[Tensor, "n2 2"]:
        return frequency_vectors(self.n).reshape(-1, 2)

    @cached_property
    def _kept(self) -> Tensor:
        kx, ky = self._plane.unbind(1)
        return (ky > 0) | ((ky == 0) & (kx >= 0)) if self.half_plane else torch.ones_like(kx, dtype=torch.bool)

    @cached_property
    def _weight(self) -> Float[Tensor, "k"]:
        paired = self._plane[self._kept].any(1) & self.half_plane
        return (1 + paired.double()).sqrt()

    @cached_property
    def radial(self) -> Float[Tensor, "p k"]:
        """``F_ls(|k|) / n`` of every coefficient."""
        return self.basis.radial(self._plane[self._kept].norm(dim=1)) * (self._weight / self.n)

    @cached_property
    def _harmonics(self) -> Float[Tensor, "k q lm"]:
        points = torch.einsum("qij,kj->kqi", self.rotations[:, :, :2].double(), self._plane[self._kept])
        return real_spherical_harmonics(points, self.basis.degree)

    @cached_property
    def _phases(self) -> Float[Tensor, "lm two"]:
        return torch.view_as_real(harmonic_phases(self.basis.degree))

    def templates(self, w: Float[Tensor, "p"]) -> Complex[Tensor, "q one k"]:
        """``T_j = M_j w``."""
        shells = self.basis.angular_sum(self.radial, w).mT  # (k, lm)
        values = self._harmonics @ (shells[:, :, None] * self._phases)
        return torch.view_as_complex(values.transpose(0, 1).contiguous())[:, None]

    def adjoint(self, x: Complex[Tensor, "q one k"]) -> Float[Tensor, "p"]:
        """``Σ_j M_j* x_j`` for the real inner product."""
        rows = torch.view_as_real(x[:, 0]).permute(1, 2, 0).contiguous()  # (k, two, q)
        shells = torch.einsum("kta,at->ak", rows @ self._harmonics, self._phases)
        return (self.radial * shells[self.basis.lm]).sum(1)

    def gram(self, weight: Float[Tensor, "q k"]) -> Float[Tensor, "p p"]:
        """``Σ_j M_j* W_j M_j`` where no CTF makes a rotation's weights differ between frequencies."""
        size = len(self.basis)
        return (weight[:, 0] @ self._grams).reshape(size, size)

    @cached_property
    def _grams(self) -> Float[Tensor, "q p_squared"]:
        lm = self.basis.lm
        between = torch.einsum("at,bt->ab", self._phases, self._phases)[lm[:, None], lm]
        rows = (self._harmonics[:, part][:, :, lm] * self.radial.mT[:, None] for part in self._parts())
        return torch.cat([(torch.einsum("kqi,kqj->qij", x, x) * between).flatten(1) for x in rows])

    def _parts(self) -> list[slice]:
        return [slice(start, start + 64) for start in range(0, len(self.rotations), 64)]

    def uniform_diagonal(self, weight: Float[Tensor, "k"]) -> Float[Tensor, "p"]:
        """Diagonal of ``Σ_j M_j* W M_j`` were the rotations uniform with total weight ``weight[k]``."""
        return (self.radial.square() * weight).sum(1) / (4 * math.pi)

"""Cryo-EM on the polar grid: templates of a volume from viewing directions, and their adjoint.

A template is the central slice ``v̂(R_d (k cos φ, k sin φ, 0))`` in the coordinates of :class:`PolarGrid`. In the
spherical-Bessel basis it is linear in the coefficients, ``T = C w``, and factors into angles and shells:

    T[d, m, k] = s_k c_m Σ_{lm'} C_m[d, lm'] (−i)^l A_lm'(k),     A_lm'(k) = Σ_s F_ls(k) w_lm's.

On the equator of the frame R_d a harmonic of degree l has circular modes of l's parity only, so even and odd modes are
two separate real-by-complex products of half the size.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.geometry.fourier import frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import direction_frames
from orbitrec.models.base import Circle
from orbitrec.volumes.base import Volume
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, real_spherical_harmonics


def polar_circle(grid: PolarGrid, angles: int) -> Circle:
    """The circle of a polar grid: modes 0 … M."""
    return Circle(torch.arange(grid.max_mode + 1), angles)


def equators(directions: Float[Tensor, "d 3"], count: int) -> Float[Tensor, "d phi 3"]:
    """Unit vectors ``R_d (cos φ, sin φ, 0)`` of each direction's frame."""
    phi = 2 * math.pi * torch.arange(count, dtype=directions.dtype) / count
    circle = torch.stack([phi.cos(), phi.sin(), torch.zeros_like(phi)], dim=-1)
    return torch.einsum("dij,pj->dpi", direction_frames(directions), circle)


def polar_templates(volume: Volume, grid: PolarGrid, directions: Float[Tensor, "d 3"]) -> Complex[Tensor, "d m k"]:
    """Templates of any volume: its transform on every direction's polar grid."""
    points = equators(directions, grid.circle_points)[:, :, None, :] * grid.nodes[:, None].to(directions.dtype)
    return grid.from_circle(volume.fourier(points))


def cartesian_templates(volume: Volume, n: int, rotations: Float[Tensor, "q 3 3"]) -> Complex[Tensor, "q one n2"]:
    """Templates on the Cartesian K₂ grid, unitary: ``v̂(R (kx, ky, 0)) / n`` as one mode of n² nodes (2.8)."""
    k = frequencies(n, rotations.dtype)
    ky, kx = torch.meshgrid(k, k, indexing="ij")
    points = torch.stack([kx, ky, torch.zeros_like(kx)], dim=-1).reshape(-1, 3)
    slices = volume.fourier(torch.einsum("qij,pj->qpi", rotations, points)) / n
    return slices[:, None, :]


@dataclass(frozen=True)
class PolarProjector:
    """The linear map T = C w from spherical-Bessel coefficients to polar templates, and its adjoint.

    Args:
        basis: the volume's basis.
        grid: the images' polar grid.
        directions: (d, 3) unit viewing directions.
        dtype: real dtype of the work, float32 or float64.
    """

    basis: SphericalBesselBasis
    grid: PolarGrid
    directions: Float[Tensor, "d 3"]
    dtype: torch.dtype = torch.float32

    @cached_property
    def _radial(self) -> Float[Tensor, "p k"]:
        return (self.basis.radial(self.grid.nodes) * self.grid.scale).to(self.dtype)

    @cached_property
    def _angular(self) -> list[tuple[Float[Tensor, "two dm lm"], Int[Tensor, "lm"], slice]]:
        """For each parity: real and imaginary (d·m, lm) matrices with (−i)^l and c_m inside, lm indices, modes."""
        degree, M = self.basis.degree, self.grid.max_mode
        count = 2 * max(degree, M) + 2
        harmonics = real_spherical_harmonics(equators(self.directions.double(), count), degree)
        modes = torch.fft.rfft(harmonics, dim=1, norm="forward")[:, : M + 1] * self.grid.mode_weights[:, None]
        l = torch.arange(degree + 1).repeat_interleave(2 * torch.arange(degree + 1) + 1)
        modes = modes * torch.pow(torch.tensor(-1j), l)
        parts = []
        for parity in (0, 1):
            columns = torch.nonzero(l % 2 == parity).squeeze(1)
            block = modes[:, parity::2][:, :, columns].reshape(-1, len(columns))
            parts.append((torch.stack([block.real, block.imag]).to(self.dtype), columns, slice(parity, None, 2)))
        return parts

    def templates(self, w: Float[Tensor, "p"]) -> Complex[Tensor, "d m k"]:
        """``T = C w``."""
        shells = self.basis.angular_sum(self._radial, w)
        out = torch.zeros(len(self.directions), self.grid.max_mode + 1, self.grid.radial_nodes,
                          dtype=torch.complex64 if self.dtype == torch.float32 else torch.complex128)  # fmt: skip
        for matrix, columns, modes in self._angular:
            block = torch.complex(*(matrix @ shells[columns]))
            out[:, modes] = block.reshape(len(self.directions), -1, self.grid.radial_nodes)
        return out

    def adjoint(self, x: Complex[Tensor, "d m k"]) -> Float[Tensor, "p"]:
        """``C* x`` for the real inner product ``Re Σ conj(T) x``."""
        shells = x.real.new_zeros((self.basis.degree + 1) ** 2, self.grid.radial_nodes)
        for matrix, columns, modes in self._angular:
            part = x[:, modes].reshape(-1, self.grid.radial_nodes)
            shells[columns] = matrix[0].mT @ part.real + matrix[1].mT @ part.imag
        return (self._radial * shells[self.basis.lm]).sum(1)

    def normal(self, w: Float[Tensor, "p"], weight: Float[Tensor, "d k"]) -> Float[Tensor, "p"]:
        """``C* W C w`` with W diagonal over directions and nodes: the Hessian of the EM quadratic."""
        return self.adjoint(self.templates(w) * weight[:, None, :])

    def uniform_diagonal(self, weight: Float[Tensor, "k"]) -> Float[Tensor, "p"]:
        """Diagonal of ``C* W C`` were the directions uniform with total weight ``weight[k]``: a preconditioner.

        The mean of |Y_lm|² over great circles is ``1/4π``; the circle's mean is what modes carry (Parseval).
        """
        return (self._radial.square() * weight.to(self.dtype)).sum(1) / (4 * math.pi)

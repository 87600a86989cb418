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
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.harmonics import real_spherical_harmonics
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import direction_frames
from orbitrec.models.base import Circle, reached
from orbitrec.volumes.base import Volume
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

_DIRECTIONS_AT_ONCE = 256  # for templates of any volume: their points fill the memory


def polar_circle(grid: PolarGrid, angles: int) -> Circle:
    """The circle of a polar grid: modes 0 … M."""
    return Circle(torch.arange(grid.max_mode + 1), angles)


def equators(directions: Float[Tensor, "d 3"], count: int) -> Float[Tensor, "d phi 3"]:
    """Unit vectors ``R_d (cos φ, sin φ, 0)`` of each direction's frame."""
    phi = 2 * math.pi * torch.arange(count, dtype=directions.dtype) / count
    circle = torch.stack([phi.cos(), phi.sin(), torch.zeros_like(phi)], dim=-1)
    return torch.einsum("dij,pj->dpi", direction_frames(directions), circle)


def polar_templates(volume: Volume, grid: PolarGrid, directions: Float[Tensor, "d 3"]) -> Complex[Tensor, "d m k"]:
    """Templates of any volume: its transform on the polar grid of every direction, some directions at a time.

    Args:
        volume: known by its transform.
        grid: the images' polar grid.
        directions: unit viewing directions.

    Returns:
        One template for each direction.
    """

    def templates(some: Float[Tensor, "s 3"]) -> Complex[Tensor, "s m k"]:
        points = equators(some, 2 * grid.half_circle)[:, : grid.half_circle, None, :] * grid.nodes[:, None].to(
            some.dtype
        )
        return grid.from_circle(volume.fourier(points))

    return torch.cat([templates(some) for some in directions.split(_DIRECTIONS_AT_ONCE)])


@dataclass(frozen=True, eq=False)
class PolarProjector:
    """The linear map T = C w from spherical-Bessel coefficients to polar templates, and its adjoint.

    Args:
        basis: the volume's basis.
        grid: the images' polar grid.
        directions: (d, 3) unit viewing directions in antipodal pairs, direction ``i + d/2`` being minus direction i, as
            :func:`orbitrec.geometry.quadrature.spherical_design` orders them.
        dtype: real dtype of the work, float32 or float64.
        device: where templates are made. Coefficients, some thousand numbers, stay with the CPU.

    The frame of −d is that of d with its y axis reversed, so the opposite template is the mirror image,
    ``T[−d, m] = (−1)^m conj T[d, m]``, and only half of C is made and applied.

    Raises:
        InputError: if the directions are not in antipodal pairs.
    """

    basis: SphericalBesselBasis
    grid: PolarGrid
    directions: Float[Tensor, "d 3"]
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __post_init__(self) -> None:
        half = len(self.directions) // 2
        if len(self.directions) % 2 or not torch.allclose(self.directions[:half], -self.directions[half:], atol=1e-12):
            raise InputError("viewing directions must come in antipodal pairs, the second half minus the first")

    @property
    def dimension(self) -> int:
        """Number of functions of the basis."""
        return len(self.basis)

    @property
    def reach(self) -> Bool[Tensor, "m k"]:
        """The coordinates that templates reach."""
        return self._reach

    @cached_property
    def _reach(self) -> Bool[Tensor, "m k"]:
        shells = self.radial.new_zeros(len(self.basis.angular), self.grid.node_count)
        shells.index_add_(0, self.basis.lm, self.radial.square())
        power = shells.new_zeros(self.grid.max_mode + 1, self.grid.node_count)
        for matrix, columns, modes in self._angular:
            of_modes = matrix.square().sum(0).unflatten(0, (len(self.directions) // 2, -1)).mean(0)
            power[modes] = of_modes.cpu() @ shells[columns.cpu()]
        return reached(power).to(self.device)

    @cached_property
    def radial(self) -> Float[Tensor, "p k"]:
        """``s_k F_ls(k)`` of every coefficient."""
        return (self.basis.radial(self.grid.nodes) * self.grid.scale).to(self.dtype)

    @cached_property
    def _angular(self) -> list[tuple[Float[Tensor, "two hm lm"], Int[Tensor, "lm"], slice]]:
        """For each parity: real and imaginary matrices that include (−i)^l and c_m, indices of harmonics, modes."""
        degree, M, functions = self.basis.degree, self.grid.max_mode, self.basis.angular
        columns = functions.by_parity
        blocks: list[list[Tensor]] = [[], []]
        # A few directions at a time: the harmonics on their circles are much larger than their modes.
        for part in self.directions[: len(self.directions) // 2].double().split(32):
            harmonics = real_spherical_harmonics(equators(part, 2 * max(degree, M) + 2), degree)
            modes = torch.fft.rfft(harmonics, dim=1, norm="forward")[:, : M + 1] * self.grid.mode_weights[:, None]
            modes = functions.combined(modes) * functions.phases
            for parity in (0, 1):
                block = modes[:, parity::2][:, :, columns[parity]].flatten(0, 1)
                blocks[parity].append(torch.stack([block.real, block.imag]).to(self.dtype))
        return [
            (torch.cat(blocks[q], dim=1).to(self.device), columns[q].to(self.device), slice(q, None, 2)) for q in (0, 1)
        ]

    @cached_property
    def _mirror_sign(self) -> Float[Tensor, "m one"]:
        return (1 - 2 * (torch.arange(self.grid.max_mode + 1) % 2)).to(self.device, self.dtype)[:, None]

    def templates(self, w: Float[Tensor, "p"]) -> Complex[Tensor, "d m k"]:
        """``T = C w``."""
        return self.shell_templates(self.basis.angular_sum(self.radial, w))

    def shell_templates(self, shells: Float[Tensor, "lm k"]) -> Complex[Tensor, "d m k"]:
        """Templates from a volume's harmonics ``s_k A_lm(k)`` up to the basis' degree."""
        half = len(self.directions) // 2
        out = self._empty(2 * half)
        self._rotate(shells.to(self.device), out[:half])
        out[half:] = self._mirror_sign * out[:half].conj()
        return out

    def half_templates(self, shells: Float[Tensor, "lm k"]) -> Complex[Tensor, "h m k"]:
        """The first half of :meth:`shell_templates`, differentiable."""
        out = self._empty(len(self.directions) // 2)
        self._rotate(shells, out)
        return out

    def _empty(self, count: int) -> Complex[Tensor, "c m k"]:
        kind = torch.complex64 if self.dtype == torch.float32 else torch.complex128
        return torch.empty(count, self.grid.max_mode + 1, self.grid.node_count, dtype=kind, device=self.device)

    def _rotate(self, shells: Float[Tensor, "lm k"], out: Complex[Tensor, "h m k"]) -> None:
        for matrix, columns, modes in self._angular:
            parts = (shells[columns].mT.contiguous() @ matrix.flatten(0, 1).mT).unflatten(1, (2, len(out), -1))
            out[:, modes] = torch.complex(*parts.unbind(1)).permute(1, 2, 0)

    def adjoint(self, x: Complex[Tensor, "d m k"]) -> Float[Tensor, "p"]:
        """``C* x`` for the real inner product ``Re Σ conj(T) x``."""
        half, K = len(self.directions) // 2, self.grid.node_count
        folded = x[:half] + self._mirror_sign * x[half:].conj()
        shells = x.real.new_zeros(len(self.basis.angular), K)
        for matrix, columns, modes in self._angular:
            parts = torch.view_as_real(folded[:, modes]).permute(2, 3, 0, 1).flatten(1)
            shells[columns] = (parts @ matrix.flatten(0, 1)).mT
        return (self.radial * shells.cpu()[self.basis.lm]).sum(1)

    def normal(self, w: Float[Tensor, "p"], weight: Float[Tensor, "d k"]) -> Float[Tensor, "p"]:
        """``C* W C w`` with W diagonal over directions and nodes: the Hessian of the EM quadratic.

        Opposite templates are mirror images, so that their weights add up.
        """
        half = len(self.directions) // 2
        both = (weight[:half] + weight[half:]).to(self.device).mT[:, None, :, None]
        shells = self.basis.angular_sum(self.radial, w).to(self.device).mT
        out = shells.new_zeros(shells.shape)
        # Products whose few rows are nodes are half as fast again as those whose few columns are.
        for matrix, columns, _ in self._angular:
            flat = matrix.flatten(0, 1)
            rotated = (shells[:, columns] @ flat.mT).unflatten(1, (2, half, -1)) * both
            out[:, columns] = rotated.flatten(1) @ flat
        return (self.radial * out.mT.cpu()[self.basis.lm]).sum(1)

    def gram(self, weight: Float[Tensor, "d k"]) -> Float[Tensor, "p p"]:
        """The matrix ``C* W C`` of :meth:`normal`, for bases of about a hundred functions."""
        lm, count = self.basis.lm, len(self.basis.angular)
        shells = (weight.to(self.device).mT @ self._angular_power).reshape(-1, count, count).cpu()
        return torch.einsum("ik,jk,kij->ij", self.radial, self.radial, shells[:, lm[:, None], lm])

    @cached_property
    def angular(self) -> Complex[Tensor, "d m lm"]:
        """``C_m[d, lm] (−i)^l c_m`` as one array, for small bases: ``T = Σ_lm angular · A_lm(k) s_k``."""
        half = len(self.directions) // 2
        kind = torch.complex64 if self.dtype == torch.float32 else torch.complex128
        out = torch.zeros(2 * half, self.grid.max_mode + 1, len(self.basis.angular), dtype=kind, device=self.device)
        for matrix, columns, modes in self._angular:
            values = torch.complex(*matrix).unflatten(0, (half, -1))
            out[:half, modes] = out[:half, modes].index_copy(2, columns, values)
        out[half:] = self._mirror_sign * out[:half].conj()
        return out

    @cached_property
    def _angular_power(self) -> Float[Tensor, "d lm_squared"]:
        return torch.einsum("dma,dmb->dab", self.angular.conj(), self.angular).real.flatten(1)

    def uniform_diagonal(self, weight: Float[Tensor, "k"]) -> Float[Tensor, "p"]:
        """Diagonal of ``C* W C`` were the directions uniform with total weight ``weight[k]``: a preconditioner.

        The mean of |Y_lm|² over great circles is ``1/4π``; the circle's mean is what modes carry (Parseval).
        """
        return (self.radial.square() * weight.to(self.radial)).sum(1) / (4 * math.pi)

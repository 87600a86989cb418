"""Moments of many spherical-Bessel volumes at once: the forward map of the supervised phase (3.12), on the polar grid.

Views from d and −d are mirror images, so half of the directions are enough. With ``T = a + ib`` there, and the sum S
and difference D of the probabilities of d and −d,

    Re M²[m] = Σ_d S_d (a aᵀ + b bᵀ),     Im M²[m] = Σ_d D_d (b aᵀ − a bᵀ).

Only the odd part of the density reaches the imaginary part. The hand reaches neither: reflecting the volume in the
origin multiplies mode m of every template by (−1)^m.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.geometry.harmonics import indices_by_parity
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments, shifted_uniform_moments


@dataclass(frozen=True, eq=False)
class BatchedMoments:
    """The map from coefficients, view densities and shifts to block moments, for batches, differentiable in all.

    Args:
        projector: basis, grid and directions in antipodal pairs, and the precision of the work.
    """

    projector: PolarProjector

    @cached_property
    def _angular(self) -> list[tuple[Float[Tensor, "two_hm lm"], Float[Tensor, "lm p"], int]]:
        """For each parity, up to the basis' degree: real rows above imaginary ones; which coefficients they need."""
        basis, half = self.projector.basis, len(self.projector.directions) // 2
        angular = self.projector.angular[:half, : basis.degree + 1]
        blocks = []
        for parity, columns in enumerate(indices_by_parity(basis.degree)):
            part = angular[:, parity::2][:, :, columns]
            rows = torch.cat([part.real, part.imag]).flatten(0, 1)
            pick = (basis.lm == columns[:, None]).to(rows.dtype)
            blocks.append((rows, pick, part.shape[1]))
        return blocks

    def slices(self, w: Float[Tensor, "b p"]) -> Float[Tensor, "b m two_h k"]:
        """Templates of half the directions, real parts above imaginary ones, for modes up to the basis' degree."""
        weighted = w.mT[:, :, None] * self.projector.radial[:, None]  # (p, b, k)
        half, (b, k) = len(self.projector.directions) // 2, weighted.shape[1:]
        parts = []
        for rows, pick, modes in self._angular:
            shells = pick @ weighted.flatten(1)
            parts.append((rows @ shells).reshape(2, half, modes, b, k).permute(3, 2, 0, 1, 4).reshape(b, modes, -1, k))
        even, odd = parts
        out = even.new_empty(b, even.shape[1] + odd.shape[1], 2 * half, k)
        out[:, ::2], out[:, 1::2] = even, odd
        return out

    def __call__(self, w: Float[Tensor, "b p"], density: Float[Tensor, "b d"], shift_px: Float[Tensor, "b"]) -> Moments:
        """Moments ``M¹[w, ρ, η]`` and ``M²[w, ρ, η]`` of each problem; ``density`` sums to 1 over directions."""
        grid, slices = self.projector.grid, self.slices(w)
        here, opposite = density.to(slices).chunk(2, dim=1)
        total, difference = (here + opposite)[:, None, :, None], (here - opposite)[:, None, :, None]
        a, b = slices.chunk(2, dim=2)
        real = slices.mT @ (slices * torch.cat([total, total], dim=2))
        cross = b.mT @ (a * difference)
        second = torch.complex(real, cross - cross.mT)
        beyond = grid.max_mode + 1 - second.shape[1]
        second = torch.nn.functional.pad(torch.view_as_real(second), (0, 0, 0, 0, 0, 0, 0, beyond))
        first = (total * a[:, :1]).sum(2)
        first = torch.nn.functional.pad(first, (0, 0, 0, grid.max_mode))
        weights = grid.mode_weights.pow(-2).to(slices)
        moments = Moments(torch.complex(first, torch.zeros_like(first)), torch.view_as_complex(second), weights)
        return shifted_uniform_moments(moments, grid, shift_px)

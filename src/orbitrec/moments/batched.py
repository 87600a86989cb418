"""Moments of many spherical-Bessel volumes at once: the forward map of the supervised phase (3.12), on the polar grid.

Views from d and −d are mirror images, so half of the directions are enough
(:func:`orbitrec.moments.analytic.antipodal_weights`). Only the odd part of the density reaches the imaginary part of
the second moment. The handedness reaches neither part: reflecting the volume in the origin multiplies mode m of every
template by (−1)^m.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments, antipodal_weights, block_moments, shifted_uniform_moments


@dataclass(frozen=True, eq=False)
class BatchedMoments:
    """The map from coefficients, view densities and shifts to block moments, for batches, differentiable in all three.

    Attributes:
        projector: basis, grid and directions in antipodal pairs, and the precision of the work.
    """

    projector: PolarProjector

    @cached_property
    def _angular(self) -> list[tuple[Float[Tensor, "two_hm lm"], Float[Tensor, "lm p"], int]]:
        """For even and odd modes up to the basis' degree: real rows above imaginary ones, and the coefficients used."""
        basis, half = self.projector.basis, len(self.projector.directions) // 2
        angular = self.projector.angular[:half, : basis.degree + 1]
        blocks = []
        for parity, columns in enumerate(basis.angular.by_parity):
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
        """Moments ``M¹[w, ρ, η]`` and ``M²[w, ρ, η]`` (3.12) of each problem.

        Args:
            w: coefficients in the projector's basis.
            density: probabilities of the projector's directions, summing to 1.
            shift_px: standard deviations of the Gaussian shifts, in pixels.

        Returns:
            Block moments on the projector's grid, a batch of as many problems.
        """
        grid, slices = self.projector.grid, self.slices(w)
        moments = block_moments(slices, *antipodal_weights(density.to(slices)), grid)
        return shifted_uniform_moments(moments, grid, shift_px)

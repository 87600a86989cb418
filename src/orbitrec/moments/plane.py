"""Block moments of uniform in-plane angles, interpolated from the polar grid to the pixels of an image's transform.

Polar coordinates, divided by the grid's scale, are band-limited functions of the radius, which a polynomial through the
Gauss nodes follows to rounding; on the circle they are sums of modes. Blocks −m are the conjugates of blocks m, so that

    M²[p, p'] = n⁻² Re Σ_m G_m(|p|, |p'|) e^{im(φ − φ')},     G_m = B_m(k, k') / s_k s_k',

is real, as the first moment is.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from scipy.interpolate import barycentric_interpolate
from torch import Tensor

from orbitrec.geometry.grids import frequency_vectors
from orbitrec.geometry.polar import PolarGrid
from orbitrec.moments.analytic import Moments


def radial_interpolation(grid: PolarGrid, radii: Float[Tensor, "r"]) -> Float[Tensor, "k r"]:
    """The matrix from coordinates at the grid's nodes to c_m times the transform at radii up to its ``k_max``."""
    unit = barycentric_interpolate(grid.nodes.numpy(), np.eye(grid.node_count), radii.numpy())
    return torch.from_numpy(unit).mT / grid.scale[:, None]


@dataclass(frozen=True, eq=False)
class PlaneMoments:
    """The map from polar block moments to moments on the K₂ grid (2.8), one block of n² frequencies.

    Frequencies beyond the grid's ``k_max``, in the corners, stay zero: the polar grid does not reach them.

    Attributes:
        grid: the blocks' grid.
    """

    grid: PolarGrid

    @cached_property
    def _plane(self) -> Float[Tensor, "n2 2"]:
        return frequency_vectors(self.grid.box).reshape(-1, 2)

    @cached_property
    def _inside(self) -> Bool[Tensor, "n2"]:
        return self._plane.norm(dim=1) <= self.grid.k_max

    @cached_property
    def _synthesis(self) -> Complex[Tensor, "m p k"]:
        """What coordinate (m, k) adds to each frequency within ``k_max``; 1/n of a unitary transform included."""
        points = self._plane[self._inside]
        radius, of = torch.unique(points.norm(dim=1), return_inverse=True)
        rows = radial_interpolation(self.grid, radius).mT[of] / self.grid.box
        angle = torch.arange(self.grid.max_mode + 1)[:, None] * torch.atan2(points[:, 1], points[:, 0])
        return torch.polar(torch.ones_like(angle), angle)[:, :, None] * rows

    def __call__(self, moments: Moments) -> Moments:
        """Moments of one problem, or of a batch, on n² frequencies."""
        synthesis = self._synthesis.to(moments.second)
        left = torch.view_as_real(synthesis @ moments.second)
        # Re Σ_m (left synthesis*) as one real product over modes, nodes and both parts.
        right = torch.view_as_real(synthesis).movedim(0, 1).flatten(1)
        inside = left.movedim(-4, -3).flatten(-3) @ right.mT
        at, n2 = self._inside.nonzero()[:, 0], self.grid.box**2
        second = inside.new_zeros(*inside.shape[:-2], n2, n2)
        second[..., at[:, None], at] = inside
        first = inside.new_zeros(*inside.shape[:-2], n2)
        first[..., at] = moments.first[..., 0, :].real @ synthesis[0].real.mT
        kind = moments.second.dtype
        return Moments(first[..., None, :].to(kind), second[..., None, :, :].to(kind), moments.weights.new_ones(1))

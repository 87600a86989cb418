"""Moments of any volume on the two grids: as the thesis prints them (2.8), and on the polar grid.

Both take a volume known by its transform, so that each costs so many evaluations of it: n² for every rotation of the
Cartesian quadrature, ``n² · 12 · 100`` in 2.4.2. On the polar grid in-plane angles are phases, a direction and its
opposite are mirror images, and half a circle of a real image's transform gives the other half.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.moments import Moments, full_moments, uniform_moments
from orbitrec.models.cartesian import NO_CIRCLE
from orbitrec.models.cryoem import equators


@dataclass(frozen=True, eq=False)
class CartesianMomentGrid:
    """The K₂ grid turned by every rotation; moments are one block of n² frequencies (2.8).

    Args:
        n: box size of the images.
        rotations: (q, 3, 3) nodes of the quadrature.
    """

    n: int
    rotations: Float[Tensor, "q 3 3"]

    @cached_property
    def plane(self) -> Float[Tensor, "n2 2"]:
        """K₂: frequencies (kx, ky) of an image (float64)."""
        k = frequencies(self.n)
        ky, kx = torch.meshgrid(k, k, indexing="ij")
        return torch.stack([kx, ky], dim=-1).reshape(-1, 2)

    @cached_property
    def points(self) -> Float[Tensor, "p 3"]:
        """``R (kx, ky, 0)``, a rotation after the other."""
        return torch.einsum("qij,pj->qpi", self.rotations.double()[:, :, :2], self.plane).reshape(-1, 3)

    def moments(self, values: Complex[Tensor, "p"], density: Float[Tensor, "q"]) -> Moments:
        """One block."""
        templates = values.reshape(len(self.rotations), 1, -1) / self.n
        return full_moments(templates, density[:, None], NO_CIRCLE)


@dataclass(frozen=True, eq=False)
class PolarMomentGrid:
    """Half circles of every other direction of an antipodal set; in-plane angles are uniform, moments one block a mode.

    Args:
        grid: the images' polar grid.
        directions: (d, 3), direction ``i + d/2`` minus direction i, as a spherical design has them.

    Raises:
        InputError: if the directions are not in antipodal pairs.
    """

    grid: PolarGrid
    directions: Float[Tensor, "d 3"]

    def __post_init__(self) -> None:
        half = len(self.directions) // 2
        if len(self.directions) % 2 or not torch.allclose(self.directions[:half], -self.directions[half:], atol=1e-12):
            raise InputError("viewing directions must come in antipodal pairs, the second half minus the first")

    @cached_property
    def points(self) -> Float[Tensor, "p 3"]:
        """Direction, half of the circle, radial node."""
        count = self.grid.circle_points
        half = equators(self.directions[: len(self.directions) // 2].double(), count)[:, : count // 2]
        return (half[:, :, None] * self.grid.nodes[:, None]).reshape(-1, 3)

    def templates(self, values: Complex[Tensor, "p"]) -> Complex[Tensor, "d m k"]:
        """Polar templates of all directions."""
        half = values.reshape(len(self.directions) // 2, -1, self.grid.node_count)
        near = self.grid.from_circle(torch.cat([half, half.conj()], dim=1))
        sign = (1 - 2 * (torch.arange(self.grid.max_mode + 1) % 2)).to(near.real.dtype)[:, None]
        return torch.cat([near, sign * near.conj()])

    def moments(self, values: Complex[Tensor, "p"], density: Float[Tensor, "d"]) -> Moments:
        """One block for each mode."""
        return uniform_moments(self.templates(values), density, self.grid)


MomentGrid = CartesianMomentGrid | PolarMomentGrid
"""Where a volume's transform is asked for, at ``points``, and what ``moments`` its values there make."""

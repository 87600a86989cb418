"""Moments of any volume on three grids: as the thesis prints them (2.8), on the polar grid, and on shells.

All take a volume known by its transform, so that each costs so many evaluations of it: n² for every rotation of the
Cartesian quadrature, ``n² · 12 · 100`` in 2.4.2. On the polar grid in-plane angles are phases, a direction and its
opposite are mirror images, and half a circle of a real image's transform gives the other half. On shells no evaluation
is for one direction only: a shell's harmonics give the circles of all of them.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.grids import frequency_vectors
from orbitrec.geometry.harmonics import harmonic_count, harmonic_phases, real_spherical_harmonics
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import PolarProjector, equators
from orbitrec.moments.analytic import Moments, antipodal_moments, full_moments, uniform_moments
from orbitrec.thesis.cartesian import NO_CIRCLE


@dataclass(frozen=True, eq=False)
class CartesianMomentGrid:
    """The K₂ grid rotated by every rotation; moments are one block of n² frequencies (2.8).

    Args:
        n: box size of the images.
        rotations: (q, 3, 3) nodes of the quadrature.
    """

    n: int
    rotations: Float[Tensor, "q 3 3"]

    @cached_property
    def plane(self) -> Float[Tensor, "n2 2"]:
        """K₂: frequencies (kx, ky) of an image (float64)."""
        return frequency_vectors(self.n).reshape(-1, 2)

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
        count = self.grid.half_circle
        half = equators(self.directions[: len(self.directions) // 2].double(), 2 * count)[:, :count]
        return (half[:, :, None] * self.grid.nodes[:, None]).reshape(-1, 3)

    def templates(self, values: Complex[Tensor, "p"]) -> Complex[Tensor, "d m k"]:
        """Polar templates of all directions."""
        half = values.reshape(len(self.directions) // 2, -1, self.grid.node_count)
        near = self.grid.from_circle(half)
        sign = (1 - 2 * (torch.arange(self.grid.max_mode + 1) % 2)).to(near.real.dtype)[:, None]
        return torch.cat([near, sign * near.conj()])

    def moments(self, values: Complex[Tensor, "p"], density: Float[Tensor, "d"]) -> Moments:
        """One block for each mode."""
        return uniform_moments(self.templates(values), density, self.grid)


@dataclass(frozen=True, eq=False)
class ShellMomentGrid:
    """Half a shell at each radial node, and its harmonics rotated to every direction; moments are one block a mode.

    A density in a ball of radius R has harmonics up to degree kR and a little more at frequency k. So some (kR + 5)²
    points a node do for all directions together; of what a volume has outside the ball only those degrees are seen.

    Args:
        projector: rotates harmonics; its basis has the ball and the largest degree.

    Raises:
        InputError: if there is no spherical design for that degree.
    """

    projector: PolarProjector

    @cached_property
    def _shells(self) -> list[tuple[Float[Tensor, "p 3"], Float[Tensor, "lm p"], Float[Tensor, "lm p"]]]:
        """For each node points, and what takes the transform's real and imaginary parts there to ``s_k A_lm(k)``."""
        grid, basis, shells = self.projector.grid, self.projector.basis, []
        for k, scale in zip(grid.nodes.tolist(), grid.scale.tolist(), strict=True):
            degree = min(basis.degree, math.ceil(k * basis.radius) + 4)
            design = spherical_design(2 * degree + 1)
            half = design[: len(design) // 2]
            # A_lm = i^l ∫ Y_lm v̂; the opposite point has the conjugate, so Re v̂ for even l and i Im v̂ for odd.
            harmonics = real_spherical_harmonics(half, degree) * (4 * math.pi * scale / len(half))
            rotated = (harmonics * harmonic_phases(degree).conj()).mT.to(self.projector.dtype.to_complex())
            shells.append((half * k, rotated.real, -rotated.imag))
        return shells

    @cached_property
    def points(self) -> Float[Tensor, "p 3"]:
        """A node's half shell after the other."""
        return torch.cat([points for points, _, _ in self._shells])

    def templates(self, values: Complex[Tensor, "p"]) -> Complex[Tensor, "h m k"]:
        """Polar templates of the first half of the projector's directions."""
        shells, count = [], harmonic_count(self.projector.basis.degree)
        parts = values.split([len(points) for points, _, _ in self._shells])
        for part, (_, even, odd) in zip(parts, self._shells, strict=True):
            harmonics = even @ part.real + odd @ part.imag
            shells.append(torch.nn.functional.pad(harmonics, (0, count - len(harmonics))))
        return self.projector.half_templates(torch.stack(shells, dim=1))

    def moments(self, values: Complex[Tensor, "p"], density: Float[Tensor, "d"]) -> Moments:
        """One block for each mode."""
        return antipodal_moments(self.templates(values).transpose(0, 1).contiguous(), density, self.projector.grid)


MomentGrid = CartesianMomentGrid | PolarMomentGrid | ShellMomentGrid
"""Where a volume's transform is asked for, at ``points``, and what ``moments`` its values there make."""

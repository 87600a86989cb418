"""The thesis's problem of section 2.4.2: truths, views, and the moments of 5·10⁶ particles.

Truth: the deposited maps at 63³ and four Gaussians at 25³, of norm 1, projected at continuous rotations and not the
network's own representation that the thesis uses. Maps are cut by a soft sphere first, without which a basis of compact
support has a fifth of EMD-0409's moments wrong; resolutions are against the deposited maps. Views are eight von
Mises–Fisher caps, whose concentrations the thesis does not give; ours are log-uniform in [2, 12]. Moments are the
exact ones plus noise of the exact covariance for σ = 0.5 (:mod:`orbitrec.moments.noise`); they are matched up
to a frequency, and errors are those up to there.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.evaluation.alignment import Alignment
from orbitrec.evaluation.masks import soft_sphere
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.io.mrc import read_map
from orbitrec.models.cryoem import polar_templates
from orbitrec.moments.analytic import uniform_moments
from orbitrec.moments.losses import relative_errors
from orbitrec.moments.matching import MomentTarget
from orbitrec.moments.noise import sampled_moments
from orbitrec.volumes.base import Volume
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis
from orbitrec.volumes.voxel import VoxelVolume

NAMES = ("EMD-0409", "EMD-25892", "4 Gaussians")

SIGMA, PARTICLES = 0.5, 5_000_000
_TRUE_DESIGN = 63  # directions of the true moments, the largest there is


@dataclass(frozen=True, eq=False)
class TrueVolume:
    """A volume of norm 1.

    Attributes:
        name: as in the table.
        voxels: (z, y, x).
        compact: what is projected: the same in a soft sphere.
        voxel_size_A: Å.
        radius: of the ball that holds the compact map, pixels.
        max_radius: of the ball that holds its density, pixels.
    """

    name: str
    voxels: Float[Tensor, "n n n"]
    compact: Float[Tensor, "n n n"]
    voxel_size_A: float
    radius: float
    max_radius: float

    @classmethod
    def of_map(cls, path: Path) -> "TrueVolume":
        """A deposited map at 63³.

        Raises:
            InputError: if the map cannot be read, or neither 0409 nor 25892 is in its name.
        """
        grid, voxel_size_A = read_map(path)
        names = [name for name in NAMES if name.removeprefix("EMD-") in path.stem]
        if not names:
            raise InputError(f"{path}: the table has EMD-0409 and EMD-25892; name the file after one of them")
        n = 63
        voxels = VoxelVolume(grid.double()).resampled(n).grid
        solvent = voxels[radial_frequencies(n, 3) > math.pi * 0.9].mean()
        compact = (voxels - solvent) * soft_sphere(n, 0.25 * n, 6.0)
        size = voxel_size_A * len(grid) / n
        return cls(names[0], voxels / voxels.norm(), compact / compact.norm(), size, 0.36 * n, 0.27 * n)

    @classmethod
    def gaussians(cls) -> "TrueVolume":
        """Four Gaussians not on a plane, 1 Å wide, within 6 Å of the origin, in 25³ voxels of 1 Å."""
        centers = torch.tensor([[4.0, 1.0, -2.0], [-3.0, 3.5, 1.0], [0.5, -4.5, 2.0], [-1.0, 0.0, -4.5]]).double()
        weights = torch.tensor([1.0, 1.3, 0.8, 1.1], dtype=torch.float64)
        grid = GaussianMixture(centers, torch.ones(4, dtype=torch.float64), weights).to_grid(25)
        grid = grid / grid.norm()
        return cls("4 Gaussians", grid, grid, 1.0, 10.0, 8.0)


@dataclass(frozen=True, eq=False)
class Matching:
    """The moments of a truth up to a frequency, and what they are matched by."""

    truth: TrueVolume
    band_A: float
    seed: int = 0

    @property
    def k_max(self) -> float:
        """Largest frequency, radians per pixel."""
        return min(math.pi, 2 * math.pi * self.truth.voxel_size_A / self.band_A)

    @cached_property
    def grid(self) -> PolarGrid:
        """Where moments live."""
        return PolarGrid.for_radius(len(self.truth.voxels), self.k_max, self.truth.radius)

    @cached_property
    def basis(self) -> SphericalBesselBasis:
        """Of the estimate; it reaches one function's width beyond the band."""
        return SphericalBesselBasis(self.truth.radius, self.k_max + math.pi / self.truth.radius)

    @cached_property
    def directions(self) -> Float[Tensor, "d 3"]:
        """Of the estimate's views."""
        return spherical_design(min(_TRUE_DESIGN, 2 * self.basis.degree - 5))

    @cached_property
    def views(self) -> VonMisesFisherMixture:
        """Eight caps."""
        return VonMisesFisherMixture.random(torch.Generator().manual_seed(self.seed), 8)

    @cached_property
    def true_templates(self) -> Complex[Tensor, "d m k"]:
        """Exact projections along the design's directions."""
        return self.templates(VoxelVolume(self.truth.compact), spherical_design(_TRUE_DESIGN))

    def templates(self, volume: Volume, directions: Float[Tensor, "d 3"]) -> Complex[Tensor, "d m k"]:
        """Exact projections of any volume."""
        return polar_templates(volume, self.grid, directions)

    @cached_property
    def true_density(self) -> Float[Tensor, "d"]:
        """Probabilities of the same directions."""
        return self.views.probabilities(spherical_design(_TRUE_DESIGN))

    @cached_property
    def target(self) -> MomentTarget:
        """What the particles would give."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        moments = sampled_moments(
            self.true_templates, self.true_density, self.grid, sigma=SIGMA, count=PARTICLES, generator=generator
        )
        noise = SIGMA**2 * torch.diagonal(self.grid.noise_gram(), dim1=1, dim2=2).real
        variance = torch.diagonal(moments.second, dim1=1, dim2=2).real.clamp(min=0) + noise
        return MomentTarget(moments, self.grid, variance, float(PARTICLES))

    def view_correlation(self, alignment: Alignment, views: Float[Tensor, "d"]) -> float:
        """Pearson correlation of the true log density with that of ``views``, probabilities of :attr:`directions`.

        Both are compared in the truth's frame, to which ``alignment`` brought the estimate's volume.
        """
        true = self.views.log_density(alignment.rotated(self.directions))
        return float(torch.corrcoef(torch.stack([views.log(), true]))[0, 1])

    @property
    def noise_errors(self) -> tuple[float, float]:
        """Relative errors of the particles' own moments: what a perfect volume has."""
        exact = uniform_moments(self.true_templates, self.true_density, self.grid)
        first, second = relative_errors(self.target.moments, exact)
        return float(first), float(second)

"""The volume nearest to a mean that has the moments.

The mean of solutions (:mod:`orbitrec.thesis.volume_matching.consensus`) is nearer to the truth than they are, but its
moments, which are quadratic, are farther from the target. What gives them back with the least change is a maximum a
posteriori on top of it: spherical-Bessel coefficients and harmonics of the views' log density that are zero in the
prior's mean, found by L-BFGS from there. It is the refinement (3.11) with few unknowns and a reason to stay small.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.densities.harmonic import probabilities_on_nodes
from orbitrec.geometry.harmonics import nonconstant_harmonics
from orbitrec.models.cryoem import PolarProjector, polar_templates
from orbitrec.moments.analytic import Moments, antipodal_moments
from orbitrec.moments.matching import MomentTarget, prior_scale
from orbitrec.optim.lbfgs import minimise
from orbitrec.thesis.volume_matching.consensus import VoxelEstimate
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume

_SHARE = 0.3  # of the data's amplitude: a coefficient's standard deviation in the prior
_VIEW_DEGREE, _VIEW_SCALE = 8, 0.3  # of the views' log density: its degree, and each harmonic's deviation
_LARGEST_BANDWIDTH = 40.0  # radius · k: beyond, coefficients are too many, and designs of degree 63 too coarse
_ITERATIONS = 300


@dataclass(frozen=True, eq=False)
class Corrected:
    """A mean and the change on top of it.

    Attributes:
        mean: the mean.
        change: what is added to its volume,
        views: and harmonics of what is added to its views' log density.
    """

    mean: VoxelEstimate
    change: SphericalBesselVolume
    views: Float[Tensor, "b"]

    @property
    def voxels(self) -> Float[Tensor, "n n n"]:
        """The sum."""
        return self.mean.voxels + self.change.to_grid(len(self.mean.voxels))

    @property
    def unknowns(self) -> int:
        """Numbers of the change."""
        return len(self.change.basis) + len(self.views)

    def view_density(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions, which should be spread evenly."""
        harmonics = nonconstant_harmonics(directions, _VIEW_DEGREE)
        return probabilities_on_nodes(self.views, harmonics, self.mean.view_density(directions).log())


def corrected(mean: VoxelEstimate, target: MomentTarget, radius: float, directions: Float[Tensor, "d 3"]) -> Corrected:
    """The mean with the smallest change that gives it the moments, as far as they are trusted.

    Moments are matched up to a bandwidth ``radius · k`` of 40; they are largest at low frequencies.

    Args:
        mean: of solutions, or any estimate.
        target: float32 moments; they are trusted as if they came from ``count`` clean images.
        radius: of the ball that holds the change, pixels.
        directions: of a spherical design, for the views.

    Returns:
        Mean and change.
    """
    k_max = min(target.grid.k_max, _LARGEST_BANDWIDTH / radius)
    basis = SphericalBesselBasis(radius, k_max + math.pi / radius)
    target = target.truncated(k_max, radius)
    problem = _Problem.of(mean, target, PolarProjector(basis, target.grid, directions))
    found = minimise(problem.loss, torch.zeros(len(problem.scale)), _ITERATIONS).x
    coefficients, views = (found * problem.scale).double().split([len(basis), len(problem.scale) - len(basis)])
    return Corrected(mean, SphericalBesselVolume(basis, coefficients), views)


@dataclass(frozen=True, eq=False)
class _Problem:
    """Loss over one flat vector of standard normal variables: coefficients, harmonics of the views' log density.

    Attributes:
        target: moments.
        projector: of the change.
        templates: of the mean, modes first, along half of the directions.
        logits: log density of the mean's views.
        harmonics: what may change them.
        scale: the variables' standard deviations.
    """

    target: MomentTarget
    projector: PolarProjector
    templates: Complex[Tensor, "m h k"]
    logits: Float[Tensor, "d"]
    harmonics: Float[Tensor, "d b"]
    scale: Float[Tensor, "x"]

    @classmethod
    def of(cls, mean: VoxelEstimate, target: MomentTarget, projector: PolarProjector) -> "_Problem":
        """The problem of a mean."""
        volume, directions = VoxelVolume(mean.voxels), projector.directions
        templates = polar_templates(volume, target.grid, directions[: len(directions) // 2]).to(torch.complex64)
        harmonics = nonconstant_harmonics(directions, _VIEW_DEGREE).float()
        scale = torch.cat(
            [_SHARE * prior_scale(target, projector), torch.full((harmonics.shape[1],), _VIEW_SCALE)]
        ).float()
        logits = mean.view_density(directions).log().float()
        return cls(target, projector, templates.transpose(0, 1), logits, harmonics, scale)

    def moments(self, x: Float[Tensor, "x"]) -> Moments:
        """Of the sum."""
        basis = self.projector.basis
        change, views = (x * self.scale).split([len(basis), self.harmonics.shape[1]])
        templates = self.projector.half_templates(basis.angular_sum(self.projector.radial, change)).transpose(0, 1)
        density = probabilities_on_nodes(views, self.harmonics, self.logits)
        return antipodal_moments((self.templates + templates).contiguous(), density, self.target.grid)

    def loss(self, x: Float[Tensor, "x"]) -> Float[Tensor, ""]:
        """Minus the log posterior."""
        return self.target.misfit(self.moments(x)) + x.square().sum() / 2

"""Imposing a known symmetry: its axes are found in the model, the model is checked and made symmetric."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.multi_start import held_out_likelihood
from orbitrec.cryoem.search.starts import fitted_coefficients
from orbitrec.evaluation.alignment import Alignment
from orbitrec.evaluation.symmetry import find_axes
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.polar import PolarGrid
from orbitrec.models.cryoem import PolarProjector
from orbitrec.volumes.voxel import VoxelVolume

CHECKED = 300
"""Number of particles on which the likelihood of the model and of its average over the group are compared."""


@dataclass(frozen=True)
class SymmetryCheck:
    """How symmetric the model was before a symmetry was imposed.

    Attributes:
        group: the symmetry.
        score: of :class:`orbitrec.evaluation.symmetry.Axes`.
        kept: log-likelihood of the particles, over that of images without a particle, when the model is averaged over
            the group, divided by that of the model before.
    """

    group: PointGroup
    score: float
    kept: float


def impose_symmetry(
    level: ResolutionLevel, model: VolumeAndViews, group: PointGroup, data: ParticleModes, centres: Float[Tensor, "N 2"]
) -> tuple[ResolutionLevel, VolumeAndViews, SymmetryCheck | None]:
    """Rotate a model to the standard setting of a group and average it over the group.

    The average is the least-squares fit of the rotated model in a basis of symmetric functions only.

    Args:
        level: the resolution.
        model: volume and views.
        group: the symmetry; without one, level and model are returned as they are.
        data: the particles, some of which check the model.
        centres: (N, 2) displacement (x, y) of each particle's content, in pixels.

    Returns:
        The level whose basis is symmetric, the model on it with uniform views, and how symmetric the model was before;
        None without a symmetry.
    """
    if group.order == 1:
        return level, model, None
    density, spacing = level.density(model)
    axes = find_axes(density, group)
    rotated = Alignment(axes.rotation, axes.shift_px, False, 1.0).apply(density)
    symmetric = ResolutionLevel.at(level.grid, level.basis.radius, level.bandwidth, group, data.device)
    fitted = VolumeAndViews(_fitted(symmetric, rotated, spacing), symmetric.uniform_views())
    # Rotated back, it has the views and the centres of the model before.
    back = axes.rotation.mT
    placed = Alignment(back, -back @ axes.shift_px, False, 1.0).apply(symmetric.density(fitted)[0])
    averaged = replace(model, coefficients=_fitted(level, placed, spacing))
    rows = torch.linspace(0, len(data) - 1, min(CHECKED, len(data))).long()
    after, before = (held_out_likelihood(data, level, each, centres, rows) for each in (averaged, model))
    return symmetric, fitted, SymmetryCheck(group, axes.score, after / before)


def _fitted(level: ResolutionLevel, density: Float[Tensor, "n n n"], spacing: float) -> Float[Tensor, "p"]:
    """Coefficients of a density on the lattice of :meth:`ResolutionLevel.density`.

    Those of orthonormal functions do not depend on the unit of length: they are fitted on the lattice.
    """
    basis = level.basis.rescaled(spacing)
    grid = PolarGrid.for_radius(len(density), basis.k_max, basis.radius)
    lattice = ResolutionLevel(level.bandwidth, PolarProjector(basis, grid, level.directions), level.circle)
    return fitted_coefficients(lattice, VoxelVolume(density))

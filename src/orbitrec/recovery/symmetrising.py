"""A symmetry that is known: found in the model, checked, and from then on kept."""

from dataclasses import dataclass, replace

from orbitrec.evaluation.alignment import Alignment
from orbitrec.evaluation.symmetry import find_axes
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.symmetry import PointGroup
from orbitrec.models.cryoem import PolarProjector
from orbitrec.recovery.search import Model, SearchLevel
from orbitrec.recovery.starts import fitted_coefficients
from orbitrec.volumes.voxel import VoxelVolume


@dataclass(frozen=True)
class SymmetryCheck:
    """The group that was applied, and the score of :class:`orbitrec.evaluation.symmetry.Axes` of the model before."""

    group: PointGroup
    score: float


def symmetrised(
    level: SearchLevel, model: Model, group: PointGroup
) -> tuple[SearchLevel, Model, SymmetryCheck | None]:  # fmt: skip
    """The model in the group's setting, and the level whose basis has nothing but symmetric functions.

    Fitting the turned model in that basis averages it over the group. Without a symmetry everything stays.
    """
    if group.order == 1:
        return level, model, None
    density, spacing = level.density(model)
    axes = find_axes(density, group)
    turned = VoxelVolume(Alignment(axes.rotation, axes.shift_px, False, 1.0).apply(density))
    symmetric = SearchLevel.at(level.grid, level.basis.radius, level.bandwidth, group)
    # Coefficients of orthonormal functions do not depend on the unit of length: they are fitted on the lattice.
    basis = replace(symmetric.basis, radius=symmetric.basis.radius / spacing, k_max=symmetric.basis.k_max * spacing)
    grid = PolarGrid.for_radius(len(density), basis.k_max, basis.radius)
    lattice = SearchLevel(level.bandwidth, PolarProjector(basis, grid, symmetric.directions), symmetric.circle)
    fitted = Model(fitted_coefficients(lattice, turned), symmetric.uniform_views())
    return symmetric, fitted, SymmetryCheck(group, axes.score)

"""Imposing a known symmetry, and what the particles say of it.

The axes of a model that is free are found, and it is made symmetric. A model that was symmetric from its start is let
go: if the particle has less symmetry, EM without it finds a volume that explains the particles better.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.cryoem.config import Schedule
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.likelihood import centred_likelihood
from orbitrec.cryoem.search.multi_start import held_out_likelihood
from orbitrec.cryoem.search.starts import fitted_coefficients
from orbitrec.evaluation.alignment import Alignment
from orbitrec.evaluation.symmetry import find_axes, symmetry_score
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.group_density import EstimatedDirections
from orbitrec.models.cryoem import PolarProjector
from orbitrec.optim.driver import continued
from orbitrec.optim.online import OnlineEM
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume

CHECKED = 300
"""Number of particles on which the likelihood of the model and of its average over the group are compared."""


@dataclass(frozen=True)
class SymmetryCheck:
    """How symmetric the model is without the symmetry that is imposed.

    Attributes:
        group: the symmetry.
        score: of :class:`orbitrec.evaluation.symmetry.Axes`.
        kept: log-likelihood of the particles, over that of images without a particle, of the symmetric model, divided
            by that of the model without the symmetry.
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
    rotated = axes.standard(density)
    symmetric = ResolutionLevel.at(level.grid, level.basis.radius, level.bandwidth, group, data.device)
    fitted = VolumeAndViews(_fitted(symmetric, rotated, spacing), symmetric.uniform_views())
    # Rotated back, it has the views and the centres of the model before.
    back = axes.rotation.mT
    placed = Alignment(back, -back @ axes.shift_px, False, 1.0).apply(symmetric.density(fitted)[0])
    averaged = replace(model, coefficients=_fitted(level, placed, spacing))
    rows = torch.linspace(0, len(data) - 1, min(CHECKED, len(data))).long()
    after, before = (held_out_likelihood(data, level, each, centres, rows) for each in (averaged, model))
    return symmetric, fitted, SymmetryCheck(group, axes.score, after / before)


def symmetry_evidence(
    level: ResolutionLevel,
    model: VolumeAndViews,
    data: ParticleModes,
    centres: Float[Tensor, "N 2"],
    schedule: Schedule,
    generator: torch.Generator,
) -> SymmetryCheck:
    """What becomes of a symmetric model that is let go: EM without the symmetry, from the model and a little noise.

    Args:
        level: of the model; its group is judged.
        model: volume and views.
        data: the particles; :data:`CHECKED` of them have no part in EM and judge both models.
        centres: (N, 2) displacement (x, y) of each particle's content, in pixels.
        schedule: its first level is that of the comparison.
        generator: of the noise and of the batches.

    Returns:
        How symmetric the free model is, and how much less likely the symmetric one.
    """
    group, free = level.basis.group, ResolutionLevel.at(
        data.grid, level.basis.radius, schedule.start_bandwidth, device=data.device
    )  # fmt: skip
    views = free.directional_kernel(level) @ model.log_views.exp()
    # Harmonics of the finest degrees, which the first level does not see, would take gigabytes.
    basis = SphericalBesselBasis(level.basis.radius, min(free.basis.k_max, level.basis.k_max), group=group)
    seen = basis.embed(torch.ones(len(basis)), level.basis) > 0
    volume = SphericalBesselVolume(basis, model.coefficients[seen].double())
    symmetric = VolumeAndViews(fitted_coefficients(free, volume), views.log().log_softmax(0))
    rows = torch.linspace(0, len(data) - 1, min(CHECKED, len(data) // 5)).long()
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[rows] = False
    pool = (rest & data.inliers()).nonzero().flatten()
    problem = centred_likelihood(data, free, centres, pool)
    if level.view_floor == 1:  # the comparison is of volumes: both have the views that the symmetric one was given
        views = EstimatedDirections(len(free.directions), free.circle.angles, level.view_floor, free.projector.dtype)
        problem = replace(problem, density=views)
    noise = free.random_model(generator, problem.data.ctf2_over_noise).coefficients
    unknowns = free.unknowns(replace(symmetric, coefficients=symmetric.coefficients + noise))
    for batch, steps, kept in (
        (schedule.start_batch, schedule.start_steps // 2, 0.95),
        (schedule.settle_batch, schedule.settle_steps, 0.8),
    ):
        solver = OnlineEM(min(batch, len(pool)), kept, passes=False)
        begun = solver.init(problem, unknowns)
        unknowns = continued(solver, problem, begun, generator, steps, lambda info: None).w
    found = free.model(unknowns)
    after, before = (held_out_likelihood(data, free, each, centres, rows) for each in (symmetric, found))
    return SymmetryCheck(group, symmetry_score(free.density(found)[0], group), after / before)


def _fitted(level: ResolutionLevel, density: Float[Tensor, "n n n"], spacing: float) -> Float[Tensor, "p"]:
    """Coefficients of a density on the lattice of :meth:`ResolutionLevel.density`.

    Those of orthonormal functions do not depend on the unit of length: they are fitted on the lattice.
    """
    basis = level.basis.rescaled(spacing)
    grid = PolarGrid.for_radius(len(density), basis.k_max, basis.radius)
    lattice = ResolutionLevel(level.bandwidth, PolarProjector(basis, grid, level.directions), level.circle)
    return fitted_coefficients(lattice, VoxelVolume(density))

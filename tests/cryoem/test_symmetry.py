"""A symmetry that is known: the model is rotated into its setting and averaged; the map is made of equivalent views."""

import torch

from orbitrec.cryoem.config import Schedule
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.starts import fitted_coefficients
from orbitrec.cryoem.symmetry import impose_symmetry, symmetry_evidence
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import random_rotations
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.volumes.gaussians import GaussianMixture

N, RADIUS = 28, 11.0


ROTATION, SHIFT = random_rotations(1, torch.Generator().manual_seed(4))[0], torch.tensor([0.5, -0.8, 0.3]).double()


def _model(
    level: ResolutionLevel, group: PointGroup, rotation: torch.Tensor = ROTATION, shift: torch.Tensor = SHIFT
) -> VolumeAndViews:
    """Copies of a few atoms, rotated and shifted by a pixel."""
    atoms = 2.5 * torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    placed = torch.cat([atoms @ turn.mT for turn in group.matrices()]) @ rotation.mT + shift
    mixture = GaussianMixture(placed, torch.full((len(placed),), 1.3).double(), torch.ones(len(placed)).double())
    return VolumeAndViews(20 * fitted_coefficients(level, mixture), level.uniform_views())


def _seen(level: ResolutionLevel, model: VolumeAndViews) -> tuple[ParticleModes, torch.Tensor]:
    """The model's own templates as particles, and where they are."""
    count = len(level.directions)
    templates = level.projector.templates(model.coefficients)
    filters = torch.ones(1, level.grid.node_count)
    index = torch.zeros(count, dtype=torch.long)
    data = ParticleModes(level.grid, templates, filters, index, NoiseSpectrum.white(N, 1.0), 3.0)
    return data, torch.zeros(count, 2, dtype=torch.float64)


def test_a_symmetric_model_is_rotated_and_otherwise_kept():
    group = PointGroup.named("C3")
    level = ResolutionLevel.at(PolarGrid.for_radius(N, 1.2, RADIUS), RADIUS, 10.0)
    model = _model(level, group)
    symmetric, found, check = impose_symmetry(level, model, group, *_seen(level, model))
    assert check is not None
    assert check.score > 0.9
    assert 0.97 < check.kept < 1.01
    assert str(symmetric.basis.group) == "C3"
    assert len(symmetric.basis) < 0.45 * len(level.basis)
    same = align(symmetric.density(found)[0], level.density(model)[0], handedness=False)
    assert same.correlation > 0.98


def test_what_is_not_symmetric_is_averaged_and_the_score_says_so():
    level = ResolutionLevel.at(PolarGrid.for_radius(N, 1.2, RADIUS), RADIUS, 8.0)
    model = _model(level, PointGroup.named("C1"))
    symmetric, found, check = impose_symmetry(level, model, PointGroup.named("C4"), *_seen(level, model))
    assert check is not None
    assert check.score < 0.97  # at this resolution five atoms are little more than a blob
    assert len(found.coefficients) == len(symmetric.basis)
    assert impose_symmetry(level, model, NO_SYMMETRY, *_seen(level, model)) == (level, model, None)


def _noisy(level: ResolutionLevel, model: VolumeAndViews) -> tuple[ParticleModes, torch.Tensor]:
    """Six particles of each view of the model, with white noise."""
    clean, _ = _seen(level, model)
    modes = clean.modes.repeat(6, 1, 1)
    noise = torch.randn(*modes.shape, 2, generator=torch.Generator().manual_seed(5)) / 2**0.5
    index = torch.zeros(len(modes), dtype=torch.long)
    data = ParticleModes(level.grid, modes + torch.view_as_complex(noise), clean.filters, index, clean.noise, 3.0)
    return data, torch.zeros(len(modes), 2, dtype=torch.float64)


def test_a_symmetric_model_that_is_let_go_stays_where_it_is_right_and_goes_where_it_is_not():
    group, grid = PointGroup.named("T"), PolarGrid.for_radius(N, 1.2, RADIUS)
    level, schedule = ResolutionLevel.at(grid, RADIUS, 10.0), Schedule(start_bandwidth=10.0, start_steps=30)
    symmetric = ResolutionLevel.at(grid, RADIUS, 10.0, group)
    for truth in (group, NO_SYMMETRY):
        axes_at_rest = _model(level, truth, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
        fitted = fitted_coefficients(symmetric, level.volume(axes_at_rest))
        averaged = VolumeAndViews(fitted, symmetric.uniform_views())
        generator = torch.Generator().manual_seed(6)
        check = symmetry_evidence(symmetric, averaged, *_noisy(level, axes_at_rest), schedule, generator)
        if truth == group:
            assert check.score > 0.7
            assert 0.95 < check.kept < 1.1
        else:
            assert check.score < 0.5
            assert check.kept < 0.95

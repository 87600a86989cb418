"""A symmetry that is known: the model is rotated into its setting and averaged; the map is made of equivalent views."""

import torch

from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.starts import fitted_coefficients
from orbitrec.cryoem.symmetry import impose_symmetry
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import random_rotations
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.volumes.gaussians import GaussianMixture

N, RADIUS = 28, 11.0


def _model(level: ResolutionLevel, group: PointGroup) -> VolumeAndViews:
    """Copies of a few atoms, rotated and shifted by a pixel."""
    atoms = 2.5 * torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rotation = random_rotations(1, torch.Generator().manual_seed(4))[0]
    placed = torch.cat([atoms @ turn.mT for turn in group.matrices()]) @ rotation.mT
    placed = placed + torch.tensor([0.5, -0.8, 0.3], dtype=torch.float64)
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
    assert impose_symmetry(level, model, PointGroup(), *_seen(level, model)) == (level, model, None)

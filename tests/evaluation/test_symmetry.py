"""Axes of symmetric maps that were rotated and shifted; maps without any."""

import pytest
import torch
from torch import Tensor

from orbitrec.evaluation.alignment import Alignment
from orbitrec.evaluation.symmetry import find_axes
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import random_rotations
from orbitrec.volumes.gaussians import GaussianMixture

N = 28


def _atoms(group: PointGroup, rotation: Tensor, shift: Tensor) -> Tensor:
    """Copies of a few atoms, rotated and shifted, on a grid."""
    generator = torch.Generator().manual_seed(3)
    atoms = 3 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    placed = torch.cat([atoms @ element.mT for element in group.matrices()]) @ rotation.mT + shift
    return GaussianMixture(placed, torch.full((len(placed),), 1.5).double(), torch.ones(len(placed)).double()).to_grid(
        N
    )


@pytest.mark.parametrize("name", ["C2", "D3"])
def test_axes_are_found(name):
    group = PointGroup.named(name)
    rotation = random_rotations(1, torch.Generator().manual_seed(4))[0]
    volume = _atoms(group, rotation, torch.tensor([1.0, -0.7, 0.4], dtype=torch.float64))
    axes = find_axes(volume, group)
    assert axes.score > 0.97
    standard = Alignment(axes.rotation, axes.shift_px, False, 1.0).apply(volume)
    for element in group.matrices()[1:]:
        rotated = Alignment(element, torch.zeros(3, dtype=torch.float64), False, 1.0).apply(standard)
        correlation = torch.corrcoef(torch.stack([standard.flatten(), rotated.flatten()]))[0, 1]
        assert float(correlation) > 0.99


def test_what_has_no_symmetry_scores_lower():
    """Few atoms, so that the best of all axes finds some likeness."""
    volume = _atoms(PointGroup.named("C1"), torch.eye(3).double(), torch.zeros(3).double())
    assert find_axes(volume, PointGroup.named("C3")).score < 0.7

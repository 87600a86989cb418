"""Axes of symmetric maps that were rotated and shifted; maps without any; maps that RELION made symmetric."""

import shutil
import subprocess

import pytest
import torch
from torch import Tensor

from orbitrec.evaluation.alignment import Alignment
from orbitrec.evaluation.symmetry import find_axes, symmetry_score
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import random_rotations
from orbitrec.io.mrc import read_map, write_map
from orbitrec.volumes.gaussians import GaussianMixture

N = 28
NONE = torch.zeros(3, dtype=torch.float64)


def _atoms(group: PointGroup, rotation: Tensor, shift: Tensor, spread: float = 3.0, width: float = 1.5) -> Tensor:
    """Copies of a few atoms, rotated and shifted, on a grid."""
    generator = torch.Generator().manual_seed(3)
    atoms = spread * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    placed = torch.cat([atoms @ element.mT for element in group.matrices()]) @ rotation.mT + shift
    ones = torch.ones(len(placed), dtype=torch.float64)
    return GaussianMixture(placed, width * ones, ones).to_grid(N)


def _least_correlation(volume: Tensor, group: PointGroup) -> float:
    """With its copies under the group."""
    rotated = (Alignment(element, NONE, False, 1.0).apply(volume) for element in group.matrices()[1:])
    return min(float(torch.corrcoef(torch.stack([volume.flatten(), each.flatten()]))[0, 1]) for each in rotated)


@pytest.mark.parametrize("name", ["C2", "D3", "T", "O", "I"])
def test_axes_are_found(name):
    group = PointGroup.named(name)
    rotation = random_rotations(1, torch.Generator().manual_seed(4))[0]
    width = 1.5 if not group.polyhedral else 1.1  # many atoms near one another are a ball
    volume = _atoms(group, rotation, torch.tensor([1.0, -0.7, 0.4], dtype=torch.float64), width=width)
    axes = find_axes(volume, group)
    assert axes.score > 0.9
    standard = axes.standard(volume)
    assert _least_correlation(standard, group) > 0.98
    assert symmetry_score(standard, group) == pytest.approx(axes.score, abs=0.02)
    assert symmetry_score(volume, group) < axes.score - 0.2


def test_what_has_no_symmetry_scores_lower():
    """Few atoms, so that the best of all axes finds some likeness."""
    volume = _atoms(PointGroup.named("C1"), torch.eye(3).double(), torch.zeros(3).double())
    assert find_axes(volume, PointGroup.named("C3")).score < 0.7


@pytest.mark.skipif(shutil.which("relion_image_handler") is None, reason="RELION is not installed")
@pytest.mark.parametrize("name", ["C3", "D2", "T", "O", "I", "I1"])
def test_a_map_that_relion_made_symmetric_is_so_under_our_rotations(name, tmp_path):
    group = PointGroup.named(name)
    plain = _atoms(PointGroup.named("C1"), torch.eye(3).double(), torch.zeros(3).double(), 2.5)
    write_map(tmp_path / "plain.mrc", plain.float(), 2.0)
    command = ["relion_image_handler", "--i", "plain.mrc", "--o", "made.mrc", "--sym", name]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    made = read_map(tmp_path / "made.mrc")[0].double()
    assert _least_correlation(plain, group) < 0.9
    assert _least_correlation(made, group) > 0.97  # it interpolates between voxels

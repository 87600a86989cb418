"""The asymmetric unit holds one of all equivalent directions, and points are spread over it as those of a design."""

import math

import pytest
import torch

from orbitrec.geometry.asymmetric_unit import in_asymmetric_unit, spread_directions
from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.geometry.quadrature import spherical_design, spiral_points
from orbitrec.geometry.rotations import random_rotations

NAMES = ["C2", "C7", "D3", "T", "O", "I", "I3"]
DEGREE = 17


@pytest.mark.parametrize("name", NAMES)
def test_equivalent_poses_have_one_in_the_unit(name):
    group = PointGroup.named(name)
    rotations = random_rotations(40, torch.Generator().manual_seed(1))
    unit = in_asymmetric_unit(rotations, group)
    for element in group.matrices():
        assert torch.allclose(in_asymmetric_unit(element @ rotations, group), unit, atol=1e-12)
    elements = unit @ rotations.mT
    assert float((elements[:, None] - group.matrices()).abs().amax((2, 3)).amin(1).max()) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_directions_and_their_copies_cover_the_sphere_as_a_design_does(name):
    group = PointGroup.named(name)
    directions, design = spread_directions(DEGREE, group), spherical_design(DEGREE)
    half = len(directions) // 2
    assert torch.equal(directions[half:], -directions[:half])
    assert len(design) <= group.order * len(directions) < len(design) + 2 * group.order
    copies = (directions @ group.matrices().mT).flatten(0, 1)
    places = spiral_points(2000)
    covered, usual = (float((places @ set_.mT).amax(1).min().acos()) for set_ in (copies, design))
    assert covered < 1.25 * usual
    # Cells of equal area have the mean of any slowly varying function.
    assert float(copies.mean(0).norm()) < 1e-9 or not group.polyhedral


def test_without_a_group_nothing_changes():
    rotations = random_rotations(5, torch.Generator().manual_seed(1))
    assert in_asymmetric_unit(rotations, NO_SYMMETRY) is rotations
    assert torch.equal(spread_directions(DEGREE, NO_SYMMETRY), spherical_design(DEGREE))
    assert math.isclose(float(spread_directions(3, PointGroup.named("O"))[0].norm()), 1.0)

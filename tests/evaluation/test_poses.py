"""Errors of poses against rotations by known angles, modulo frames, hands and groups."""

import math

import pytest
import torch

from orbitrec.evaluation.poses import angular_errors
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import mirrored_views, random_rotations, rotation_vector_to_matrix

COUNT = 200


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", ["C1", "D3", "O", "I"])
def test_errors_are_the_angles_that_were_put_in(name, mirrored):
    """A tenth of the poses is wrong altogether; the others are off by 3° about axes at random."""
    generator, group = torch.Generator().manual_seed(1), PointGroup.named(name)
    reference = random_rotations(COUNT, generator)
    axes = torch.nn.functional.normalize(torch.randn(COUNT, 3, generator=generator, dtype=torch.float64), dim=1)
    off = rotation_vector_to_matrix(math.radians(3) * axes)
    element = torch.randint(group.order, (COUNT,), generator=generator)
    found = group.matrices()[element] @ off @ reference
    found[:20] = random_rotations(20, generator)
    if mirrored:
        found = mirrored_views(found)
    frame = random_rotations(1, generator)[0]
    errors = angular_errors(frame @ found, reference, group)
    assert torch.allclose(
        errors[20:], torch.full((180,), 3.0, dtype=torch.float64), atol=0.9
    )  # the frame has a standard error of 0.3°
    assert float(errors[:20].median()) > 8


def test_without_the_group_equivalent_poses_are_errors():
    group, reference = PointGroup.named("D2"), random_rotations(COUNT, torch.Generator().manual_seed(2))
    found = group.matrices()[torch.arange(COUNT) % 4] @ reference
    assert float(angular_errors(found, reference, group).max()) < 1e-4
    assert float((angular_errors(found, reference) > 90).double().mean()) > 0.4

"""Polar block moments on the pixels of an image's transform, against moments formed there."""

import math

import pytest
import torch

from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import design_circle_rule
from orbitrec.models.cryoem import polar_templates
from orbitrec.moments.analytic import uniform_moments
from orbitrec.moments.plane import PlaneMoments
from orbitrec.thesis.volume_matching.grids import CartesianMomentGrid
from orbitrec.volumes.gaussians import GaussianMixture


@pytest.mark.parametrize("n", [10, 11])
def test_they_are_the_cartesian_moments_within_the_polar_grid_s_circle(n):
    centres = torch.tensor([[0.9, 0.2, 0.4], [-0.6, 0.8, -0.3], [0.1, -1.0, 0.5]], dtype=torch.float64)
    volume = GaussianMixture(centres, torch.full((3,), 0.9).double(), torch.tensor([1.0, 2.0, 3.0]).double())
    rotations = design_circle_rule(7, 16)
    directions = rotations[:, 0, :, 2]
    density = torch.rand(len(directions), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    density = density / density.sum()
    cartesian = CartesianMomentGrid(n, rotations.reshape(-1, 3, 3))
    expected = cartesian.moments(volume.fourier(cartesian.points), density.repeat_interleave(16) / 16)
    grid = PolarGrid(n, math.pi, 24, 16)
    found = PlaneMoments(grid)(uniform_moments(polar_templates(volume, grid, directions), density, grid))
    inside = cartesian.plane.norm(dim=1) <= math.pi
    block = inside[:, None] & inside
    largest = expected.second.abs().max()
    assert (found.second[0] - expected.second[0])[block].abs().max() < 1e-6 * largest
    assert (found.first[0] - expected.first[0])[inside].abs().max() < 1e-6 * expected.first.abs().max()
    assert not found.second[0][~block].any()

"""Densities on nodes: floors, and what lies between the nodes, against closed forms."""

import math

import pytest
import torch

from orbitrec.densities.gridded import GriddedDensity, mixed_with_uniform
from orbitrec.densities.kernel import smoothing_weights
from orbitrec.geometry.quadrature import spherical_design


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_mixture_sums_to_one_and_leaves_every_node_its_share(share):
    weights = torch.tensor([0.0, 3.0, 5.0, 0.0, 2.0], dtype=torch.float64)
    mixed = mixed_with_uniform(weights, share)
    assert float(mixed.sum()) == pytest.approx(1)
    assert torch.allclose(mixed, torch.tensor([0, 0.3, 0.5, 0, 0.2]).double() * (1 - share) + share / 5)


def test_between_nodes_a_density_is_smoothed_by_the_kernel():
    """A von Mises–Fisher kernel of κ multiplies harmonics of degree 1 by coth κ − 1/κ, the Langevin function."""
    nodes, directions = spherical_design(31), spherical_design(20)
    slope = torch.tensor([0.2, -0.5, 0.6], dtype=torch.float64)
    found, kappa = GriddedDensity(nodes, 7 * (1 + nodes @ slope)), len(nodes) / math.pi
    expected = 1 + (1 / math.tanh(kappa) - 1 / kappa) * (directions @ slope)
    assert torch.allclose(found.density(directions), expected, atol=0.01)
    assert float(found.probabilities(directions).sum()) == pytest.approx(1)
    assert torch.allclose(found.log_density(directions).exp(), found.density(directions))


@pytest.mark.parametrize("concentration", [0.0, 3.0, 40.0])
def test_smoothing_is_the_normalised_kernel(concentration):
    """Over nodes spread evenly the kernel's sum is its integral ``4π sinh κ / κ`` over a node's share of the sphere."""
    nodes, at = spherical_design(41), spherical_design(5)
    weights = smoothing_weights(nodes, at, concentration)
    kernel = torch.exp(concentration * (at @ nodes.mT))
    mean = math.sinh(concentration) / concentration if concentration else 1.0
    assert torch.allclose(weights, kernel / (mean * len(nodes)), rtol=1e-7)
    assert torch.allclose(weights.sum(1), torch.ones(len(at), dtype=torch.float64))

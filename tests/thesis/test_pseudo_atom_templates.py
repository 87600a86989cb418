import pytest
import torch

from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import polar_templates
from orbitrec.moments.analytic import antipodal_moments, uniform_moments
from orbitrec.thesis.volume_matching.pseudo_atom_templates import PseudoAtomProjector
from orbitrec.volumes.gaussians import GaussianMixture

MAX_RADIUS, COUNT, WIDTH = 9.0, 12, 1.3


def cloud(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = 2.5 * torch.randn(COUNT, 3, generator=generator, dtype=torch.float64)
    return centers, torch.rand(COUNT, generator=generator, dtype=torch.float64) + 0.5


@pytest.mark.parametrize(("box", "dtype"), [(25, torch.float32), (24, torch.float64)])
def test_templates_are_those_of_narrow_gaussians(box, dtype):
    grid, directions = PolarGrid.for_radius(box, 1.2, MAX_RADIUS), spherical_design(7)
    centers, weights = cloud(1)
    points = PseudoAtomProjector(grid, directions, 2 * MAX_RADIUS, dtype).templates(
        centers.to(dtype), weights.to(dtype)
    )
    assert points.real.dtype == dtype
    found = points * torch.exp(-(grid.nodes.to(dtype) * WIDTH).square() / 2)
    mixture = GaussianMixture(centers, torch.full((COUNT,), WIDTH, dtype=torch.float64), weights)
    exact = polar_templates(mixture, grid, directions).transpose(0, 1)
    close = 3e-6 if dtype == torch.float32 else 1e-8
    assert float((found - exact).abs().max()) < close * float(exact.abs().max())


def test_gradients_are_differences():
    grid, directions = PolarGrid.for_radius(24, 1.0, MAX_RADIUS), spherical_design(5)
    projector = PseudoAtomProjector(grid, directions, 2 * MAX_RADIUS, torch.float64)
    centers, weights = cloud(2)
    centers[0] = torch.tensor([0.0, 0.0, 1.0])  # on the axis of a view
    anything = torch.randn(grid.max_mode + 1, len(directions), grid.node_count, dtype=torch.complex128)

    def value(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (projector.templates(x, w) * anything).real.sum()

    assert torch.autograd.gradcheck(value, (centers[1:].requires_grad_(), weights[1:].requires_grad_()), atol=1e-7)
    value(centers.detach().requires_grad_(), weights).backward()


def test_moments_of_half_the_directions_are_those_of_all():
    grid, directions = PolarGrid.for_radius(24, 1.0, MAX_RADIUS), spherical_design(9)
    templates = polar_templates(GaussianMixture(cloud(3)[0], torch.ones(COUNT).double(), cloud(3)[1]), grid, directions)
    density = torch.rand(len(directions), generator=torch.Generator().manual_seed(4), dtype=torch.float64).softmax(0)
    found = antipodal_moments(templates[: len(directions) // 2].transpose(0, 1), density, grid)
    exact = uniform_moments(templates, density, grid)
    assert torch.allclose(found.first, exact.first, atol=1e-12)
    assert torch.allclose(found.second, exact.second, atol=1e-12)
    assert torch.equal(found.weights, exact.weights)

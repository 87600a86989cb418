"""Several objects as one: projector, density and E-step against those of each object, and closed forms."""

import math

import pytest
import torch

from orbitrec.densities.gridded import mixed_with_uniform
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.inference.group_density import EstimatedClasses, GroupDensity
from orbitrec.inference.likelihood import Observations, expectation
from orbitrec.inference.template_bank import TemplateBank
from orbitrec.models.base import Projector
from orbitrec.models.cryoem import PolarProjector, polar_circle
from orbitrec.models.stacked import StackedProjector
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

CLASSES, B = 3, 6


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one(n: int, dtype: torch.dtype) -> PolarProjector:
    grid = PolarGrid.for_radius(n, 1.2, 6.0)
    return PolarProjector(SphericalBesselBasis(6.0, 1.2), grid, spherical_design(5), dtype)


@pytest.mark.parametrize("n", [16, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stacked_projector_is_that_of_each_object(n, dtype):
    single = one(n, dtype)
    stacked = StackedProjector(single, CLASSES)
    assert isinstance(stacked, Projector)
    w = torch.randn(stacked.dimension, generator=seeded(1), dtype=dtype)
    templates = stacked.templates(w)
    assert torch.equal(templates, torch.cat([single.templates(each) for each in w.chunk(CLASSES)]))
    x = torch.randn(templates.shape, generator=seeded(2), dtype=templates.dtype)
    close = {"rel": 2e-4 if dtype == torch.float32 else 1e-10}
    assert (templates.conj() * x).real.sum().item() == pytest.approx((w @ stacked.adjoint(x)).item(), **close)
    weight = torch.rand(len(templates), single.grid.node_count, generator=seeded(3), dtype=dtype)
    normal = stacked.normal(w, weight)
    torch.testing.assert_close(normal, stacked.adjoint(templates * weight[:, None]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(normal, stacked.gram(weight) @ w, rtol=1e-3, atol=1e-4)


def test_the_diagonal_of_equal_weights_is_that_of_each_object():
    single = one(16, torch.float64)
    weight = torch.rand(single.grid.node_count, generator=seeded(3), dtype=torch.float64)
    found = StackedProjector(single, CLASSES).uniform_diagonal(CLASSES * weight)
    torch.testing.assert_close(found, single.uniform_diagonal(weight).repeat(CLASSES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bank_of_several_objects_is_a_mixture_of_their_banks(dtype):
    """log p = log Σ_k π_k p_k, the posterior of an object is π_k p_k / p, and sums are weighted by it."""
    single = one(16, dtype)
    circle = polar_circle(single.grid, 12)
    w = 0.7 * torch.randn(CLASSES * single.dimension, generator=seeded(1), dtype=dtype)
    templates = StackedProjector(single, CLASSES).templates(w)
    shares = torch.tensor([0.5, 0.2, 0.3], dtype=dtype)
    views = torch.randn(CLASSES, len(single.directions), generator=seeded(2), dtype=dtype).log_softmax(1)
    modes = torch.randn(B, 2, *templates.shape[1:], generator=seeded(3), dtype=templates.dtype)
    power = 0.5 + torch.rand(B, single.grid.node_count, generator=seeded(4), dtype=dtype)
    observed = Observations(modes, power, torch.tensor([0.4, 0.6], dtype=dtype).log())

    def bank(of: torch.Tensor, log_views: torch.Tensor) -> TemplateBank:
        return TemplateBank(of, (log_views - math.log(12))[:, None].expand(-1, 12).contiguous(), circle)

    joint = (shares.log()[:, None] + views).flatten()
    statistics, assigned = expectation(observed, bank(templates, joint))
    parts = [expectation(observed, bank(of, own)) for of, own in zip(templates.chunk(CLASSES), views, strict=True)]
    each = torch.stack([part.log_likelihood for _, part in parts], dim=1) + shares.log()
    close = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(assigned.log_likelihood, each.logsumexp(1), **close)
    by_class = assigned.direction.unflatten(1, (CLASSES, -1))
    torch.testing.assert_close(by_class.sum(2), each.softmax(1), **close)
    for k, (_, part) in enumerate(parts):
        weighted = each.softmax(1)[:, k, None] * part.direction
        torch.testing.assert_close(by_class[:, k], weighted, **close)
        torch.testing.assert_close(statistics.second.chunk(CLASSES)[k], weighted.mT @ power, **close)


def test_shares_stay_equal_or_are_estimated():
    density = EstimatedClasses(2, 3, 4, floor=0.25, equal=1.0)
    assert isinstance(density, GroupDensity)
    seen = torch.tensor([6.0, 2.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    occupancy = seen[:, None].expand(-1, 4) / 4
    unknowns = torch.zeros(6, dtype=torch.float64)
    equal = density.updated(unknowns, occupancy, 0.0).exp().reshape(2, 3)
    torch.testing.assert_close(equal.sum(1), torch.full((2,), 0.5, dtype=torch.float64))
    found = EstimatedClasses(2, 3, 4, floor=0.25).updated(unknowns, occupancy, 0.0).exp().reshape(2, 3)
    torch.testing.assert_close(found.sum(1), torch.tensor([0.8, 0.2], dtype=torch.float64))
    torch.testing.assert_close(found[0] / 0.8, mixed_with_uniform(seen[:3], 0.25))
    log = density.log(found.flatten().log())
    assert log.shape == (6, 4)
    assert log.exp().sum().item() == pytest.approx(1)
    gradient = density.gradient(found.flatten().log(), occupancy / 10)
    torch.testing.assert_close(gradient, found.flatten() - seen / 10)

"""Moments of batches: one problem at a time as elsewhere, and the symmetries of the Kam loss (3.13)."""

import math

import pytest
import torch

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import random_rotations
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import shifted_uniform_moments, uniform_moments
from orbitrec.moments.batched import BatchedMoments
from orbitrec.moments.losses import kam_loss
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

BASIS = SphericalBesselBasis(4.0, 1.8)
GRID = PolarGrid(13, 1.7, 9, 9)


def forward(degree, dtype=torch.float64):
    return BatchedMoments(PolarProjector(BASIS, GRID, spherical_design(degree), dtype))


def problem(generator, directions, count=3):
    w = torch.randn(count, len(BASIS), generator=generator, dtype=torch.float64)
    density = torch.rand(count, len(directions), generator=generator, dtype=torch.float64)
    return w, density / density.sum(1, keepdim=True), torch.rand(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_a_batch_is_its_problems_one_by_one(dtype, tolerance):
    model = forward(9, dtype)
    w, density, shift = (x.to(dtype) for x in problem(torch.Generator().manual_seed(1), model.projector.directions))
    batch = model(w, density, shift)
    for i in range(len(w)):
        alone = uniform_moments(model.projector.templates(w[i]), density[i], GRID)
        alone = shifted_uniform_moments(alone, GRID, shift[i])
        for mine, theirs in ((batch.first[i], alone.first), (batch.second[i], alone.second)):
            assert (mine - theirs).abs().max() < tolerance * theirs.abs().max()


def test_the_kam_loss_is_zero_at_the_truth_and_nowhere_near():
    model = forward(9)
    w, density, shift = problem(torch.Generator().manual_seed(2), model.projector.directions)
    truth = model(w, density, shift)
    assert (kam_loss(truth, model(w, density, shift)) == 0).all()
    assert (kam_loss(truth, model(1.05 * w, density, shift)) > 0.05).all()
    assert (kam_loss(truth, model(w, density.flip(1), shift)) > 1e-3).all()
    assert (kam_loss(truth, model(w, density, 2 * shift)) > 1e-3).all()


def test_the_kam_loss_does_not_see_a_common_rotation_of_volume_and_density():
    """Gaussian atoms rotated in closed form, and the means of the views with them; a design of degree 31 is exact."""
    generator = torch.Generator().manual_seed(3)
    model = forward(31)
    directions = model.projector.directions
    turn = random_rotations(1, generator)[0]
    atoms = 1.5 * torch.randn(6, 3, generator=generator, dtype=torch.float64).clamp(-1, 1)
    damping = torch.exp(-BASIS.frequency.square() / 2)
    views = VonMisesFisherMixture.random(generator)
    rotated = VonMisesFisherMixture(views.means @ turn.T, views.concentrations, views.weights)
    w = torch.stack([(BASIS.values(a) * damping).sum(0) for a in (atoms, atoms @ turn.T)])
    density = torch.stack([v.density(directions) for v in (views, rotated)])
    density = density / density.sum(1, keepdim=True)
    shift = torch.full((1,), 0.7).double()
    one, other = (model(w[i : i + 1], density[i : i + 1], shift) for i in (0, 1))
    assert float(kam_loss(one, other)) < 1e-5
    assert float(kam_loss(one, model(w[1:], density[:1], shift))) > 0.02


def test_the_kam_loss_does_not_see_the_hand():
    """A volume reflected in the origin, whose images turn by half a turn; from opposite directions it differs."""
    model = forward(9)
    w, density, shift = problem(torch.Generator().manual_seed(4), model.projector.directions)
    degree = BASIS.lm.double().sqrt().floor()
    mirrored = w * (1 - 2 * (degree % 2))
    opposite = torch.cat(density.chunk(2, dim=1)[::-1], dim=1)
    truth = model(w, density, shift)
    assert (kam_loss(truth, model(mirrored, density, shift)) < 1e-12).all()
    assert (kam_loss(truth, model(mirrored, opposite, shift)) > 1e-3).all()


def test_gradients_of_the_kam_loss():
    model = forward(3)
    generator = torch.Generator().manual_seed(5)
    w, density, shift = problem(generator, model.projector.directions, count=1)
    target = model(*problem(generator, model.projector.directions, count=1))
    inputs = tuple(x.requires_grad_() for x in (w[:, :12].clone(), density, shift))

    def loss(some, density, shift):
        return kam_loss(target, model(torch.cat([some, w[:, 12:].detach()], dim=1), density, shift))

    assert torch.autograd.gradcheck(loss, inputs, atol=1e-6, rtol=1e-5)
    assert math.isfinite(float(loss(*inputs).detach()))

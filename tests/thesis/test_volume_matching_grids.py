"""The polar and the Cartesian form of the same matching problem, and the polar one on shells."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from oracles import shifted_cartesian_moments
from orbitrec.errors import InputError
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import design_circle_rule, spherical_design
from orbitrec.models.cryoem import PolarProjector, polar_templates
from orbitrec.moments.analytic import Moments, bounded_spread, shifted_uniform_moments, uniform_moments
from orbitrec.moments.losses import kam_loss, moment_loss, relative_errors
from orbitrec.thesis.encoders import CartesianMomentEncoder
from orbitrec.thesis.volume_matching import neural
from orbitrec.thesis.volume_matching.grids import CartesianMomentGrid, PolarMomentGrid, ShellMomentGrid
from orbitrec.thesis.volume_matching.neural import NeuralMatching, match_neural, recon_loss
from orbitrec.volumes.fourier_net import FourierNet
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis
from orbitrec.volumes.summed import SummedVolume

N, DEGREE, ANGLES, SHIFT_PX = 19, 3, 20, 0.6
DIRECTIONS = spherical_design(DEGREE)
POLAR = PolarMomentGrid(PolarGrid(N, math.pi, 20, 18), DIRECTIONS)
CARTESIAN = CartesianMomentGrid(N, design_circle_rule(DEGREE, ANGLES).reshape(-1, 3, 3))
TRUE_CENTERS = torch.tensor([[2.0, -1.0, 1.0], [-1.0, 2.0, -1.5], [0.5, 0.5, 2.0]], dtype=torch.float64)


def atoms(centers: torch.Tensor, weights: torch.Tensor) -> GaussianMixture:
    # Wide enough that nothing is left at Nyquist, narrow enough that nothing leaves the box.
    return GaussianMixture(centers, torch.full((3,), 1.4, dtype=torch.float64), weights)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss_and_gradients(grid: PolarMomentGrid | CartesianMomentGrid, kam: bool) -> tuple[float, list[torch.Tensor]]:
    """Loss of wrong atoms, views and shift against the true ones, and its gradients in all of them."""
    generator = seeded(1)
    centers = nn.Parameter(TRUE_CENTERS + 0.5 * torch.randn(3, 3, generator=generator, dtype=torch.float64))
    weights = nn.Parameter(torch.tensor([1.0, 2.0, 1.5], dtype=torch.float64))
    views = nn.Parameter(torch.randn(len(DIRECTIONS), generator=generator, dtype=torch.float64))
    spread = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    repeats = len(grid.rotations) // len(DIRECTIONS) if isinstance(grid, CartesianMomentGrid) else 1

    def shifted(moments: Moments, eta: torch.Tensor) -> Moments:
        if isinstance(grid, CartesianMomentGrid):
            return shifted_cartesian_moments(moments, grid.plane, eta)
        return shifted_uniform_moments(moments, grid.grid, eta)

    def spread_out(logits: torch.Tensor) -> torch.Tensor:
        return logits.repeat_interleave(repeats)

    truth = atoms(TRUE_CENTERS, torch.tensor([1.5, 1.5, 1.5], dtype=torch.float64)).fourier(grid.points)
    even = spread_out(torch.zeros(len(DIRECTIONS), dtype=torch.float64)).softmax(0)
    target = shifted(grid.moments(truth, even), torch.tensor(SHIFT_PX, dtype=torch.float64))
    distance = (lambda moments: kam_loss(target, moments)) if kam else recon_loss(target, 0.7)

    class Moving:
        def fourier(self, points: torch.Tensor) -> torch.Tensor:
            return atoms(centers, weights).fourier(points)

        def to_grid(self, n: int) -> torch.Tensor:
            raise NotImplementedError

    problem = NeuralMatching(
        grid,
        lambda moments: distance(shifted(moments, bounded_spread(spread, 2.0))),
        Moving(),
        lambda: spread_out(views),
        [centers, weights, views, spread],
    )
    loss = problem.backward()
    gradients = [parameter.grad for parameter in problem.parameters]
    assert all(gradient is not None for gradient in gradients)
    return loss, [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("kam", [False, True])
def test_loss_and_gradients_are_the_same_on_both_grids(kam):
    polar, cartesian = loss_and_gradients(POLAR, kam), loss_and_gradients(CARTESIAN, kam)
    assert polar[0] == pytest.approx(cartesian[0], rel=1e-4)
    for a, b in zip(polar[1], cartesian[1], strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-3
    assert len(CARTESIAN.points) > 20 * len(POLAR.points)


def test_half_circles_of_every_other_direction_give_all_templates():
    volume = atoms(TRUE_CENTERS, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    found = POLAR.templates(volume.fourier(POLAR.points))
    assert torch.allclose(found, polar_templates(volume, POLAR.grid, DIRECTIONS), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shells_give_the_moments_of_circles_with_a_fraction_of_the_points(dtype):
    # Gaussians 1.4 px wide within 4 px of the centre are nothing, to rounding, outside of 12 px.
    grid = PolarGrid.for_radius(24, 2.0, 9.0)
    directions, volume = spherical_design(31), atoms(TRUE_CENTERS, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    basis = SphericalBesselBasis(12.0, 2.0 + math.pi / 12)
    shells = ShellMomentGrid(PolarProjector(basis, grid, directions, dtype))
    values = volume.fourier(shells.points).to(dtype.to_complex())
    exact, tolerance = polar_templates(volume, grid, directions), 1e-4 if dtype == torch.float64 else 2e-4
    assert float((shells.templates(values) - exact[: len(exact) // 2]).norm() / exact.norm()) < tolerance
    density = torch.randn(len(directions), generator=seeded(4), dtype=torch.float64).mul(0.5).softmax(0)
    found, expected = shells.moments(values, density.to(dtype)), uniform_moments(exact, density, grid)
    assert all(float(error) < tolerance for error in relative_errors(expected, found))
    assert len(shells.points) < 0.1 * len(PolarMomentGrid(grid, directions).points)


def test_gradients_on_shells_are_those_on_circles():
    grid = PolarGrid.for_radius(24, 1.5, 9.0)
    directions = spherical_design(21)
    basis = SphericalBesselBasis(12.0, 1.5 + math.pi / 12)
    shells = ShellMomentGrid(PolarProjector(basis, grid, directions, torch.float64))
    circles, density = PolarMomentGrid(grid, directions), torch.full((len(directions),), 1.0 / len(directions)).double()
    target = circles.moments(atoms(TRUE_CENTERS, torch.ones(3).double()).fourier(circles.points), density)
    found = []
    for one in (shells, circles):
        centers = (TRUE_CENTERS * 0.8).requires_grad_()
        values = atoms(centers, torch.tensor([1.0, 1.2, 0.8], dtype=torch.float64)).fourier(one.points)
        loss = kam_loss(target, one.moments(values, density))
        found.append((float(loss.detach()), torch.autograd.grad(loss, centers)[0]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert float((found[0][1] - found[1][1]).norm() / found[1][1].norm()) < 1e-3


def test_shells_of_too_high_a_degree_are_refused():
    grid = PolarGrid.for_radius(64, 3.0, 24.0)
    shells = ShellMomentGrid(PolarProjector(SphericalBesselBasis(24.0, 3.1), grid, DIRECTIONS))
    with pytest.raises(InputError, match="no spherical design"):
        shells.points  # noqa: B018


def test_unpaired_directions_are_refused():
    with pytest.raises(InputError, match="antipodal"):
        PolarMomentGrid(POLAR.grid, DIRECTIONS[:-1])


def test_a_network_and_an_encoder_match_moments_on_the_cartesian_grid():
    # As printed: the encoder sees the target's moments and gives z_ρ, a FourierNet is the volume.
    n = 7
    grid = CartesianMomentGrid(n, design_circle_rule(3, 2).reshape(-1, 3, 3))
    generator = seeded(2)
    nodes = len(grid.rotations)
    truth = atoms(TRUE_CENTERS / 2, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).fourier(grid.points.float())
    target = grid.moments(truth, torch.randn(nodes, generator=generator).softmax(0))
    encoder = CartesianMomentEncoder(n, nodes, generator)
    volume = FourierNet(2.0, generator, scale=6.0, width=8)
    parameters = [*encoder.parameters(), *volume.parameters()]
    problem = NeuralMatching(grid, recon_loss(target), volume, lambda: encoder(target), parameters)
    losses: list[float] = []
    match_neural(problem, [1e-3] * 40, lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] > float(moment_loss(target, problem.moments())) * 0.5
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in parameters)
    with pytest.raises(InputError, match="7 px"):
        encoder(Moments(target.first[:, :-1], target.second[:, :-1, :-1], target.weights))


def test_gradients_do_not_depend_on_how_many_points_are_taken_at_once(monkeypatch):
    generator = seeded(3)
    volume = FourierNet(3.0, generator, scale=6.0, width=4).double()
    logits = nn.Parameter(torch.randn(len(DIRECTIONS), generator=generator, dtype=torch.float64))
    truth = atoms(TRUE_CENTERS, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).fourier(POLAR.points)
    target = POLAR.moments(truth, logits.detach().softmax(0).flip(0))
    parameters = [*volume.parameters(), logits]
    problem = NeuralMatching(POLAR, recon_loss(target), volume, lambda: logits, parameters)

    def gradient(problem: NeuralMatching, size: int) -> torch.Tensor:
        monkeypatch.setattr(neural, "POINTS_AT_ONCE", size)
        for parameter in parameters:
            parameter.grad = None
        problem.backward()
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

    gradients = [gradient(problem, size) for size in (100, 10**6)]
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9)
    # A first part that is held is the same as a sum's (3.11).
    coarse = atoms(TRUE_CENTERS + 1, torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
    held = replace(problem, held=coarse.fourier(POLAR.points))
    summed = gradient(replace(problem, volume=SummedVolume(coarse, volume)), 10**6)
    assert not torch.allclose(summed, gradients[0], rtol=1e-3)
    for size in (100, 10**6):
        assert torch.allclose(gradient(held, size), summed, rtol=1e-9)
    # And they are the loss's own: a central difference along a random direction.
    direction, step = torch.randn(gradients[0].shape, generator=generator, dtype=torch.float64), 1e-6
    values = []
    for sign in (1, -1):
        moved = torch.nn.utils.parameters_to_vector(parameters) + sign * step * direction
        torch.nn.utils.vector_to_parameters(moved, parameters)
        values.append(float(moment_loss(target, problem.moments())))
        torch.nn.utils.vector_to_parameters(moved - sign * step * direction, parameters)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradients[0] @ direction), rel=1e-4)

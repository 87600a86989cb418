import math
from itertools import pairwise

import pytest
import torch

from oracles import cartesian_templates
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import design_circle_rule, spherical_design
from orbitrec.models.base import Circle
from orbitrec.models.cryoem import polar_templates
from orbitrec.moments.analytic import Moments, full_moments, uniform_moments
from orbitrec.moments.losses import kam_loss, moment_loss, orbit_error, relative_errors
from orbitrec.volumes.gaussians import GaussianMixture

N, DEGREE, ANGLES = 24, 7, 36
NONE = Circle(torch.tensor([0]), 1)


def atoms(seed: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(4, 3, generator=generator, dtype=torch.float64).clamp(-1.5, 1.5)
    return GaussianMixture(centers, torch.full((4,), 1.8, dtype=torch.float64), torch.ones(4, dtype=torch.float64))


def views(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(0)


def moments(seed: int) -> Moments:
    a = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128)
    return Moments(a[:, 0], a @ a.mH, torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64))


def test_polar_losses_are_the_cartesian_ones_to_the_quadratures_error():
    directions = spherical_design(DEGREE)
    rotations = design_circle_rule(DEGREE, ANGLES).flatten(0, 1)
    problems = [(atoms(seed), views(seed, len(directions))) for seed in (1, 2)]
    cartesian = [
        full_moments(cartesian_templates(v, N, rotations), rho.repeat_interleave(ANGLES)[:, None] / ANGLES, NONE)
        for v, rho in problems
    ]
    expected = torch.stack([moment_loss(*cartesian, balance=0.3), kam_loss(*cartesian)])
    errors = []
    for nodes, modes in ((5, 5), (10, 10), (15, 15), (22, 22)):
        grid = PolarGrid(N, math.pi, nodes, modes)
        polar = [uniform_moments(polar_templates(v, grid, directions), rho, grid) for v, rho in problems]
        found = torch.stack([moment_loss(*polar, balance=0.3), kam_loss(*polar)])
        errors.append(float(((found - expected) / expected).abs().max()))
    # The quadrature's own error: from tens of per cent to rounding as nodes and modes are added.
    assert errors[0] > 1e-2
    assert all(more < less / 5 for less, more in pairwise(errors)), errors
    assert errors[-1] < 1e-6


def test_norms_are_those_the_docstrings_state():
    a, b = moments(3), moments(4)
    first = (a.first - b.first).norm()
    second = sum(w * (x - y).norm() ** 2 for w, x, y in zip(a.weights, a.second, b.second, strict=True)) ** 0.5
    assert float(moment_loss(a, b)) == pytest.approx(float(first + second))
    assert float(moment_loss(a, b, balance=0.1)) == pytest.approx(float(first + 0.1 * second))
    scale = sum(w * x.norm() ** 2 for w, x in zip(a.weights, a.second, strict=True)) ** 0.5
    assert float(relative_errors(a, b)[0]) == pytest.approx(float(first / a.first.norm()))
    assert float(kam_loss(a, b)) == pytest.approx(float(first / a.first.norm() + second / scale))
    assert float(kam_loss(b, a)) != pytest.approx(float(kam_loss(a, b)))


def test_losses_of_equal_moments_are_zero_and_a_zero_model_has_relative_error_one():
    a = moments(5)
    assert float(moment_loss(a, a)) == 0
    zero = a - a
    assert [float(e) for e in relative_errors(a, zero)] == pytest.approx([1, 1])
    assert float(kam_loss(a, zero)) == pytest.approx(2)


def test_gradients_reach_templates_and_density():
    grid = PolarGrid(16, 1.5, 3, 4)
    templates = polar_templates(atoms(6), grid, spherical_design(3)).requires_grad_()
    logits = torch.zeros(len(templates), dtype=torch.float64, requires_grad=True)
    target = uniform_moments(polar_templates(atoms(7), grid, spherical_design(3)), views(7, len(templates)), grid)

    def loss(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return kam_loss(target, uniform_moments(t, x.softmax(0), grid))

    assert torch.autograd.gradcheck(loss, (templates, logits))


def fourier_shifted(signal, by):
    """Trigonometric interpolation; ``by`` in samples."""
    k = torch.fft.rfftfreq(signal.shape[-1], dtype=torch.float64) * 2 * torch.pi
    return torch.fft.irfft(torch.fft.rfft(signal) * torch.exp(-1j * k * by), n=signal.shape[-1])


def without_nyquist(signal):
    n = signal.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(signal)[..., : (n + 1) // 2], n=n)


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orbit_error_is_the_infimum_over_all_shifts(n, dtype):
    """Against the minimum over shifts by 1/500 sample, which is above the infimum by less than 1e-4."""
    generator = torch.Generator().manual_seed(6)
    truth, estimate = without_nyquist(torch.randn(2, 5, n, generator=generator, dtype=torch.float64))
    shifts = torch.stack([fourier_shifted(truth, s / 500) for s in range(500 * n)])
    expected = ((shifts - estimate).norm(dim=-1) / truth.norm(dim=-1)).amin(0)
    error = orbit_error(estimate.to(dtype), truth.to(dtype)).double()
    torch.testing.assert_close(error, expected, atol=1e-4, rtol=0)
    assert (error < expected + 1e-5).all()


@pytest.mark.parametrize("n", [8, 9])
def test_orbit_error_does_not_see_shifts_of_either_and_keeps_small_errors(n):
    generator = torch.Generator().manual_seed(7)
    truth = without_nyquist(torch.randn(4, n, generator=generator, dtype=torch.float64))
    estimate = truth + 1e-9 * torch.randn(4, n, generator=generator, dtype=torch.float64)
    expected = orbit_error(estimate, truth)
    assert (expected < (estimate - truth).norm(dim=-1) / truth.norm(dim=-1) + 1e-15).all()
    assert (expected > 1e-10).all()
    for s in range(n):
        torch.testing.assert_close(orbit_error(torch.roll(estimate, s, dims=1), truth), expected, atol=1e-14, rtol=0)
        torch.testing.assert_close(orbit_error(estimate, torch.roll(truth, s, dims=1)), expected, atol=1e-14, rtol=0)
    assert (orbit_error(fourier_shifted(truth, 2.37), truth) < 1e-7).all()


def test_orbit_error_is_differentiable_in_the_estimate():
    generator = torch.Generator().manual_seed(8)
    truth, estimate = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda u: orbit_error(u, truth), estimate.requires_grad_())

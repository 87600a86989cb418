import math
from itertools import pairwise

import pytest
import torch

from oracles import cartesian_templates
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import frequencies, radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import direction_frames, in_plane, random_rotations
from orbitrec.inference.likelihood import Observations, expectation, posterior, scores
from orbitrec.inference.template_bank import TemplateBank
from orbitrec.models.base import Circle
from orbitrec.models.cryoem import PolarProjector, polar_circle, polar_templates
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

ANGLES = 8
ATOMS = GaussianMixture(
    torch.tensor([[3.0, -1.5, 1.0], [-2.0, 2.5, 0.5], [0.0, -2.0, -2.5]], dtype=torch.float64),
    torch.tensor([1.7, 2.0, 1.8], dtype=torch.float64),
    torch.tensor([20.0, 30.0, 15.0], dtype=torch.float64),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, n: int) -> torch.Tensor:
    generator = seeded(1)
    rotations = random_rotations(count, generator)
    simulation = ParticleSimulation(ATOMS, n, 1.0, rotations, torch.zeros(count, 2, dtype=torch.float64))
    clean = simulation.clean(torch.arange(count), torch.float64)
    return clean + torch.randn(count, n, n, generator=generator, dtype=torch.float64)


def contrast(k: torch.Tensor) -> torch.Tensor:
    """A CTF and an envelope that spread the signal by two pixels at most."""
    return torch.exp(-0.2 * k.square()) * torch.sin(0.4 + 0.3 * k.square())


def observations(modes: torch.Tensor, power: torch.Tensor) -> Observations:
    return Observations(
        modes[:, None], power.expand(len(modes), -1).contiguous(), torch.zeros(1, dtype=modes.real.dtype)
    )


@pytest.mark.parametrize("n", [24, 25])
def test_polar_scores_and_posterior_are_the_cartesian_ones_to_the_quadratures_error(n):
    directions = spherical_design(5)
    log_density = torch.randn(len(directions), ANGLES, generator=seeded(2), dtype=torch.float64)
    log_density -= log_density.logsumexp((0, 1))
    pixels = images(6, n)

    k = radial_frequencies(n).reshape(-1)
    # The content rotated by α is the view from the frame rotated by psi = −α.
    in_plane_angles = Circle(torch.tensor([0]), ANGLES).in_plane_angles
    rotations = (direction_frames(directions)[:, None] @ in_plane(-in_plane_angles)).flatten(0, 1)
    transform = centred_fft(pixels) * contrast(k).reshape(n, n)
    filtered = centred_ifft(transform).real
    flat = scores(
        observations(transform.reshape(len(pixels), 1, -1), contrast(k).square()),
        TemplateBank(
            cartesian_templates(ATOMS, n, rotations), log_density.reshape(-1, 1), Circle(torch.tensor([0]), 1)
        ),
    )
    expected = flat.reshape(len(pixels), 1, len(directions), ANGLES)
    expected_posterior, expected_likelihood = posterior(expected.clone())

    errors = []
    for nodes, modes in ((8, 8), (14, 14), (20, 20), (30, 24)):
        grid = PolarGrid(n, math.pi, nodes, modes)
        observed = observations(grid.from_images(filtered), contrast(grid.nodes).square())
        found = scores(
            observed,
            TemplateBank(polar_templates(ATOMS, grid, directions), log_density, polar_circle(grid, ANGLES)),
        )
        errors.append(float((found - expected).abs().max() / expected.std()))
        p, likelihood = posterior(found)
    # The quadrature's own error falls as nodes and modes are added.
    assert all(more < less / 3 for less, more in pairwise(errors)), errors
    assert errors[-1] < 1e-4
    assert torch.allclose(p, expected_posterior, atol=1e-2)
    assert torch.allclose(likelihood, expected_likelihood, atol=1e-2)
    assert float(p.amax()) > 0.2
    assert torch.allclose(p.sum((1, 2, 3)), torch.ones(len(pixels), dtype=p.dtype))


def test_expectation_maximisation_never_decreases_the_likelihood():
    grid = PolarGrid.for_radius(24, 0.9, 8.0)
    basis = SphericalBesselBasis(7.0, 0.9)
    directions = spherical_design(7)
    projector = PolarProjector(basis, grid, directions, torch.float64)
    circle = polar_circle(grid, 24)
    h = contrast(grid.nodes)
    observed = observations(grid.from_images(images(80, 24)) * h, h.square())
    w = 3 * torch.randn(len(basis), generator=seeded(3), dtype=torch.float64)
    log_density = torch.full((len(directions), circle.angles), -math.log(len(directions) * circle.angles)).double()
    history = []
    for _ in range(12):
        found, _ = expectation(observed, TemplateBank(projector.templates(w), log_density, circle))
        history.append(found.log_likelihood)
        # M-step: the exact minimiser of the quadratic, and the occupancy.
        unit = torch.eye(len(basis), dtype=torch.float64)
        normal = torch.stack([projector.normal(row, found.second) for row in unit])
        w = torch.linalg.lstsq(normal, projector.adjoint(found.first), driver="gelsd").solution
        log_density = (found.occupancy / found.occupancy.sum()).clamp(min=1e-300).log()
    steps = torch.tensor(history).diff()
    assert float(steps.min()) > -1e-9 * abs(history[-1])
    assert history[-1] - history[0] > 10


@pytest.mark.parametrize("n", [9, 10])
def test_expectation_maximisation_of_windowed_alignment_never_decreases_the_likelihood(n):
    # One direction for each of the n shifts, no circle, a known density; the M-step is a weighted mean.
    window, count, none = 6, 300, Circle(torch.tensor([0]), 1)
    generator = seeded(5)
    index = (torch.arange(n)[:, None] + torch.arange(window)) % n  # sample seen at each place of each window
    density = torch.rand(n, generator=generator, dtype=torch.float64).softmax(0)
    truth = 2 * torch.randn(n, generator=generator, dtype=torch.float64)
    seen = truth[index[torch.multinomial(density, count, replacement=True, generator=generator)]]
    seen = seen + torch.randn(count, window, generator=generator, dtype=torch.float64)
    observed = observations(seen[:, None].to(torch.complex128), torch.ones(1, window, dtype=torch.float64))
    x, history = torch.randn(n, generator=generator, dtype=torch.float64), []
    for _ in range(60):
        found, _ = expectation(
            observed, TemplateBank(x[index][:, None].to(torch.complex128), density.log()[:, None], none)
        )
        history.append(found.log_likelihood)
        total, weight = (
            torch.zeros_like(x).index_put_((index,), v, accumulate=True) for v in (found.first[:, 0].real, found.second)
        )
        x = total / weight
    steps = torch.tensor(history).diff()
    assert float(steps.min()) > -1e-10 * abs(history[-1])
    assert history[-1] - history[0] > 100
    at_truth, _ = expectation(
        observed, TemplateBank(truth[index][:, None].to(torch.complex128), density.log()[:, None], none)
    )
    assert history[-1] > at_truth.log_likelihood - n


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("n", [9, 10])
def test_alignment_of_signals_scores_every_shift(n, dtype, tolerance):
    # log ρ_s − ½ ‖y − shifted by s‖² + ½ ‖y‖², from the samples; modes −n/2 … n/2, of either sign.
    generator = seeded(6)
    signal = torch.randn(n, generator=generator, dtype=torch.float64)
    seen = torch.randn(5, n, generator=generator, dtype=torch.float64)
    log_density = torch.randn(n, generator=generator, dtype=torch.float64).log_softmax(0)
    shifted = torch.stack([signal.roll(s) for s in range(n)])
    expected = log_density - (seen[:, None] - shifted).square().sum(2) / 2 + seen.square().sum(1, keepdim=True) / 2
    modes = centred_fft(torch.cat([signal[None], seen]), ndim=1).to(dtype.to_complex())
    observed = observations(modes[1:, :, None], torch.ones(1, 1, dtype=dtype))
    circle = Circle(torch.arange(n) - n // 2, n)
    found = scores(observed, TemplateBank(modes[:1, :, None], log_density[None].to(dtype), circle))
    assert found.dtype == dtype
    assert float((found[:, 0, 0] - expected).abs().max()) < tolerance * float(expected.abs().max())


def test_posterior_adds_up_to_one_at_any_magnitude():
    score = torch.randn(4, 3, 5, generator=seeded(7), dtype=torch.float64)
    offset = torch.tensor([0.0, 5e3, -5e3, 1e6], dtype=torch.float64)
    p, likelihood = posterior(score + offset[:, None, None])
    assert torch.allclose(p, score.flatten(1).softmax(1).reshape(score.shape), atol=1e-9)
    assert torch.allclose(p.sum((1, 2)), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(likelihood - offset, score.logsumexp((1, 2)), atol=1e-9)


def test_displacements_of_polar_modes_are_those_of_cartesian_coefficients():
    # Undoing a shift is e^{+ik·s} in every pixel of the transform, and a phase on the circle on the polar grid.
    n, directions, none = 32, spherical_design(3), Circle(torch.tensor([0]), 1)
    pixels = images(4, n)
    shifts = torch.tensor([[0.0, 0.0], [1.2, -0.5], [-0.3, 1.6]], dtype=torch.float64)
    k = frequencies(n)
    phase = torch.exp(1j * (shifts[:, 1, None, None] * k[:, None] + shifts[:, 0, None, None] * k))
    moved = (centred_fft(pixels)[:, None] * phase).reshape(len(pixels), len(shifts), 1, -1)
    log_shift = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    uniform = torch.full((len(directions), 1), -math.log(len(directions)), dtype=torch.float64)
    cartesian = Observations(moved, torch.ones(len(pixels), n * n, dtype=torch.float64), log_shift)
    expected = scores(
        cartesian, TemplateBank(cartesian_templates(ATOMS, n, direction_frames(directions)), uniform, none)
    )
    # Modes of the noise up to the largest that a shift of 1.6 px brings to the templates' own.
    grid = PolarGrid(n, math.pi, 36, 36)
    modes = grid.shift(grid.from_images(pixels), -shifts)
    polar = Observations(modes, torch.ones(len(pixels), grid.node_count, dtype=torch.float64), log_shift)
    found = scores(polar, TemplateBank(polar_templates(ATOMS, grid, directions), uniform, polar_circle(grid, 1)))
    assert float((found - expected).abs().max() / expected.std()) < 1e-4

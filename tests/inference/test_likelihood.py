import math
from itertools import pairwise

import torch

from orbitrec.geometry.fourier import centred_fft, centred_ifft, radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import direction_frames, in_plane, random_rotations
from orbitrec.inference.likelihood import Observations, expectation, posterior, scores
from orbitrec.models.base import Circle
from orbitrec.models.cryoem import PolarProjector, cartesian_templates, polar_circle, polar_templates
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

N, ANGLES = 24, 8
ATOMS = GaussianMixture(
    torch.tensor([[3.0, -1.5, 1.0], [-2.0, 2.5, 0.5], [0.0, -2.0, -2.5]], dtype=torch.float64),
    torch.tensor([1.7, 2.0, 1.8], dtype=torch.float64),
    torch.tensor([20.0, 30.0, 15.0], dtype=torch.float64),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int) -> torch.Tensor:
    generator = seeded(1)
    rotations = random_rotations(count, generator)
    simulation = ParticleSimulation(ATOMS, N, 1.0, rotations, torch.zeros(count, 2, dtype=torch.float64))
    clean = simulation.clean(torch.arange(count), torch.float64)
    return clean + torch.randn(count, N, N, generator=generator, dtype=torch.float64)


def contrast(k: torch.Tensor) -> torch.Tensor:
    """A CTF and an envelope that spread the signal by two pixels at most."""
    return torch.exp(-0.2 * k.square()) * torch.sin(0.4 + 0.3 * k.square())


def observations(modes: torch.Tensor, power: torch.Tensor) -> Observations:
    return Observations(
        modes[:, None], power.expand(len(modes), -1).contiguous(), torch.zeros(1, dtype=modes.real.dtype)
    )


def test_polar_scores_and_posterior_are_the_cartesian_ones_to_the_quadratures_error():
    directions = spherical_design(5)
    log_density = torch.randn(len(directions), ANGLES, generator=seeded(2), dtype=torch.float64)
    log_density -= log_density.logsumexp((0, 1))
    pixels = images(6)

    k = radial_frequencies(N).reshape(-1)
    # The content turned by α is the view from the frame turned by psi = −α.
    alphas = Circle(torch.tensor([0]), ANGLES).alphas
    rotations = (direction_frames(directions)[:, None] @ in_plane(-alphas)).flatten(0, 1)
    transform = centred_fft(pixels) * contrast(k).reshape(N, N)
    filtered = centred_ifft(transform).real
    flat = scores(
        observations(transform.reshape(len(pixels), 1, -1), contrast(k).square()),
        cartesian_templates(ATOMS, N, rotations),
        log_density.reshape(-1, 1),
        Circle(torch.tensor([0]), 1),
    )
    expected = flat.reshape(len(pixels), 1, len(directions), ANGLES)
    expected_posterior, expected_likelihood = posterior(expected.clone())

    errors = []
    for nodes, modes in ((8, 8), (14, 14), (20, 20), (30, 24)):
        grid = PolarGrid(N, math.pi, nodes, modes)
        observed = observations(grid.from_images(filtered), contrast(grid.nodes).square())
        found = scores(observed, polar_templates(ATOMS, grid, directions), log_density, polar_circle(grid, ANGLES))
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
    grid = PolarGrid.for_radius(N, 0.9, 8.0)
    basis = SphericalBesselBasis(7.0, 0.9)
    directions = spherical_design(7)
    projector = PolarProjector(basis, grid, directions, torch.float64)
    circle = polar_circle(grid, 24)
    h = contrast(grid.nodes)
    observed = observations(grid.from_images(images(80)) * h, h.square())
    w = 3 * torch.randn(len(basis), generator=seeded(3), dtype=torch.float64)
    log_density = torch.full((len(directions), circle.angles), -math.log(len(directions) * circle.angles)).double()
    history = []
    for _ in range(12):
        found, _ = expectation(observed, projector.templates(w), log_density, circle)
        history.append(found.log_likelihood)
        # M-step: the exact minimiser of the quadratic, and the occupancy.
        unit = torch.eye(len(basis), dtype=torch.float64)
        normal = torch.stack([projector.normal(row, found.second) for row in unit])
        w = torch.linalg.lstsq(normal, projector.adjoint(found.first), driver="gelsd").solution
        log_density = (found.occupancy / found.occupancy.sum()).clamp(min=1e-300).log()
    steps = torch.tensor(history).diff()
    assert float(steps.min()) > -1e-9 * abs(history[-1])
    assert history[-1] - history[0] > 10

import math

import pytest
import torch

from oracles import TWO_CAPS
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import polar_templates
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.moments.analytic import Moments, shifted_uniform_moments, uniform_moments
from orbitrec.moments.estimator import MomentAccumulator
from orbitrec.moments.matching import MomentTarget, match_moments
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

N, RADIUS, K_MAX, SHIFT_PX = 32, 9.0, 1.0, 1.2
ATOMS = GaussianMixture(
    torch.tensor([[4.0, 0.0, 0.0], [-2.0, 3.0, 1.0], [0.0, -3.0, -3.0], [-1.0, -1.0, 4.0]], dtype=torch.float64),
    torch.full((4,), 1.5, dtype=torch.float64),
    torch.tensor([30.0, 45.0, 25.0, 40.0], dtype=torch.float64),
)
GRID = PolarGrid(N, K_MAX, 12, 12)
BASIS = SphericalBesselBasis(RADIUS, K_MAX + math.pi / RADIUS)
DIRECTIONS = spherical_design(2 * BASIS.degree + 3)


def exact_moments() -> Moments:
    density = TWO_CAPS.density(DIRECTIONS)
    still = uniform_moments(polar_templates(ATOMS, GRID, DIRECTIONS), density / density.sum(), GRID)
    return shifted_uniform_moments(still, GRID, torch.tensor(SHIFT_PX))


def correlation(coefficients: torch.Tensor) -> float:
    """With the truth, both cut to the frequencies that were matched, after rotation and choice of hand."""
    found, truth = SphericalBesselVolume(BASIS, coefficients).to_grid(N), ATOMS.to_grid(N)
    aligned = align(found, truth).apply(found)
    below = radial_frequencies(N, 3) < K_MAX
    cut = [centred_ifft(centred_fft(v, 3) * below, 3).real.flatten() for v in (aligned, truth)]
    return float(torch.corrcoef(torch.stack(cut))[0, 1])


def test_exact_moments_give_the_volume_the_shift_and_uneven_views():
    # Trusted so much that the prior does not pull the shift.
    target = MomentTarget.exact(exact_moments(), GRID, 1e7)
    generator = torch.Generator().manual_seed(0)
    best, other = match_moments(target, BASIS, DIRECTIONS, generator=generator, starts=2)
    assert best.loss <= other.loss < 1e-3
    assert best.shift_px == pytest.approx(SHIFT_PX, abs=0.15)
    assert float(best.log_density.logsumexp(0)) == pytest.approx(0)
    density = TWO_CAPS.density(DIRECTIONS)
    assert float(best.log_density.exp().std() / (density / density.sum()).std()) == pytest.approx(1, abs=0.5)
    found = correlation(best.coefficients)
    assert found > 0.85
    # What the spectrum alone gives: the same size of coefficients, at random.
    random = best.coefficients * torch.randn(len(BASIS), generator=generator, dtype=torch.float64).sign()
    assert correlation(random) < found - 0.2


def test_moments_of_noisy_shifted_particles_give_the_volume():
    generator, count = torch.Generator().manual_seed(2), 4000
    rotations, shifts = random_poses(count, generator, views=TWO_CAPS, shift_px=SHIFT_PX)
    images = ParticleSimulation(ATOMS, N, 1.0, rotations, shifts).clean(torch.arange(count))
    images += torch.randn(images.shape, generator=generator)
    accumulator = MomentAccumulator.empty(GRID)
    accumulator.update(GRID.from_images(images), torch.ones(count, GRID.node_count))
    best = match_moments(
        MomentTarget.estimated(accumulator), BASIS, DIRECTIONS, generator=generator, starts=2, iterations=200
    )[0]
    assert best.shift_px == pytest.approx(SHIFT_PX, abs=0.4)
    assert correlation(best.coefficients) > 0.7


def test_misfit_counts_half_for_every_degree_of_freedom():
    # Minus a Gaussian log-likelihood: errors of the assumed variances give ½ for each real number that is known.
    nodes, modes, count = 3, 4, 1e4
    grid = PolarGrid(64, 1.0, nodes, modes)  # nodes so far apart that nearly all count
    generator, values = torch.Generator().manual_seed(3), []
    zero = torch.zeros(modes + 1, nodes, nodes, dtype=torch.complex128)
    moments = Moments(zero[0].expand(modes + 1, -1, -1)[:, 0], zero, grid.mode_weights.pow(-2))
    target = MomentTarget(moments, grid, torch.ones(modes + 1, nodes, dtype=torch.float64), count)
    for _ in range(2000):
        samples = torch.randn(modes + 1, nodes, 100, generator=generator, dtype=torch.complex128)
        samples[0] = samples[0].real * math.sqrt(2)  # mode 0 is real, of the same variance
        second = (samples @ samples.mH / 100 - torch.eye(nodes)) * math.sqrt(100 / count)
        first = torch.zeros(modes + 1, nodes, dtype=torch.complex128)
        first[0] = torch.randn(nodes, generator=generator, dtype=torch.float64) / math.sqrt(count)
        values.append(float(target.misfit(Moments(first, second, moments.weights))))
    share = float(torch.trace(grid.noise_gram()[0]).real) / nodes
    known = nodes * (nodes + 1) / 2 + modes * nodes**2
    expected = share * nodes / 2 / 1.001 + share**2 * known / 2 / 1.001**2
    error = float(torch.tensor(values).std()) / math.sqrt(len(values))
    assert abs(sum(values) / len(values) - expected) < 4 * error
    assert error < 0.02 * expected

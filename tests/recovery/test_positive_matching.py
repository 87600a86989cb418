import math

import pytest
import torch

from orbitrec.densities import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.fourier import centred_fft, centred_ifft, radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.inference.losses import relative_errors
from orbitrec.inference.moments import Moments, uniform_moments
from orbitrec.models.cryoem import PolarProjector, polar_templates
from orbitrec.recovery.matching import MomentTarget
from orbitrec.recovery.volume_matching.lbfgs import minimise
from orbitrec.recovery.volume_matching.positive import PositiveMatching, Settings, match_positive
from orbitrec.volumes.blobs import BlobGrid
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

N, RADIUS, K_MAX = 25, 9.0, 1.0
BASIS = SphericalBesselBasis(RADIUS, K_MAX + math.pi / RADIUS)
ATOMS = GaussianMixture(
    torch.tensor([[4.0, 0.0, 0.0], [-2.0, 3.0, 1.0], [0.0, -3.0, -3.0], [-1.0, -1.0, 4.0]], dtype=torch.float64),
    torch.full((4,), 1.5, dtype=torch.float64),
    torch.tensor([3.0, 4.5, 2.5, 4.0], dtype=torch.float64),
)


def test_a_blob_is_a_gaussian():
    blobs = BlobGrid(BASIS, 6.0, 2.0, 1.6)
    middle = int(blobs.centers.norm(dim=1).argmin())
    found = SphericalBesselVolume(BASIS, blobs.matrix[middle].double()).to_grid(N)
    one = GaussianMixture(torch.zeros(1, 3).double(), torch.tensor([1.6]).double(), torch.tensor([8.0]).double())
    below = radial_frequencies(N, 3) < K_MAX
    a, b = (centred_ifft(centred_fft(grid, 3) * below, 3).real for grid in (found, one.to_grid(N)))
    assert float((a - b).norm() / b.norm()) < 0.05
    with pytest.raises(InputError, match="do not fit"):
        BlobGrid(BASIS, 10.0, 2.0, 1.6)


def test_minimise_finds_the_minimum_of_a_quadratic():
    target = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    x, value = minimise(lambda y: (y - target).square().sum() + 5, torch.zeros(3, dtype=torch.float64), 50)
    assert torch.allclose(x, target, atol=1e-4)
    assert value == pytest.approx(5)


def test_exact_moments_give_the_volume():
    grid, directions = PolarGrid.for_radius(N, K_MAX, RADIUS), spherical_design(2 * BASIS.degree - 5)
    views = VonMisesFisherMixture.random(torch.Generator().manual_seed(0), 8)
    density = views.density(directions)
    exact = uniform_moments(polar_templates(ATOMS, grid, directions), density / density.sum(), grid)
    moments = Moments(exact.first.to(torch.complex64), exact.second.to(torch.complex64), exact.weights.float())
    problem = PositiveMatching(
        MomentTarget.exact(moments, grid),
        PolarProjector(BASIS, grid, directions),
        BlobGrid(BASIS, 8.0, 1.6, 1.2),
        Settings(starts=2, march=((0.5, 1e4, 40), (1.0, 1e4, 80)), polish=((1.0, 1e5, 60),)),
    )
    heard: list[float] = []
    best, starts = match_positive(problem, torch.Generator().manual_seed(1), lambda one: heard.append(one.loss))
    assert sorted(heard) == [start.loss for start in starts]
    first, second = relative_errors(moments, problem.moments(best.coefficients, best.density))
    assert float(first) < 0.01
    assert float(second) < 0.03
    assert float(problem.view_density(best, directions).sum()) == pytest.approx(1)
    found, truth = problem.volume(best).to_grid(N), ATOMS.to_grid(N)
    below = radial_frequencies(N, 3) < K_MAX
    cut = [centred_ifft(centred_fft(v, 3) * below, 3).real for v in (align(found, truth).apply(found), truth)]
    assert float(torch.corrcoef(torch.stack([v.flatten() for v in cut]))[0, 1]) > 0.85

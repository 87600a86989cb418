"""Volume and views from three moments: exact moments of small volumes are matched, from random starts too."""

import math
from dataclasses import replace

import pytest
import torch

from oracles import TWO_CAPS
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import polar_templates
from orbitrec.moments.analytic import Moments, uniform_moments
from orbitrec.moments.compression import Compression
from orbitrec.moments.cumulant_matching import CumulantMatching, Loss, March, MarchSettings
from orbitrec.moments.cumulant_target import CumulantTarget
from orbitrec.moments.cumulants import third_cumulants
from orbitrec.moments.matching import MomentTarget
from orbitrec.moments.priors import ball_prior_covariance, profiled_covariance
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.shells import GaussianShells
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

BOX, RADIUS, SIGMA, COUNT = 17, 7.0, 0.4, 3e3
ATOMS = GaussianMixture(
    torch.tensor([[3.0, -1.0, 1.5], [-2.0, 2.5, 0.5], [0.5, -2.5, -2.5], [-1.5, -1.0, 3.0]], dtype=torch.float64),
    torch.full((4,), 1.1, dtype=torch.float64),
    torch.tensor([12.0, 16.0, 10.0, 13.0], dtype=torch.float64),
)


def matching(k_max: float) -> CumulantMatching:
    """Exact moments, trusted as those of COUNT images."""
    grid = PolarGrid.for_radius(BOX, k_max, RADIUS)
    directions = spherical_design(41)
    templates, density = polar_templates(ATOMS, grid, directions), TWO_CAPS.density(directions)
    density = density / density.sum()
    moments = uniform_moments(templates, density, grid)
    noise = SIGMA**2 * torch.diagonal(grid.noise_gram(), dim1=1, dim2=2).real
    target = MomentTarget(moments, grid, torch.diagonal(moments.second, dim1=1, dim2=2).real + noise, COUNT)
    compression = Compression.of(moments, grid, variance=SIGMA**2, count=COUNT)
    cumulants = third_cumulants(compression(templates.transpose(0, 1)), density)
    basis = SphericalBesselBasis(RADIUS, 2.4)
    covariance = ball_prior_covariance(basis, target, 5.5)
    shells = GaussianShells(basis, covariance, grid.nodes, grid.scale, int(k_max * RADIUS) + 4)
    return CumulantMatching(target, CumulantTarget.of_cumulants(cumulants, compression, COUNT), shells)


COARSE, FINE = matching(0.9), matching(1.3)


def correlation(first, second) -> float:
    return align(first.to_grid(BOX), second.to_grid(BOX)).correlation


def test_the_whitened_curvature_is_the_second_derivative_of_a_loss_that_fits():
    x = COARSE.random_start(torch.Generator().manual_seed(1))
    own = fitted(COARSE, x)
    change = 1e-2 * torch.randn(len(x), generator=torch.Generator().manual_seed(2))
    expected = float(change.double() @ own.curvature(x, 1.0) @ change.double()) / 2

    def misfit(at):
        loss = own.loss(at)
        return loss.moments + loss.cumulants

    assert misfit(x) < 1e-3 * expected
    even = (misfit(x + change) + misfit(x - change)) / 2
    assert even + float(change.square().sum()) / 2 == pytest.approx(expected, rel=0.02)


def fitted(problem: CumulantMatching, x: torch.Tensor) -> CumulantMatching:
    """The same with the moments that a point has."""
    shells = problem.shells.functions.to(torch.float32).sum(x[: len(problem.shells.functions)], problem.shells.degree)
    templates, density = problem.projector.shell_templates(shells).to(torch.complex128), problem.density(x).double()
    moments = uniform_moments(templates, density / density.sum(), problem.target.grid)
    compression = problem.cumulants.compression
    cumulants = third_cumulants(compression(templates.transpose(0, 1)), density / density.sum())
    return CumulantMatching(
        replace(problem.target, moments=Moments(moments.first, moments.second, moments.weights)),
        CumulantTarget.of_cumulants(cumulants, compression, COUNT),
        problem.shells,
    )


def test_a_point_is_taken_to_another_band():
    x = COARSE.random_start(torch.Generator().manual_seed(3))
    there = FINE.point(COARSE.volume(x), COARSE.views(x))
    back = COARSE.point(FINE.volume(there), FINE.views(there))
    assert torch.equal(FINE.views(there), COARSE.views(x))
    assert float((COARSE.loss(back).total - COARSE.loss(x).total) / COARSE.loss(x).total) < 0.05


def test_a_descent_ends_below_the_truth():
    """Where moments leave the truth open, the prior moves it; so the lowest loss is below that of the truth."""
    x = FINE.random_start(torch.Generator().manual_seed(4))
    own = fitted(FINE, x)
    generator = torch.Generator().manual_seed(5)
    away = x + 0.2 * torch.randn(len(x), generator=generator)
    found = own.descended(away, 1.0, 120)
    losses = [own.loss(at) for at in (x, away, found)]
    assert losses[0].moments + losses[0].cumulants < 1
    assert losses[1].total > 20 * losses[0].total
    assert losses[2].total < losses[0].total


class Wells:
    """A loss of one unknown with a well at 1 and a shallower one at −2, where some starts end."""

    def __init__(self, begins):
        self.begins = begins

    def random_start(self, generator):
        return torch.tensor([self.begins.pop(0)])

    def descended(self, x, trust, iterations):
        well = 1.0 if float(x) > 0 else -2.0
        return x + 0.9 * (well - x)

    def loss(self, x):
        return Loss(0.0, float((x - 1).square() * (x + 2).square()) + (100.0 if float(x) > 0 else 110.0), 0.0)

    def volume(self, x):
        return x

    def views(self, x):
        return x

    def point(self, volume, views):
        return views


def marched(begins, starts=4, correlated=1.0):
    made = []

    def step(name, compute):
        made.append(name)
        return compute()

    wells = Wells(list(begins))
    march = March(lambda band: wells, 3, MarchSettings(starts=starts), lambda first, second: correlated)
    return *march.run(torch.Generator(), step), made


def test_a_search_ends_when_the_best_two_agree_and_follows_the_best():
    best, agreed, starts, made = marched([3.0, -3.0, 2.0, 4.0])
    assert agreed
    assert starts == 3
    assert best.loss == pytest.approx(100, abs=0.1)
    assert made == [*(f"start {i}, band {band}" for i in (1, 2, 3) for band in (1, 2)), "best, band 3"]


def test_a_search_whose_starts_disagree_says_so():
    best, agreed, starts, _ = marched([-3.0, 3.0], starts=2)
    assert (agreed, starts) == (False, 2)
    assert best.loss == pytest.approx(100, abs=0.1)
    assert marched([3.0, 2.0], starts=2, correlated=0.9)[1] is False  # one loss, two maps


def test_the_prior_has_the_spectrum_of_the_moments_and_goes_on_beyond_them():
    """Moments of volumes of known spectrum, seen evenly: their power is the spectrum in the ball."""
    basis, grid = SphericalBesselBasis(12.0, 2.4), PolarGrid.for_radius(25, 1.4, 12.0)
    radii = (torch.arange(400, dtype=torch.float64) + 0.5) * 12.0 / 400
    spectrum = torch.exp(-2 * basis.frequency.square())
    white = profiled_covariance(basis, radii, torch.sigmoid((9.0 - radii) / (0.08 * 9.0)))
    true = spectrum.sqrt()[:, None] * white * spectrum.sqrt()
    functions = basis.radial(grid.nodes) * grid.scale
    power = ((true @ functions) * functions).sum(0) / (4 * math.pi)
    second = torch.zeros(grid.max_mode + 1, len(power), len(power), dtype=torch.complex128)
    second[0] = torch.diag(power)
    moments = Moments(torch.zeros(second.shape[:2], dtype=torch.complex128), second, grid.mode_weights.pow(-2))
    covariance = ball_prior_covariance(basis, MomentTarget.exact(moments, grid), 9.0)
    ratio = (covariance.diagonal() / true.diagonal()).sqrt()
    inside = basis.frequency < 1.2
    assert float((ratio[inside] - 1).abs().max()) < 0.25
    assert float(ratio[~inside].log().abs().max()) < math.log(2)
    assert float(spectrum[~inside].min() / spectrum[inside].max()) < 1e-4  # over so many powers of ten
    radial = basis.radial_values(torch.tensor([2.0, 6.0, 11.0], dtype=torch.float64))
    inner, middle, outer = ((covariance @ radial) * radial).sum(0)
    assert outer < 0.2 * middle
    assert float(middle / inner) == pytest.approx(1, abs=0.2)

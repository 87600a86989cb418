"""MoM-net's reconstruction phase and its start for the main job, on small settings."""

import math

import pytest
import torch

from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import PolarProjector, polar_templates
from orbitrec.moments.analytic import Moments, uniform_moments
from orbitrec.networks.molecules import ViewLaw
from orbitrec.networks.momnet import MomNet, MomNetEstimate, MomNetSetting
from orbitrec.networks.momnet_moments import interpolated_moments, log_views
from orbitrec.networks.momnet_training import MomNetTraining, VolumeProblems
from orbitrec.thesis.momnet_matching import MomNetMatching, smooth_views
from orbitrec.volumes.fourier_net import FourierNet
from orbitrec.volumes.phantoms import protein_phantom

SMALL = MomNetSetting(bandwidth=8.0, radial_nodes=10, max_mode=8, view_degree=7, density_degree=2)
RUN = MomNetTraining(setting=SMALL, width=16, steps=20, batch=8)


@pytest.fixture(scope="module")
def problem() -> VolumeProblems:
    return RUN.held_out(1)


def reconstruction(problem: VolumeProblems, largest: float = SMALL.largest_shift_px) -> MomNetMatching:
    m = problem.moments
    target = Moments(m.first.to(torch.complex128), m.second.to(torch.complex128), m.weights.double())
    projector = PolarProjector(SMALL.basis, SMALL.grid, SMALL.directions, torch.float64)
    return MomNetMatching(target, projector, SMALL.density_degree, largest)


def near(problem: VolumeProblems) -> MomNetEstimate:
    """The true volume with an error of a tenth, seen uniformly, shifts half of the largest."""
    noise = torch.randn(problem.coefficients.shape, generator=torch.Generator().manual_seed(1))
    w = problem.coefficients + 0.1 * noise / noise.norm()
    density = torch.zeros(1, (SMALL.density_degree + 1) ** 2 - 1)
    return MomNetEstimate(w, density, torch.tensor([SMALL.largest_shift_px / 2])).double()


def test_matching_explains_the_moments_and_finds_the_spread_of_shifts(problem):
    matching, start = reconstruction(problem), near(problem)
    found = matching.matched(start, 150)
    assert matching.loss(found) < matching.loss(start) / 5
    assert abs(float(found.shift_px) - float(problem.shift_px)) < 0.1 * SMALL.largest_shift_px


def test_the_framework_without_shifts_knows_none(problem):
    matching = reconstruction(problem, largest=0.0)
    assert float(matching.matched(near(problem), 5).shift_px) == 0


def test_adam_over_the_encoder_s_weights_lowers_the_loss_and_leaves_the_encoder_alone(problem):
    net: MomNet = RUN.network(torch.Generator().manual_seed(0))
    before, losses = {key: value.clone() for key, value in net.state_dict().items()}, []
    best = reconstruction(problem).encoded(net, 30, lambda iteration, loss, seconds: losses.append(loss))
    assert len(losses) == 31
    assert float(reconstruction(problem).loss(best.double())) == pytest.approx(min(losses), rel=1e-4)
    assert min(losses) < losses[0] / 2
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_fourier_net_begins_as_nothing_and_lowers_the_loss(problem):
    matching, start = reconstruction(problem), near(problem)
    net = FourierNet(SMALL.radius, torch.Generator().manual_seed(0), scale=0.5, width=16).zero_()
    alone = float(matching.loss(start))
    assert matching.refined(start, net, 0) == pytest.approx(alone, rel=1e-4)
    assert matching.refined(start, net, 10, rate=1e-3) < alone


@pytest.mark.parametrize("box", [32, 33])
def test_interpolated_moments_are_those_of_the_network_s_own_grid(box):
    """A molecule of another size in other pixels, its moments interpolated between radial nodes."""
    radius = 9.0
    volume = protein_phantom(20, 0.8 * radius, torch.Generator().manual_seed(2))
    directions = spherical_design(9)
    density = torch.full((len(directions),), 1 / len(directions), dtype=torch.float64)
    setting = MomNetSetting()
    wanted = setting.grid_for(box, radius)
    grid = PolarGrid.for_radius(box, wanted.k_max, box / 2)

    def moments(grid):
        return uniform_moments(polar_templates(volume, grid, directions), density, grid)

    found, own = interpolated_moments(moments(grid), grid, setting, radius), moments(wanted)
    assert (found.first[0] - own.first).abs().max() < 1e-9 * own.first.abs().max()
    assert (found.second[0] - own.second).abs().max() < 1e-9 * own.second.abs().max()


def test_views_are_interpolated_at_other_directions():
    """A density of the family, given as a polynomial, on a finer design: as it is, to the kernel's width."""
    setting = MomNetSetting()
    views = ViewLaw(concentrations=(2.0, 3.0)).draw(1, torch.Generator().manual_seed(4))[0]
    harmonics = setting.harmonics(setting.directions)
    design = torch.cat([harmonics, torch.ones(len(harmonics), 1).double()], dim=1)
    log_density = torch.linalg.lstsq(design, views.density(setting.directions).log()[:, None]).solution[:-1].mT
    estimate = MomNetEstimate(torch.zeros(1, 3).double(), log_density, torch.zeros(1).double())
    fine = spherical_design(31)
    true = views.density(fine) / views.density(fine).sum()
    for density in (
        log_views(estimate, setting, fine).exp(),
        smooth_views(estimate, setting, fine).density(setting.harmonics(fine))[0],
    ):
        assert float((density - true).norm() / true.norm()) < 0.1


def test_views_of_an_estimate_sum_to_one_on_any_directions():
    density = torch.randn(1, 8, generator=torch.Generator().manual_seed(3))
    estimate = MomNetEstimate(torch.zeros(1, 3), density, torch.zeros(1))
    for degree in (7, 13):
        total = log_views(estimate, SMALL, spherical_design(degree)).exp().sum()
        assert math.isclose(float(total), 1.0, rel_tol=1e-5)

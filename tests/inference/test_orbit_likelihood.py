"""The cryo-EM likelihood against (4.25) written out literally, and its derivatives against autograd."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from oracles import cartesian_templates
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import direction_frames, in_plane
from orbitrec.inference.curvature import CurvedOrbitLikelihood
from orbitrec.inference.group_density import EstimatedDirections, KnownDensity
from orbitrec.inference.likelihood import Observations
from orbitrec.inference.orbit_likelihood import GaussianPrior, MStep, ObservationSet, OrbitLikelihood
from orbitrec.models.cryoem import PolarProjector, polar_circle
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.optim.problem import ExpectationMaximisation, TwiceDifferentiable, em_map
from orbitrec.thesis.cartesian import NO_CIRCLE, CartesianProjector
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

N, COUNT, ANGLES = 15, 30, 8
BASIS = SphericalBesselBasis.of_degrees(7.0, 2, 2)
DIRECTIONS = spherical_design(5)
CIRCLE = polar_circle(PolarGrid(N, math.pi, 14, 2), ANGLES)
ROTATIONS = (direction_frames(DIRECTIONS)[:, None] @ in_plane(-CIRCLE.in_plane_angles)).flatten(0, 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coefficients(seed: int, size: float = 8.0) -> Tensor:
    w = torch.randn(len(BASIS), generator=seeded(seed), dtype=torch.float64)
    return size * w / w.norm()


def images() -> Tensor:
    generator = seeded(1)
    volume = SphericalBesselVolume(BASIS, coefficients(2))
    clean = ParticleSimulation(volume, N, 1.0, *random_poses(COUNT, generator)).clean(
        torch.arange(COUNT), torch.float64
    )
    return clean + 0.3 * torch.randn(clean.shape, generator=generator, dtype=torch.float64)


LOG_DENSITY = torch.randn(len(ROTATIONS), generator=seeded(3), dtype=torch.float64).log_softmax(0)


def observer(modes: Tensor, filters: Tensor):
    return lambda rows: Observations(
        (modes * filters)[rows][:, None], filters[rows, 0].square(), torch.zeros(1, dtype=torch.float64)
    )


def cartesian(half_plane: bool = False) -> OrbitLikelihood:
    projector = CartesianProjector(BASIS, N, ROTATIONS, half_plane)
    modes = projector.from_images(images())
    ones = torch.ones(COUNT, 1, modes.shape[2], dtype=torch.float64)
    data = ObservationSet(observer(modes, ones), COUNT, ones[0, 0], 7)
    return OrbitLikelihood(
        projector, NO_CIRCLE, KnownDensity(LOG_DENSITY[:, None]), data, GaussianPrior.flat(len(BASIS))
    )


def polar(nodes: int = 14, contrast: bool = False, precision: float = 0.0) -> CurvedOrbitLikelihood:
    grid = PolarGrid(N, math.pi, nodes, 2)
    projector = PolarProjector(BASIS, grid, DIRECTIONS, torch.float64)
    defocus = torch.linspace(0, 2, COUNT, dtype=torch.float64)[:, None] * contrast
    filters = torch.cos(defocus * grid.nodes.square())[:, None]
    observe = observer(grid.from_images(images()), filters)
    prior = GaussianPrior(torch.full((len(BASIS),), precision, dtype=torch.float64))
    data = ObservationSet(observe, COUNT, filters[:, 0].square().mean(0), 7)
    return CurvedOrbitLikelihood(projector, CIRCLE, KnownDensity(LOG_DENSITY.reshape(-1, ANGLES)), data, prior)


def printed(w: Tensor, matrices: Tensor, observed: Tensor) -> Tensor:
    """(4.25) without the observation's own energy: matrices (q, k, p), observed (b, k)."""
    distance = (torch.einsum("qkp,p->qk", matrices, w.to(matrices.dtype)) - observed[:, None]).abs().square().sum(2)
    energy = observed.abs().square().sum(1)
    return -(LOG_DENSITY - 0.5 * (distance - energy[:, None])).logsumexp(1).mean()


def unit_volumes() -> list[SphericalBesselVolume]:
    return [SphericalBesselVolume(BASIS, row) for row in torch.eye(len(BASIS), dtype=torch.float64)]


def test_problem_of_the_thesis_has_64_real_unknowns():
    basis = SphericalBesselBasis.of_degrees(7.0, 3, 4)
    assert [len(us) for us in basis.zeros] == [4, 4, 4, 4]
    # 4 radial functions for each of the ten (l, m ≥ 0): the thesis's 40 coefficients, complex where m > 0.
    assert len(basis) == 4 * (4 + 2 * 6)


@pytest.mark.parametrize("half_plane", [False, True])
def test_cartesian_form_is_the_printed_one(half_plane):
    problem = cartesian(half_plane)
    assert isinstance(problem, ExpectationMaximisation)
    matrices = torch.stack([cartesian_templates(v, N, ROTATIONS)[:, 0] for v in unit_volumes()], dim=2)
    observed = CartesianProjector(BASIS, N, ROTATIONS).from_images(images())[:, 0]
    w = coefficients(4).requires_grad_()
    expected = printed(w, matrices, observed)
    (slope,) = torch.autograd.grad(expected, w)
    value, gradient = problem.gradient(w.detach())
    assert value == pytest.approx(expected.item(), rel=1e-7)  # a volume rounds |k| to 1e-9
    assert torch.allclose(gradient, slope, rtol=1e-6, atol=1e-6)


def test_polar_form_is_the_cartesian_one_to_the_quadratures_error():
    w = coefficients(4)
    value, gradient = cartesian().gradient(w)
    errors = []
    for nodes in (8, 11, 16):
        found, slope = polar(nodes).gradient(w)
        errors.append((abs(found - value), float((slope - gradient).norm() / gradient.norm())))
    assert errors == sorted(errors, reverse=True)
    # What remains is the basis beyond k_max = π, in the corners of the grid.
    assert errors[-1][0] < 1e-3 * abs(value)
    assert errors[-1][1] < 1e-3


def dense_polar(problem: CurvedOrbitLikelihood) -> tuple[Tensor, Tensor]:
    """Matrices (q, 2mk, p) of every direction and angle, real, and observations: for :func:`printed`."""
    turn = torch.exp(-1j * CIRCLE.in_plane_angles[:, None] * CIRCLE.modes)
    units = torch.stack([problem.projector.templates(v.coefficients) for v in unit_volumes()], dim=-1)
    rotated = (units[:, None] * turn[:, :, None, None]).flatten(0, 1)
    observed = problem.data.observe(torch.arange(COUNT)).modes[:, 0]
    matrices = torch.view_as_real(rotated).movedim(-1, 1).flatten(1, 3)
    return matrices, torch.view_as_real(observed).movedim(-1, 1).flatten(1)


def test_derivatives_are_autograds():
    problem = polar()
    assert isinstance(problem, TwiceDifferentiable)
    matrices, observed = dense_polar(problem)
    w = coefficients(5, 2.0)
    value, gradient = problem.gradient(w)
    assert value == pytest.approx(printed(w, matrices, observed).item(), rel=1e-12)
    slope = torch.func.grad(printed)(w, matrices, observed)
    assert torch.allclose(gradient, slope, rtol=1e-9, atol=1e-10)
    hessian = torch.func.hessian(printed)(w, matrices, observed)
    assert torch.allclose(problem.hessian(w), hessian, rtol=1e-8, atol=1e-9)
    each = torch.stack([torch.func.grad(printed)(w, matrices, row[None]) for row in observed])
    assert torch.allclose(problem.fisher(w), each.mT @ each / COUNT, rtol=1e-8, atol=1e-9)


def test_derivatives_with_contrast_and_prior_are_differences():
    problem = polar(contrast=True, precision=3.0)
    w, along = coefficients(5, 2.0), coefficients(6, 1.0)
    index, step = torch.tensor([3, 17, 4, 29, 11]), 1e-4
    (above, up), (below, down) = (problem.gradient(w + side * step * along, index) for side in (1, -1))
    _, gradient = problem.gradient(w, index)
    assert problem.value(w, index) == pytest.approx((above + below) / 2, rel=1e-6)
    assert (above - below) / (2 * step) == pytest.approx(float(gradient @ along), rel=1e-6)
    assert torch.allclose((up - down) / (2 * step), problem.hessian(w, index) @ along, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("contrast", [False, True])
def test_expectation_maximisation_climbs_to_a_stationary_point(contrast):
    problem, w, values = polar(contrast=contrast, precision=0.1), coefficients(7, 0.5), []
    for _ in range(60):
        value, w = em_map(problem, w)
        values.append(value)
    assert max(torch.tensor(values).diff().tolist()) < 1e-12
    assert values[0] - values[-1] > 1
    assert float(problem.gradient(w)[1].norm()) < 1e-3 * float(problem.gradient(coefficients(7, 0.5))[1].norm())


@pytest.mark.parametrize("problem", [polar(contrast=True), cartesian()], ids=["polar", "cartesian"])
def test_statistics_of_parts_are_those_of_the_whole(problem):
    w, parts = coefficients(8), torch.arange(COUNT).split([10, 20])
    value, whole = problem.expectation(w)
    (first, a), (second, b) = (problem.expectation(w, part) for part in parts)
    assert (first + 2 * second) / 3 == pytest.approx(value)
    assert torch.allclose((a + 2 * b) / 3, whole, rtol=1e-10, atol=1e-10)
    solved = problem.maximisation(whole, w)
    # Inertia: towards w as it grows.
    distances = [float((problem.maximisation(whole, w, inertia) - w).norm()) for inertia in (0.0, 0.1, 1.0, 100.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] == pytest.approx(float((solved - w).norm()))
    assert distances[-1] < 0.05 * distances[0]


def test_conjugate_gradients_solve_what_the_dense_matrix_does():
    problem, w = polar(contrast=True, precision=0.5), coefficients(9)
    _, statistics = problem.expectation(w)
    dense = problem.maximisation(statistics, w)
    problem = replace(problem, m_step=MStep(dense=0))
    assert float((problem.maximisation(statistics, w) - dense).norm() / dense.norm()) < 1e-4


def test_single_precision_follows_double():
    problem, w = polar(), coefficients(10)
    single = replace(
        problem,
        projector=replace(problem.projector, dtype=torch.float32),
        density=KnownDensity(LOG_DENSITY.reshape(-1, ANGLES).float()),
        data=replace(
            problem.data,
            observe=lambda rows: Observations(
                problem.data.observe(rows).modes.to(torch.complex64),
                problem.data.observe(rows).ctf2_over_noise.float(),
                torch.zeros(1),
            ),
        ),
    )
    (value, gradient), (rough, slope) = problem.gradient(w), single.gradient(w)
    assert rough == pytest.approx(value, rel=1e-4)
    assert slope.dtype == torch.float64
    assert float((slope - gradient).norm() / gradient.norm()) < 1e-3


def with_unknown_directions() -> OrbitLikelihood:
    known = polar(contrast=True, precision=0.3)
    return OrbitLikelihood(
        known.projector, CIRCLE, EstimatedDirections(len(DIRECTIONS), ANGLES), known.data, known.prior
    )


def test_gradient_with_unknown_directions_is_a_difference():
    problem = with_unknown_directions()
    generator = seeded(12)
    w = torch.cat([coefficients(5, 2.0), torch.randn(len(DIRECTIONS), generator=generator, dtype=torch.float64)])
    along = torch.randn(problem.dimension, generator=generator, dtype=torch.float64)
    (above, _), (below, _) = (problem.gradient(w + side * 1e-4 * along) for side in (1, -1))
    assert (above - below) / 2e-4 == pytest.approx(float(problem.gradient(w)[1] @ along), rel=1e-6)


def test_em_with_unknown_directions_never_falls_and_ends_where_the_gradient_vanishes():
    problem, values = with_unknown_directions(), []
    w = torch.cat([coefficients(7, 0.5), torch.zeros(len(DIRECTIONS), dtype=torch.float64)])
    begun = float(problem.gradient(w)[1].norm())
    for _ in range(80):
        value, w = em_map(problem, w)
        values.append(value)
    assert max(torch.tensor(values).diff().tolist()) < 1e-12
    assert float(problem.gradient(w)[1].norm()) < 5e-3 * begun


def test_every_observation_is_recorded_once_a_pass():
    seen = []
    problem = polar()
    problem = replace(problem, data=replace(problem.data, record=lambda rows, found: seen.append((rows, found))))
    problem.expectation(coefficients(4))
    rows = torch.cat([rows for rows, _ in seen])
    assert rows.tolist() == list(range(COUNT))
    found = torch.cat([assigned.log_likelihood for _, assigned in seen])
    assert float(found.mean()) == pytest.approx(-problem.value(coefficients(4)))


def with_outliers() -> OrbitLikelihood:
    """Odds around the likelihoods that observations have, so that none is an outlier for certain, or certainly not."""
    problem = with_unknown_directions()
    odds = 20 + torch.linspace(-20, 20, problem.count, dtype=torch.float64)

    def observe(rows: Tensor) -> Observations:
        return replace(problem.data.observe(rows), log_outlier=odds[rows])

    return replace(problem, data=replace(problem.data, observe=observe))


def test_gradient_with_outliers_is_a_difference():
    problem, generator = with_outliers(), seeded(12)
    w = torch.cat([coefficients(5, 4.0), torch.randn(len(DIRECTIONS), generator=generator, dtype=torch.float64)])
    inliers = []
    watched = replace(problem.data, record=lambda rows, found: inliers.append(found.inlier))
    replace(problem, data=watched).value(w)
    assert 0.2 < float(torch.cat(inliers).mean()) < 0.8
    along = torch.randn(problem.dimension, generator=generator, dtype=torch.float64)
    (above, _), (below, _) = (problem.gradient(w + side * 1e-4 * along) for side in (1, -1))
    assert (above - below) / 2e-4 == pytest.approx(float(problem.gradient(w)[1] @ along), rel=1e-6)


def test_em_with_outliers_never_falls():
    problem, values = with_outliers(), []
    w = torch.cat([coefficients(7, 0.5), torch.zeros(len(DIRECTIONS), dtype=torch.float64)])
    for _ in range(40):
        value, w = em_map(problem, w)
        values.append(value)
    assert max(torch.tensor(values).diff().tolist()) < 1e-12

"""How much of a volume two moments determine."""

import pytest
import torch

from orbitrec.geometry.harmonics import nonconstant_harmonics
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import uniform_moments
from orbitrec.moments.information import (
    MomentInformation,
    empirical_prior_covariance,
    explained_variance,
    projected,
)
from orbitrec.moments.matching import MomentTarget
from orbitrec.volumes.shells import ShellFunctions
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

BASIS = SphericalBesselBasis(7.0, 1.3)
DIRECTIONS = spherical_design(2 * BASIS.degree + 3)
GRID = PolarGrid.for_radius(17, 1.2, 7.0)
PROJECTOR = PolarProjector(BASIS, GRID, DIRECTIONS, torch.float64)
FUNCTIONS = ShellFunctions(BASIS.lm, PROJECTOR.radial)


def information(log_density: torch.Tensor, degree: int = 2, count: float = 1e6) -> MomentInformation:
    coefficients = torch.randn(len(BASIS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    harmonics = nonconstant_harmonics(DIRECTIONS, degree) * 0.3
    density = log_density.softmax(0)
    moments = uniform_moments(PROJECTOR.templates(coefficients), density, GRID)
    target = MomentTarget.exact(moments, GRID, count)
    return MomentInformation(PROJECTOR, FUNCTIONS, coefficients, density, harmonics, target)


UNEVEN = 0.8 * DIRECTIONS[:, 2] + 0.5 * DIRECTIONS[:, 0] * DIRECTIONS[:, 1]
EVEN = torch.zeros(len(DIRECTIONS), dtype=torch.float64)


def test_the_information_is_the_second_derivative_of_the_misfit():
    given = information(UNEVEN)
    generator = torch.Generator().manual_seed(1)
    change = torch.randn(len(BASIS) + given.harmonics.shape[1], generator=generator, dtype=torch.float64)

    def misfit(step: float) -> float:
        volume = given.coefficients + step * change[: len(BASIS)]
        views = (UNEVEN + step * given.harmonics @ change[len(BASIS) :]).softmax(0)
        return float(given.target.misfit(uniform_moments(PROJECTOR.templates(volume), views, GRID)))

    step = 1e-4  # at which the misfit is even in the step up to its fourth power
    numerical = (misfit(step) + misfit(-step)) / step**2
    assert float(change @ given.matrix() @ change) == pytest.approx(numerical, rel=1e-5)


def rotated(given: MomentInformation, degree: int) -> torch.Tensor:
    """How coefficients of one degree change as they turn about z: those of ±m go into each other, m times as fast."""
    change = torch.zeros_like(given.coefficients)
    shells: dict[tuple[int, float], int] = {}
    for i, (lm, k) in enumerate(zip(BASIS.lm.tolist(), BASIS.frequency.tolist(), strict=True)):
        shells[lm, k] = i
    for (lm, k), i in shells.items():
        m = lm - degree * (degree + 1)
        if degree**2 <= lm < (degree + 1) ** 2:
            change[i] = m * given.coefficients[shells[lm - 2 * m, k]]
    return change


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_of_even_views_moments_leave_every_degree_free_to_turn(degree: int):
    """Kam (1980): then they know ``Σ_m A_lm(k) A_lm(k')`` and no more."""

    def seen(given: MomentInformation) -> float:
        change, volume = rotated(given, degree), given.matrix()[: len(BASIS), : len(BASIS)]
        return float(change @ volume @ change / (given.coefficients @ volume @ given.coefficients))

    assert seen(information(EVEN)) < 1e-15  # designs are good to 1e-9
    assert seen(information(UNEVEN)) > 1e-4


def test_the_explained_fraction_grows_from_nothing_with_the_number_of_particles():
    prior = torch.eye(len(BASIS), dtype=torch.float64)
    matrices = (information(UNEVEN, 0, count).matrix() for count in (1e-9, 1e3, 1e9))
    few, some, many = (explained_variance(matrix, prior, BASIS, 17)[1:4] for matrix in matrices)
    assert few.max() < 1e-3
    assert (few < some).all()
    assert (some < many).all()
    assert (many <= 1).all()


def test_known_views_explain_more():
    prior = torch.eye(len(BASIS), dtype=torch.float64)
    free, known = (explained_variance(information(UNEVEN, degree).matrix(), prior, BASIS, 17) for degree in (4, 0))
    assert (known >= free - 1e-9).all()
    assert (known > free + 1e-4).any()


def test_a_map_is_projected_on_the_basis():
    coefficients = information(EVEN).coefficients
    smooth = SphericalBesselBasis(7.0, 1.0)
    voxels = SphericalBesselVolume(smooth, coefficients[: len(smooth)]).to_grid(17)
    found = projected(smooth, voxels)
    assert float((found - coefficients[: len(smooth)]).norm() / found.norm()) < 0.05


def test_volumes_that_are_alike_have_the_power_and_the_outline():
    generator = torch.Generator().manual_seed(2)
    falling = torch.randn(len(BASIS), generator=generator, dtype=torch.float64) / (1 + BASIS.frequency)
    small = projected(BASIS, SphericalBesselVolume(BASIS, falling).to_grid(17) * inner())
    covariance = empirical_prior_covariance(BASIS, small, 17)
    shells = (BASIS.frequency * 17 / (2 * torch.pi)).round().long()
    expected, power = (torch.bincount(shells, part) for part in (covariance.diagonal(), small.square()))
    assert torch.allclose(expected, power)
    assert float(torch.linalg.eigvalsh(covariance)[0]) > -1e-9 * float(covariance.trace())
    radii = torch.linspace(0.5, 6.5, 7, dtype=torch.float64)
    points = radii[:, None] * torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    values = BASIS.values(points)
    variance = torch.einsum("xp,pq,xq->x", values, covariance, values)
    assert variance[5:].max() < 0.1 * variance[:3].min()  # white noise in the ball has as much here as there


def inner() -> torch.Tensor:
    axis = (torch.arange(17, dtype=torch.float64) - 8).square()
    radius = (axis[:, None, None] + axis[:, None] + axis).sqrt()
    return torch.sigmoid((3.5 - radius) / 0.4)

"""Sampling of Fourier space and directional correlation against closed forms."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.evaluation.orientation import FourierSampling, conical_fsc, fourier_sampling
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import frequency_vectors, radii
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import direction_frames, random_rotations

COUNT = 10_000


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _views(z: Tensor) -> Tensor:
    """Rotations whose views have these heights above the equator and uniform longitudes."""
    longitude = 2 * math.pi * torch.rand(len(z), generator=_generator(2), dtype=torch.float64)
    across = (1 - z.square()).sqrt()
    return direction_frames(torch.stack([across * longitude.cos(), across * longitude.sin(), z], dim=1))


def _cap(half_angle: float) -> Tensor:
    """Views spread uniformly over a cap around z."""
    share = torch.rand(COUNT, generator=_generator(3), dtype=torch.float64)
    return _views(1 - (1 - math.cos(half_angle)) * share)


# A hundred slices pass a direction, so chance alone gives mean(S) mean(1/S) = 1.01.
@pytest.mark.parametrize("count", [300, 1000, 30_000])
def test_uniform_views_sample_evenly(count):
    sampling = fourier_sampling(random_rotations(count, _generator()))
    assert sampling.scf_star == pytest.approx(1, abs=0.02)
    assert sampling.unsampled == 0


def test_side_views_have_8_over_pi_squared():
    """All views on the equator: S ∝ 1/sin θ, so mean(S) mean(1/S) = (π/2)(π/4)."""
    assert fourier_sampling(_views(torch.zeros(COUNT).double())).scf_star == pytest.approx(8 / math.pi**2, rel=0.02)


def test_one_view_samples_one_slab():
    """A share 1/2k of all directions, k = 50; the others count as two slices: 1/SCF* = 1/2k + (N/2k)/2 (2k − 1)."""
    sampling = fourier_sampling(_views(torch.ones(COUNT).double()))
    assert sampling.unsampled == pytest.approx(0.99, abs=1e-4)
    assert sampling.scf_star == pytest.approx(1 / (1 / 100 + 50 * 99), rel=1e-2)


@pytest.mark.parametrize("half_angle_deg", [30, 45, 60])
def test_top_views_leave_a_cone_empty(half_angle_deg):
    """Views within α of z: the slice of d at θ has an arc 2 acos(cos α / sin θ) of them, none where sin θ < cos α."""
    alpha = math.radians(half_angle_deg)
    sampling = fourier_sampling(_cap(alpha))
    passes = sampling.slices > 0
    assert sampling.unsampled == pytest.approx(1 - math.sin(alpha), abs=0.015)

    def relative(z):
        return 2 * math.acos(math.cos(alpha) / math.sqrt(1 - z * z)) / (math.pi * (1 - math.cos(alpha)))

    sampled = 0.93 * math.sin(alpha)  # away from the edge, which the slab's thickness blurs
    expected = quad(relative, 0, sampled)[0] / sampled, quad(lambda z: 1 / relative(z), 0, sampled)[0] / sampled
    slices = sampling.slices[passes & (sampling.directions[:, 2] < sampled)].double() / 100
    assert float(slices.mean()) == pytest.approx(expected[0], rel=0.03)
    assert float((1 / slices).mean()) == pytest.approx(expected[1], rel=0.03)


def test_two_slices_stand_for_none():
    """Half of the directions have S = 4, the others none: mean(S) = 2, SCF = 4/2, q/p = 1."""
    sampling = FourierSampling(torch.eye(4, 3).double(), torch.tensor([4, 4, 0, 0]))
    assert sampling.unsampled == 0.5
    assert sampling.scf_star == pytest.approx(1 / (2 / 4 + 2 / 2))


def test_sampling_does_not_depend_on_the_frame():
    rotations = _cap(math.radians(75))
    expected = fourier_sampling(rotations)
    for each in random_rotations(3, _generator(5)):
        found = fourier_sampling(each @ rotations)
        assert found.scf_star == pytest.approx(expected.scf_star, rel=0.1)
        assert found.unsampled == pytest.approx(expected.unsampled, abs=0.005)


def test_symmetric_particles_are_seen_from_all_equivalent_views():
    """Against a loop over the group: 300 particles of D3 are 1,800 slices, counted on a sphere of radius 9."""
    rotations, group = random_rotations(300, _generator(6)), PointGroup.named("D3").matrices()
    sampling = fourier_sampling(rotations, group)
    expected = sum(((each @ rotations)[:, :, 2] @ sampling.directions.T).abs().lt(0.5 / 9).sum(0) for each in group)
    assert int((sampling.slices != expected).sum()) <= 2  # single precision at the edges
    assert float(sampling.slices.double().mean()) == pytest.approx(100, rel=0.02)


@pytest.mark.parametrize("n", [16, 17])
def test_a_cone_of_90_degrees_is_the_usual_correlation(n):
    a, b = torch.randn(2, n, n, n, generator=_generator(), dtype=torch.float64)
    a += b
    found = conical_fsc(a, b, half_angle_deg=90.0)
    expected = fourier_shell_correlation(a, b)
    assert torch.equal(found.frequency, expected.frequency)
    torch.testing.assert_close(found.value, expected.value.expand(122, -1), rtol=0, atol=2e-6)
    assert found.area_ratio == pytest.approx(1)


@pytest.mark.parametrize("n", [20, 21])
def test_a_cone_is_the_sum_over_its_points(n):
    """Against a plain loop where the cone has many points; the whole shell counts where it has few."""
    a, b = torch.randn(2, n, n, n, generator=_generator(), dtype=torch.float64)
    a += b
    axis = torch.nn.functional.normalize(torch.tensor([[1.0, -2.0, 2.0]], dtype=torch.float64), dim=1)
    found = conical_fsc(a, b, axis, 25.0).value[0]
    x, y = centred_fft(a, ndim=3), centred_fft(b, ndim=3)
    cosine = (torch.nn.functional.normalize(frequency_vectors(n, 3), dim=-1) @ axis[0]).abs()
    whole = fourier_shell_correlation(a, b).value
    for s in range((n - 1) // 2):
        p = (radii(n, 3).round() == s) & (cosine >= math.cos(math.radians(25)))
        many = int(p.sum()) >= 20
        assert many == (s >= 5)
        expected = (x[p] * y[p].conj()).sum().real / (x[p].norm() * y[p].norm()) if many else whole[s]
        assert float(found[s]) == pytest.approx(float(expected), abs=1e-5)


def _smeared(n: int, reach: float, axis: Tensor, seed: int) -> Tensor:
    """A half-map that shares with others what its transform has within ``reach`` shells along the axis."""
    common = torch.randn(n, n, n, generator=_generator(9), dtype=torch.float64)
    own = torch.randn(n, n, n, generator=_generator(seed), dtype=torch.float64)
    along = (frequency_vectors(n, 3) @ axis) * n / (2 * math.pi)
    seen = along.abs() < reach
    return centred_ifft(torch.where(seen, centred_fft(common, ndim=3), centred_fft(own, ndim=3)), ndim=3).real


@pytest.mark.parametrize("n", [48, 49])
def test_a_smeared_axis_is_found(n):
    """Signal ends at k_∥ = 6 shells of 24: along the axis there, across it nowhere."""
    axis = torch.nn.functional.normalize(torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64), dim=0)
    found = conical_fsc(_smeared(n, 6.0, axis, 1), _smeared(n, 6.0, axis, 2))
    cosine = (found.axes @ axis).abs()
    assert float(cosine[found.areas().argmin()]) > math.cos(math.radians(20))
    periods = found.cutoffs_A(1.0)
    assert float(periods[cosine.argmax()]) == pytest.approx(n / 6.2, rel=0.25)  # the cone ends at 6 / cos 20°
    across = cosine < math.sin(math.radians(10))
    assert float(periods[across].max()) < 2.3
    assert found.area_ratio < 0.1


def test_the_area_is_that_of_shells_to_the_first_crossing():
    """One up to k shells, nothing beyond: Σ s², with the last shell cut where the line between shells crosses 0.143."""
    found = conical_fsc(*2 * [torch.randn(16, 16, 16, generator=_generator(), dtype=torch.float64)])
    assert found.area_ratio == pytest.approx(1)
    assert float(found.areas()[0]) == pytest.approx(sum(s * s for s in range(8)) + 64 / 2, rel=1e-5)
    found.value[1, 5:] = 0  # crosses at 4 + (1 − 0.143): a whole shell 4, and 0.357 of shell 5, which is empty
    assert float(found.areas()[1]) == pytest.approx(30, rel=1e-5)
    found.value[2] = -1.0
    assert float(found.areas()[2]) == 0
    assert found.area_ratio == 0


def test_directional_correlation_follows_the_map():
    """Rotated by a quarter about z, both maps and axes: the curves are the same."""
    a, b = torch.randn(2, 17, 17, 17, generator=_generator(), dtype=torch.float64)
    a += b
    rotated = [torch.rot90(grid, 1, (1, 2)) for grid in (a, b)]  # content from x towards −y in array axes (y, x)
    found = conical_fsc(a, b)
    x, y, z = found.axes.unbind(1)
    turned = conical_fsc(*rotated, torch.stack([y, -x, z], dim=1))
    torch.testing.assert_close(turned.value, found.value, rtol=0, atol=1e-5)


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(InputError, match="cubes of one size"):
        conical_fsc(torch.zeros(8, 8, 8), torch.zeros(9, 9, 9))

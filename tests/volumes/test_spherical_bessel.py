import math

import numpy as np
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.volumes.base import Volume
from orbitrec.volumes.spherical_bessel import (
    SphericalBesselBasis,
    SphericalBesselVolume,
    bessel_zeros,
    real_spherical_harmonics,
)
from orbitrec.volumes.voxel import VoxelVolume


def volume(radius: float = 12.0, k_max: float = 0.6, seed: int = 0) -> SphericalBesselVolume:
    basis = SphericalBesselBasis(radius, k_max)
    w = torch.randn(len(basis), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return SphericalBesselVolume(basis, w)


def test_zeros_are_the_tabulated_ones():
    # Abramowitz and Stegun, table 10.6; the zeros of j_0 are multiples of π.
    zeros = bessel_zeros(11.0)
    assert np.allclose(zeros[0], math.pi * np.arange(1, 4), rtol=1e-14)
    assert np.allclose(zeros[1], [4.493409457909064, 7.725251836937707, 10.904121659428900], rtol=1e-13)
    assert np.allclose(zeros[2], [5.763459196894550, 9.095011330476355], rtol=1e-13)
    assert np.allclose(zeros[3], [6.987932000500519, 10.417118547379364], rtol=1e-13)
    assert len(zeros) == 7  # the first zero of j_6 is 10.5128, that of j_7 is 11.6570
    assert np.allclose(zeros[6], [10.512835408093999], rtol=1e-13)


def test_harmonics_are_orthonormal_and_real_polynomials_of_low_degree():
    points = spherical_design(13)
    y = real_spherical_harmonics(points, 6)
    assert torch.allclose(4 * math.pi * y.T @ y / len(points), torch.eye(49, dtype=torch.float64), atol=1e-12)
    axis = math.sqrt(3 / (4 * math.pi)) * points
    assert torch.allclose(y[:, 1:4], axis[:, [1, 2, 0]])  # m = −1, 0, 1 are y, z, x
    assert torch.allclose(y[:, 4], math.sqrt(15 / (4 * math.pi)) * points[:, 0] * points[:, 1])


@pytest.mark.parametrize("n", [28, 29])
def test_transform_is_that_of_the_sampled_density(n):
    v = volume()
    generator = torch.Generator().manual_seed(1)
    points = 0.35 * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    expected = VoxelVolume(v.to_grid(n)).fourier(points)
    # Sampling aliases by the transform beyond 2π − k, where it has fallen like k⁻².
    found = v.fourier(points)
    assert float((found - expected).abs().max() / expected.abs().max()) < 5e-3
    assert torch.allclose(v.fourier(-points), found.conj(), atol=1e-12)  # a real density


def test_coefficients_are_isometric():
    a, b = volume(seed=2), volume(seed=3)
    x, y = a.to_grid(26), b.to_grid(26)
    assert float((x * x).sum()) == pytest.approx(float(a.coefficients @ a.coefficients), rel=5e-3)
    scale = float(a.coefficients.norm() * b.coefficients.norm())
    assert float((x * y).sum()) == pytest.approx(float(a.coefficients @ b.coefficients), abs=5e-3 * scale)


def test_radial_functions_are_continuous_at_their_own_frequency():
    basis = SphericalBesselBasis(12.0, 0.6)
    u = basis.frequency
    at, beside = basis.radial(u).diagonal(), basis.radial(u * (1 + 1e-5)).diagonal()
    assert torch.allclose(at, beside, rtol=1e-4)


def test_a_volume_keeps_its_coefficients_in_a_larger_basis():
    v = volume()
    larger = SphericalBesselBasis(12.0, 0.8)
    same = SphericalBesselVolume(larger, v.basis.embed(v.coefficients, larger))
    points = 0.5 * torch.randn(50, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert len(larger) > len(v.basis)
    assert torch.allclose(same.fourier(points), v.fourier(points), atol=1e-10)
    with pytest.raises(InputError, match="same radius"):
        larger.embed(same.coefficients, v.basis)


@pytest.mark.parametrize(
    ("dtype", "complex_dtype"), [(torch.float32, torch.complex64), (torch.float64, torch.complex128)]
)
def test_dtype_follows_the_points(dtype, complex_dtype):
    v = volume()
    assert isinstance(v, Volume)
    points = torch.tensor([[0.1, 0.2, -0.3], [0.0, 0.0, 0.0]], dtype=dtype)
    found = v.fourier(points)
    assert found.dtype == complex_dtype
    # At the origin the transform is the density's integral.
    assert float(found[1].real) == pytest.approx(float(v.to_grid(28).sum()), rel=1e-2)


def test_too_small_a_basis_is_said():
    with pytest.raises(InputError, match="no basis function"):
        SphericalBesselBasis(3.0, 0.5)

import math

import numpy as np
import pytest
import torch
from scipy.special import spherical_jn

from orbitrec.errors import InputError
from orbitrec.volumes.base import Volume
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume, bessel_zeros
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


@pytest.mark.parametrize("largest", [4.0, 25.3])
def test_no_zero_is_missed(largest):
    zeros = bessel_zeros(largest)
    x = np.linspace(1e-3, largest, 10_000)
    for degree in range(len(zeros) + 3):
        j = spherical_jn(degree, x)
        # Below x = l/2, long before the first zero, j_l underflows.
        changes = int((np.sign(j[1:]) != np.sign(j[:-1]))[x[1:] > degree / 2].sum())
        assert changes == (len(zeros[degree]) if degree < len(zeros) else 0)


@pytest.mark.parametrize("largest", [25.0, 45.0])
def test_the_number_of_coefficients_is_weyls_law(largest):
    # Eigenvalues of the Laplacian in a ball below k²: V k³/6π² − S k²/16π + O(k).
    count = len(SphericalBesselBasis(largest / 0.5, 0.5))
    volume, surface = 2 / (9 * math.pi) * largest**3, largest**2 / 4
    assert count == pytest.approx(volume - surface, rel=0.04)
    assert count == pytest.approx(volume, rel=0.2)


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


def test_what_sampling_changes_falls_with_the_voxel():
    # The kink on the ball's surface is all that a lattice does not see: one volume at 8 and at 16 voxels to the radius.
    errors = []
    for radius in (8.0, 16.0):
        v = volume(radius, 10.0 / radius)
        points = 4.0 / radius * torch.randn(200, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        exact = v.fourier(points)
        sampled = VoxelVolume(v.to_grid(2 * int(radius) + 3)).fourier(points)
        errors.append(float((sampled - exact).abs().max() / exact.abs().max()))
    assert errors[1] < min(2e-3, errors[0] / 2)


def test_coefficients_are_isometric():
    a, b = volume(seed=2), volume(seed=3)
    x, y = a.to_grid(26), b.to_grid(26)
    assert float((x * x).sum()) == pytest.approx(float(a.coefficients @ a.coefficients), rel=5e-3)
    scale = float(a.coefficients.norm() * b.coefficients.norm())
    assert float((x * y).sum()) == pytest.approx(float(a.coefficients @ b.coefficients), abs=5e-3 * scale)


def test_functions_are_the_documented_ones_inside_the_ball_and_zero_outside():
    basis, n = SphericalBesselBasis(6.0, 1.1), 15
    x = torch.arange(n, dtype=torch.float64) - n // 2
    z, y, x = torch.meshgrid(x, x, x, indexing="ij")
    r = (x * x + y * y + z * z).sqrt()
    unit = torch.stack([x, y, z], dim=-1) / r.clamp(min=1e-300)[..., None]
    closed = {
        0: torch.full_like(r, math.sqrt(1 / (4 * math.pi))),
        1: math.sqrt(3 / (4 * math.pi)) * unit[..., 1],
        3: math.sqrt(3 / (4 * math.pi)) * unit[..., 0],
    }
    tried = 0
    for i, (lm, frequency) in enumerate(zip(basis.lm.tolist(), basis.frequency.tolist(), strict=True)):
        if lm in closed:
            l, one = math.isqrt(lm), torch.eye(len(basis), dtype=torch.float64)[i]
            norm = math.sqrt(2 / 6.0**3) / abs(spherical_jn(l + 1, frequency * 6.0))
            inside = norm * torch.from_numpy(spherical_jn(l, frequency * r.numpy())) * closed[lm]
            grid = SphericalBesselVolume(basis, one).to_grid(n)
            assert torch.allclose(grid, torch.where(r < 6.0, inside, 0.0), atol=1e-9)
            tried += 1
    assert tried == 4


def test_radial_functions_are_their_integrals():
    # F_ls(k) = 4π ∫ r² N j_l(ur/R) j_l(kr) dr by Gauss–Legendre, at k = u/R too, where the closed form is 0/0.
    basis = SphericalBesselBasis(7.0, 1.6)
    R, at_zero = basis.radius, basis.frequency.unique()[:6]
    k = torch.cat([torch.linspace(0.0, 2.5, 30, dtype=torch.float64), at_zero, at_zero * (1 + 1e-7), at_zero * 1.001])
    x, w = np.polynomial.legendre.leggauss(60)
    r, w = (x + 1) / 2 * R, w / 2 * R
    found = basis.radial(k)
    scale = float(found.abs().max())
    for i, (lm, frequency) in enumerate(zip(basis.lm.tolist(), basis.frequency.tolist(), strict=True)):
        l = math.isqrt(lm)
        norm = math.sqrt(2 / R**3) / abs(spherical_jn(l + 1, frequency * R))
        integrand = r**2 * norm * spherical_jn(l, frequency * r) * spherical_jn(l, k.numpy()[:, None] * r)
        assert np.allclose(found[i].numpy(), 4 * math.pi * integrand @ w, atol=1e-7 * scale, rtol=0)


def test_a_volume_keeps_its_coefficients_in_a_larger_basis():
    v = volume()
    larger = SphericalBesselBasis(12.0, 0.8)
    same = SphericalBesselVolume(larger, v.basis.embed(v.coefficients, larger))
    points = 0.5 * torch.randn(50, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert len(larger) > len(v.basis)
    assert torch.allclose(same.fourier(points), v.fourier(points), atol=1e-10)
    with pytest.raises(InputError, match="same radius"):
        larger.embed(same.coefficients, v.basis)
    with pytest.raises(InputError, match="same radius"):
        v.basis.embed(v.coefficients, SphericalBesselBasis(12.5, 0.8))


def test_the_part_of_a_volume_in_a_smaller_basis_is_the_nearest_there():
    larger = SphericalBesselBasis(12.0, 0.8)
    smaller = SphericalBesselBasis(12.0, 0.5)
    w = torch.randn(len(larger), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    part = larger.restrict(w, smaller)
    rest = w - smaller.embed(part, larger)  # functions are orthonormal: the nearest leaves what they are normal to
    assert rest[larger.frequency <= float(smaller.frequency.max())].eq(0).all()
    assert torch.equal(smaller.embed(part, larger)[larger.frequency <= 0.5], w[larger.frequency <= 0.5])
    with pytest.raises(InputError, match="same radius"):
        smaller.restrict(part, larger)
    with pytest.raises(InputError, match="same radius"):
        larger.restrict(w, SphericalBesselBasis(12.5, 0.5))


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

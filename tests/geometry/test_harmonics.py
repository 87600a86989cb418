"""Real spherical harmonics against polynomials, and the index that counts them."""

import math

import numpy as np
import torch
from scipy.special import sph_harm_y

from orbitrec.geometry.harmonics import (
    degree_of,
    harmonic_count,
    harmonic_index,
    harmonic_phases,
    harmonics_of_degree,
    largest_degree,
    nonconstant_harmonics,
    order_of,
    real_spherical_harmonics,
)
from orbitrec.geometry.quadrature import spherical_design


def test_harmonics_are_orthonormal_and_real_polynomials_of_low_degree():
    points = spherical_design(13)
    y = real_spherical_harmonics(points, 6)
    assert torch.allclose(4 * math.pi * y.T @ y / len(points), torch.eye(49, dtype=torch.float64), atol=1e-12)
    axis = math.sqrt(3 / (4 * math.pi)) * points
    assert torch.allclose(y[:, 1:4], axis[:, [1, 2, 0]])  # m = −1, 0, 1 are y, z, x
    assert torch.allclose(y[:, 4], math.sqrt(15 / (4 * math.pi)) * points[:, 0] * points[:, 1])


def test_the_index_counts_every_degree_and_order_once():
    pairs = [(l, m) for l in range(40) for m in range(-l, l + 1)]
    lm = torch.tensor([harmonic_index(l, m) for l, m in pairs])
    assert lm.tolist() == list(range(harmonic_count(39)))
    assert degree_of(lm).tolist() == [l for l, _ in pairs]
    assert order_of(lm).tolist() == [m for _, m in pairs]
    assert largest_degree(len(lm)) == 39
    assert [lm[harmonics_of_degree(l)].numel() for l in range(40)] == [2 * l + 1 for l in range(40)]


def test_nonconstant_harmonics_have_mean_zero_and_mean_square_one():
    points = spherical_design(13)
    values = nonconstant_harmonics(points, 6)
    assert torch.allclose(values.mean(0), torch.zeros(48, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(values.mT @ values / len(points), torch.eye(48, dtype=torch.float64), atol=1e-11)
    assert nonconstant_harmonics(points, 0).shape == (len(points), 0)


def test_phases_are_exact_powers():
    phases = harmonic_phases(7)
    assert phases[harmonic_index(1, 0)] == -1j
    assert phases[harmonic_index(2, -2)] == -1


def test_harmonics_are_those_of_scipy_to_high_degree_at_the_poles_and_at_the_origin():
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points[:4] = torch.tensor([[0, 0, 2.0], [0, 0, -1.0], [1e-9, 0, 1.0], [0, 0, 0]])
    y, (theta, phi) = real_spherical_harmonics(points, 60), _angles(points)
    for l, m in [(0, 0), (1, -1), (1, 1), (2, 1), (37, 0), (60, 3), (60, -31), (60, 60)]:
        value = sph_harm_y(l, abs(m), theta, phi) * (1 if m == 0 else math.sqrt(2) * (-1) ** m)
        expected = torch.from_numpy(value.imag if m < 0 else value.real)
        assert torch.allclose(y[:, harmonic_index(l, m)], expected, atol=1e-12)


def _angles(points: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    x, y, z = points.numpy().T
    return np.arctan2(np.hypot(x, y), z), np.arctan2(y, x)

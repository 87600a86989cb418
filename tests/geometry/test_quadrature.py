"""Exactness of the quadrature rules, checked without the spherical harmonics that the designs were solved with."""

import math

import numpy as np
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.quadrature import circle_rule, design_circle_rule, design_sizes, spherical_design
from orbitrec.geometry.rotations import direction_frames, matrix_to_euler

DEGREES = list(design_sizes())


def zonal_means(points: torch.Tensor, top: int) -> torch.Tensor:
    """Mean over the points of P_l(u·x) for 2 top + 1 random axes u: (l = 0 … top, axes).

    By the addition theorem these are combinations of the means of Y_lm that determine them, since 2l + 1 zonal
    functions about axes in general position span degree l.
    """
    generator = torch.Generator().manual_seed(7)
    axes = torch.randn(2 * top + 1, 3, generator=generator, dtype=points.dtype)
    cosine = axes / axes.norm(dim=1, keepdim=True) @ points.T
    previous, current = torch.ones_like(cosine), cosine
    means = [previous.mean(1), current.mean(1)]
    for degree in range(2, top + 1):
        previous, current = current, ((2 * degree - 1) * cosine * current - (degree - 1) * previous) / degree
        means.append(current.mean(1))
    return torch.stack(means)


def wigner_small_d(degree: int, tilt: np.ndarray) -> np.ndarray:
    """``d^l_mn(β) = ⟨m| exp(−iβ J_y) |n⟩`` from the spectrum of J_y, shape (tilts, 2l + 1, 2l + 1)."""
    m = np.arange(-degree, degree)
    raise_ = np.diag(np.sqrt(degree * (degree + 1) - m * (m + 1)), -1)  # J₊|m⟩ ∝ |m + 1⟩
    spectrum, vectors = np.linalg.eigh((raise_ - raise_.T) / 2j)
    return np.real((vectors * np.exp(-1j * tilt[:, None, None] * spectrum)) @ vectors.conj().T)


def mean_wigner(rotations: torch.Tensor, degree: int) -> np.ndarray:
    """Mean over the rotations of ``D^l_mn = e^{−im rot} d^l_mn(tilt) e^{−in psi}``."""
    rot, tilt, psi = np.deg2rad(matrix_to_euler(rotations.reshape(-1, 3, 3)).numpy()).T
    m = np.arange(-degree, degree + 1)
    left, right = np.exp(-1j * np.outer(rot, m)), np.exp(-1j * np.outer(psi, m))
    return np.einsum("jm,jmn,jn->mn", left, wigner_small_d(degree, tilt), right) / len(rot)


def largest_mean_wigner(rotations: torch.Tensor, top: int) -> float:
    """Largest entry of the means of D¹ … D^top, whose integrals are all zero."""
    return max(np.abs(mean_wigner(rotations, degree)).max() for degree in range(1, top + 1))


@pytest.mark.parametrize("degree", DEGREES)
def test_designs_are_exact_to_their_degree_and_no_further(degree: int) -> None:
    means = zonal_means(spherical_design(degree), degree + 1)
    torch.testing.assert_close(means[0], torch.ones_like(means[0]), rtol=0, atol=1e-13)
    assert means[1 : degree + 1].abs().max() < 1e-13
    assert means[degree + 1].abs().max() > 1e-4


@pytest.mark.parametrize("degree", [3, 13, 41])
def test_designs_integrate_monomials(degree: int) -> None:
    # ∫ x^a y^b z^c = (a−1)!! (b−1)!! (c−1)!! / (a+b+c+1)!! when all are even and 0 otherwise.
    # Degrees t and t − 1 suffice: a lower monomial times a power of x² + y² + z² = 1 is a sum of these.
    def odd_factorial(n: int) -> float:
        return float(math.prod(range(n, 0, -2)))

    powers = spherical_design(degree) ** torch.arange(degree + 1, dtype=torch.float64)[:, None, None]
    for total in (degree - 1, degree):
        for a in range(total + 1):
            for b in range(total + 1 - a):
                c = total - a - b
                even = a % 2 == b % 2 == c % 2 == 0
                exact = math.prod(odd_factorial(p - 1) for p in (a, b, c)) / odd_factorial(total + 1) if even else 0
                measured = (powers[a, :, 0] * powers[b, :, 1] * powers[c, :, 2]).mean().item()
                assert measured == pytest.approx(exact, abs=1e-15), (a, b, c)


@pytest.mark.parametrize("degree", DEGREES)
def test_designs_are_antipodal_unit_vectors_without_repeats(degree: int) -> None:
    x = spherical_design(degree)
    half = len(x) // 2
    assert len(x) == design_sizes()[degree]
    torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x), dtype=torch.float64), rtol=0, atol=1e-15)
    assert torch.equal(x[half:], -x[:half])
    nearest = torch.acos((x @ x.T - 2 * torch.eye(len(x))).max())
    assert nearest > 0.7 * math.sqrt(4 * math.pi / len(x))


def test_the_shipped_range() -> None:
    sizes = design_sizes()
    assert sizes[3] == 6  # octahedron
    assert sizes[5] == 12  # icosahedron
    assert sizes[13] == 100  # the thesis, 2.4.2
    assert sorted(DEGREES) == DEGREES
    assert max(DEGREES) >= 59
    assert all(size <= 1.05 * (t + 1) ** 2 / 2 + 2 for t, size in sizes.items())


def test_smallest_sufficient_design_is_chosen() -> None:
    assert len(spherical_design(0)) == 6
    assert len(spherical_design(12)) == len(spherical_design(13)) == 100
    assert len(spherical_design(14)) == design_sizes()[15]


def test_a_design_can_be_changed_without_spoiling_the_next() -> None:
    spherical_design(5).zero_()
    assert spherical_design(5).norm() > 1


def test_too_high_a_degree_names_the_largest() -> None:
    with pytest.raises(InputError, match=f"at most {max(DEGREES)}"):
        spherical_design(max(DEGREES) + 1)


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_circle_rule_is_exact_below_count_and_aliases_there(count: int) -> None:
    m = torch.arange(count + 1, dtype=torch.float64)
    means = torch.exp(1j * m[:, None] * circle_rule(count)).mean(1).abs()
    expected = torch.zeros(count + 1, dtype=torch.float64)
    expected[0] = expected[count] = 1
    torch.testing.assert_close(means, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("count", [0, -3])
def test_an_empty_circle_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        circle_rule(count)


def test_rotations_are_frames_times_in_plane_turns() -> None:
    rotations = design_circle_rule(13, 12)
    assert rotations.shape == (100, 12, 3, 3)
    x = spherical_design(13)
    torch.testing.assert_close(rotations[..., :, 2], x[:, None].expand(-1, 12, -1))
    torch.testing.assert_close(rotations[:, 0], direction_frames(x))
    turn = rotations[:, :1].mT @ rotations
    wave = torch.complex(turn[..., 0, 0], turn[..., 1, 0])
    torch.testing.assert_close(wave, torch.exp(1j * circle_rule(12)).expand(100, -1))


def test_wigner_matrices_of_the_oracle_represent_the_group() -> None:
    # Guards the oracle: D¹ in the real basis is the rotation matrix, so its character is the trace.
    rotations = design_circle_rule(5, 3)
    character = np.array([np.trace(mean_wigner(r, 1)) for r in rotations.reshape(-1, 3, 3)])
    trace = rotations.reshape(-1, 3, 3).diagonal(dim1=-2, dim2=-1).sum(-1)
    np.testing.assert_allclose(character, trace.numpy(), atol=1e-13)


@pytest.mark.parametrize(("degree", "angles"), [(5, 6), (9, 4), (5, 9), (13, 14)])
def test_design_circle_rule_is_exact_to_the_smaller_degree(degree: int, angles: int) -> None:
    rotations = design_circle_rule(degree, angles)
    exact = min(degree, angles - 1)
    assert largest_mean_wigner(rotations, exact) < 1e-13
    assert np.abs(mean_wigner(rotations, exact + 1)).max() > 1e-3


def test_the_thesis_rule_aliases_at_degree_12() -> None:
    rotations = design_circle_rule(13, 12)
    assert largest_mean_wigner(rotations, 11) < 1e-13
    at_12 = np.abs(mean_wigner(rotations, 12))
    assert at_12[:, 1:-1].max() < 1e-13  # every |n| < 12 still vanishes: the circle is what fails
    assert at_12[:, [0, -1]].max() > 1e-2

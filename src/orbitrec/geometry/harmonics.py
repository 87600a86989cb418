"""Real spherical harmonics, and the one index by which they are counted.

The harmonic of degree l and order m, −l ≤ m ≤ l, has the index ``lm = l² + l + m``: degrees one after the other, orders
within a degree from −l to l. Negative orders are sines in the azimuth, the others cosines.
"""

import math

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy.special import sph_harm_y_all
from torch import Tensor

from orbitrec.geometry.point_groups import PointGroup


def harmonic_count(degree: int) -> int:
    """Number ``(degree + 1)²`` of harmonics up to ``degree``."""
    return (degree + 1) ** 2


def harmonic_index(l: int, m: int) -> int:
    """Index ``l² + l + m`` of the harmonic of degree l and order m."""
    return l * l + l + m


def harmonics_of_degree(l: int) -> slice:
    """The indices of all harmonics of degree l."""
    return slice(l * l, (l + 1) ** 2)


def degree_of(lm: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Degree l of the harmonics with indices ``lm``."""
    return (lm.double() + 0.5).sqrt().long()


def order_of(lm: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Order m of the harmonics with indices ``lm``."""
    degree = degree_of(lm)
    return lm - degree * (degree + 1)


def indices_by_parity(degree: int) -> tuple[Int[Tensor, "even"], Int[Tensor, "odd"]]:
    """Indices of the harmonics of even and of odd degree up to ``degree``: symmetric and antisymmetric functions."""
    odd = degree_of(torch.arange(harmonic_count(degree))) % 2
    return torch.nonzero(odd == 0).squeeze(1), torch.nonzero(odd).squeeze(1)


def largest_degree(count: int) -> int:
    """The degree up to which there are ``count`` harmonics; inverts :func:`harmonic_count`."""
    return math.isqrt(count) - 1


def real_spherical_harmonics(points: Float[Tensor, "*shape 3"], degree: int) -> Float[Tensor, "*shape lm"]:
    """Orthonormal real harmonics up to ``degree`` in the directions of ``points`` (float64).

    The Condon–Shortley sign is removed: ``Y_{l,m} = √2 (−1)^m Re Y_l^m`` and ``Y_{l,−m} = √2 (−1)^m Im Y_l^m`` for
    m > 0, so that ``Y_1`` is (y, z, x) up to a positive factor.
    """
    x, y, z = points.to(torch.float64).cpu().numpy().reshape(-1, 3).T
    theta, phi = np.arctan2(np.hypot(x, y), z), np.arctan2(y, x)
    out = np.empty((len(x), harmonic_count(degree)))
    table = sph_harm_y_all(degree, degree, theta, phi)
    for m in range(degree + 1):
        values = table[m:, m].T * (1 if m == 0 else math.sqrt(2) * (-1) ** m)
        ls = np.arange(m, degree + 1)
        out[:, ls * ls + ls + m] = values.real
        if m:
            out[:, ls * ls + ls - m] = values.imag
    return torch.from_numpy(out).reshape(*points.shape[:-1], -1)


def nonconstant_harmonics(points: Float[Tensor, "*shape 3"], degree: int) -> Float[Tensor, "*shape h"]:
    """Real harmonics of degrees 1 … ``degree``, scaled to mean square 1 over the sphere (float64)."""
    return real_spherical_harmonics(points, degree)[..., 1:] * math.sqrt(4 * math.pi)


def harmonic_phases(degree: int) -> Complex[Tensor, "lm"]:
    """``(−i)^l`` of every harmonic up to ``degree``, exact (torch's complex power is off by 3e-6 at l = 39)."""
    return torch.tensor([(-1j) ** l for l in range(degree + 1) for _ in range(2 * l + 1)], dtype=torch.complex128)


def invariant_orders(l: int, group: PointGroup) -> list[int]:
    """The orders m whose real harmonic of degree l is the same after every rotation of a point group.

    A rotation about z by 2π/n leaves those that n divides. The rotation about x by π takes θ to π − θ and φ to −φ:
    ``P_lm`` gets the sign ``(−1)^{l+m}``, cosines stay and sines change sign.
    """
    kept = [m for m in range(-l, l + 1) if m % group.fold == 0]
    if not group.dihedral:
        return kept
    return [m for m in kept if (l + m) % 2 == (0 if m >= 0 else 1)]

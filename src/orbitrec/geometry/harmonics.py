"""Real spherical harmonics, and the one index by which they are counted.

The harmonic of degree l and order m, −l ≤ m ≤ l, has the index ``lm = l² + l + m``: degrees one after the other, orders
within a degree from −l to l. Negative orders are sines in the azimuth, the others cosines.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Complex, Float, Int, Shaped
from scipy.special import sph_harm_y
from torch import Tensor

from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.geometry.quadrature import spiral_points


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
    cosine, sine = np.cos(theta), np.sin(theta)
    diagonal = np.full(len(x), 1 / math.sqrt(4 * math.pi))  # √2 times the normalised Legendre function P_mm, for m > 0
    out = np.empty((harmonic_count(degree), len(x)))
    for m in range(degree + 1):
        if m:
            diagonal = diagonal * sine * math.sqrt((2 * m + 1) / (2 * m) * (2 if m == 1 else 1))
        along, across = np.cos(m * phi), np.sin(m * phi)
        # Degrees l = m, m + 1, … by the recursion of three terms (Holmes and Featherstone 2002, eq. 11).
        before, legendre, last = np.zeros_like(diagonal), diagonal, 0.0
        for l in range(m, degree + 1):
            out[harmonic_index(l, m)] = legendre * along
            if m:
                out[harmonic_index(l, -m)] = legendre * across
            factor = math.sqrt((4 * (l + 1) ** 2 - 1) / ((l + 1) ** 2 - m**2))
            before, legendre, last = legendre, factor * (cosine * legendre - last * before), 1 / factor
    return torch.from_numpy(out).mT.reshape(*points.shape[:-1], -1)


def harmonic_phases(degree: int) -> Complex[Tensor, "lm"]:
    """``(−i)^l`` of every harmonic up to ``degree``, exact (torch's complex power is off by 3e-6 at l = 39)."""
    return torch.tensor([(-1j) ** l for l in range(degree + 1) for _ in range(2 * l + 1)], dtype=torch.complex128)


def _of_degree(points: Float[Tensor, "x 3"], l: int) -> Float[Tensor, "x m"]:
    """The columns of degree l of :func:`real_spherical_harmonics` at unit vectors."""
    x, y, z = points.numpy().T
    table = sph_harm_y(l, np.arange(l + 1), np.arctan2(np.hypot(x, y), z)[:, None], np.arctan2(y, x)[:, None])
    table[:, 1:] *= math.sqrt(2) * (-1.0) ** np.arange(1, l + 1)
    return torch.from_numpy(np.concatenate([table.imag[:, :0:-1], table.real], axis=1))


@cache
def _invariant_vectors(l: int, group: PointGroup) -> Float[Tensor, "m i"]:
    """Orthonormal combinations of the harmonics of degree l that a group leaves as they are, one a column.

    What is invariant under the generators is so under the group: singular vectors of the value 0 of their matrices
    minus 1. The projector on their span is the mean over the group. Its columns are orthonormalised, the longest first
    (pivoted Cholesky), so that a harmonic which is invariant by itself stays by itself: for Cn and Dn all are.
    """
    points = spiral_points(4 * l + 4)  # twice as many as there are harmonics
    here, *there = (_of_degree(points @ turn.mT, l) for turn in (torch.eye(3).double(), *group.generators()))
    moved = torch.cat([torch.linalg.lstsq(here, each - here).solution for each in there])
    _, values, vectors = torch.linalg.svd(moved)
    same = vectors[values < 1e-6]
    rest = same.mT @ same
    columns = []
    for _ in range(len(same)):
        length = rest.diagonal()
        pivot = int((length > float(length.max()) - 1e-9).nonzero()[0])
        column = rest[:, pivot] / length[pivot].sqrt()
        columns.append(torch.where(column.abs() < 1e-12, 0.0, column))
        rest = rest - torch.outer(column, column)
    return torch.stack(columns, dim=1) if columns else rest[:, :0]


@dataclass(frozen=True)
class InvariantHarmonics:
    """Orthonormal real functions on the sphere that a point group leaves as they are; without one, the harmonics.

    They are counted degree by degree. Every one of them is a combination of harmonics of one degree: the span of all of
    these is the image of the projector averaged over the group.

    Attributes:
        degree: the largest.
        group: the point group.
    """

    degree: int
    group: PointGroup = NO_SYMMETRY

    def __len__(self) -> int:
        return len(self.degrees)

    @cached_property
    def counts(self) -> list[int]:
        """How many there are of each degree."""
        if self.group.order == 1:
            return [2 * l + 1 for l in range(self.degree + 1)]
        return [_invariant_vectors(l, self.group).shape[1] for l in range(self.degree + 1)]

    @cached_property
    def degrees(self) -> Int[Tensor, "i"]:
        """Degree of each function."""
        return torch.repeat_interleave(torch.arange(self.degree + 1), torch.tensor(self.counts))

    @cached_property
    def by_parity(self) -> tuple[Int[Tensor, "even"], Int[Tensor, "odd"]]:
        """Indices of the functions of even and of odd degree: symmetric and antisymmetric ones."""
        odd = self.degrees % 2
        return torch.nonzero(odd == 0).squeeze(1), torch.nonzero(odd).squeeze(1)

    @cached_property
    def phases(self) -> Complex[Tensor, "i"]:
        """``(−i)^l`` of every function."""
        return torch.tensor([(-1j) ** l for l in self.degrees.tolist()], dtype=torch.complex128)

    @cached_property
    def _matrix(self) -> Float[Tensor, "lm i"]:
        return torch.block_diag(*(_invariant_vectors(l, self.group) for l in range(self.degree + 1)))

    def combined(self, harmonics: Shaped[Tensor, "*shape lm"]) -> Shaped[Tensor, "*shape i"]:
        """What is known of the harmonics, along the last axis, for these functions: without a group the same."""
        return harmonics if self.group.order == 1 else harmonics @ self._matrix.to(harmonics.dtype)

    def values(self, points: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape i"]:
        """The functions in the directions of ``points`` (float64)."""
        return self.combined(real_spherical_harmonics(points, self.degree))


def nonconstant_harmonics(
    points: Float[Tensor, "*shape 3"], degree: int, group: PointGroup = NO_SYMMETRY
) -> Float[Tensor, "*shape h"]:
    """Invariant harmonics of degrees 1 … ``degree``.

    Args:
        points: unit vectors.
        degree: the highest.
        group: that leaves them as they are.

    Returns:
        Their values, scaled to mean square 1 over the sphere (float64).
    """
    return InvariantHarmonics(degree, group).values(points)[..., 1:] * math.sqrt(4 * math.pi)

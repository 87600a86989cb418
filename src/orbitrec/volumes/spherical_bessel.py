"""Volumes of compact support: real spherical harmonics × spherical Bessel functions (thesis 3.9).

Inside the ball of radius R (pixels) the orthonormal real basis is

    ψ_{lms}(x) = sqrt(2/R³)/|j_{l+1}(u_ls)| · j_l(u_ls |x|/R) · Y_lm(x/|x|),     j_l(u_ls) = 0,

whose transform is ``(−i)^l F_ls(|k|) Y_lm(k/|k|)``. Every pair (l, s) with ``u_ls ≤ k_max R`` is kept, so the number of
real coefficients is about ``(2/9π)(R k_max)³``, the number of degrees of freedom of an object of that size and
resolution.
"""

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy.special import jv, spherical_jn
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.grids import pixel_vectors
from orbitrec.geometry.harmonics import InvariantHarmonics
from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup

HALVINGS = 50
"""Of an interval between two zeros, which are less than 5 apart: to the last bits of float64."""


@cache
def bessel_zeros(max_value: float) -> list[np.ndarray]:
    """Positive zeros of j_l up to ``max_value``, for l = 0, 1, … until there is none.

    Zeros of j_{l+1} interlace those of j_l, so each is bracketed by its neighbours below: halving finds all at once.
    """
    count = int(max_value / math.pi) + 2
    below = math.pi * np.arange(1, count + int(max_value) + 3)
    zeros: list[np.ndarray] = []
    for degree in range(int(max_value) + 2):
        kept = below[below <= max_value]
        if not len(kept):
            break
        zeros.append(kept)
        low, high = below[:-1], below[1:]
        left = np.sign(jv(degree + 1.5, low))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            same = np.sign(jv(degree + 1.5, middle)) == left
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        below = (low + high) / 2
    return zeros


@dataclass(frozen=True)
class SphericalBesselBasis:
    """Indices and radial functions of the basis for ``radius`` pixels and ``k_max`` radians per pixel.

    Attributes:
        radius: of the ball, in pixels.
        k_max: largest frequency of a function, in radians per pixel.
        max_degree: largest degree l of a function, the thesis's L; without limit if None.
        max_radial: largest number of radial functions of a degree, the thesis's S(l); without limit if None.
        group: point group; only functions that its rotations leave as they are belong to the basis, so that every
            volume in it has the symmetry.

    Raises:
        InputError: if the two do not leave a single function.
    """

    radius: float
    k_max: float
    max_degree: int | None = None
    max_radial: int | None = None
    group: PointGroup = NO_SYMMETRY

    def __post_init__(self) -> None:
        if self.radius * self.k_max < math.pi:
            raise InputError(
                f"a ball of {self.radius:g} px up to k_max {self.k_max:g} has no basis function; raise one of them"
            )

    @classmethod
    def of_degrees(cls, radius: float, degree: int, radial: int) -> "SphericalBesselBasis":
        """The basis of as many radial functions of every degree: the sum (3.9) with L and a constant S(l).

        Args:
            radius: of the ball, in pixels.
            degree: largest degree L.
            radial: number S of radial functions of each degree.

        Returns:
            The basis, whose ``k_max`` is the frequency of its last function.
        """
        # The zeros of each degree lie below those of the next, and u_ls < π (s + l/2) + 2.
        last = bessel_zeros(math.pi * (radial + degree / 2) + 2)[degree][radial - 1]
        return cls(radius, float(last) / radius * (1 + 1e-12), degree, radial)

    def rescaled(self, length: float) -> "SphericalBesselBasis":
        """The same functions where lengths are counted in units of ``length`` pixels."""
        return replace(self, radius=self.radius / length, k_max=self.k_max * length)

    @cached_property
    def zeros(self) -> list[np.ndarray]:
        """Zeros u_ls, one array for each l."""
        found = bessel_zeros(self.radius * self.k_max)
        degrees = None if self.max_degree is None else self.max_degree + 1
        return [us[: self.max_radial] for us in found[:degrees]]

    @property
    def degree(self) -> int:
        """Largest l."""
        return len(self.zeros) - 1

    @cached_property
    def angular(self) -> InvariantHarmonics:
        """The angular functions: harmonics, or combinations of them that the group leaves as they are."""
        return InvariantHarmonics(self.degree, self.group)

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        rows = [(i, u) for i, l in enumerate(self.angular.degrees.tolist()) for u in self.zeros[l]]
        lm, u = zip(*rows, strict=True)
        return np.array(lm), np.array(u)

    def __len__(self) -> int:
        return len(self._index[0])

    def _for_each_order(self, radial: list[np.ndarray]) -> Float[Tensor, "p x"]:
        """Functions of every (l, s), one array for each l, repeated for every angular function of that degree."""
        blocks = (np.tile(block, (count, 1)) for count, block in zip(self.angular.counts, radial, strict=True))
        return torch.from_numpy(np.concatenate(list(blocks)))

    @cached_property
    def lm(self) -> Int[Tensor, "p"]:
        """Index of each coefficient's function among :attr:`angular`: without a group that of its harmonic."""
        return torch.from_numpy(self._index[0])

    @cached_property
    def frequency(self) -> Float[Tensor, "p"]:
        """Frequency ``u_ls / R`` of each coefficient's function, radians per pixel."""
        return torch.from_numpy(self._index[1] / self.radius)

    def radial(self, k: Float[Tensor, "k"]) -> Float[Tensor, "p k"]:
        """``F_ls(k) = 4π sqrt(2/R³) ± R² a j_l(kR) / (a² − k²)``, a = u_ls/R, for each coefficient (float64)."""
        R, kr = self.radius, (k.double().cpu() * self.radius).numpy()
        blocks = []
        for l, us in enumerate(self.zeros):
            sign = np.sign(spherical_jn(l + 1, us))[:, None]
            u, j = us[:, None], spherical_jn(l, kr)[None, :]
            gap = u * u - kr * kr
            near = np.abs(gap) < 1e-6 * u * u
            # At k = a the quotient's limit is j_{l+1}(u)/(2u), with R² taken out.
            ratio = np.where(near, spherical_jn(l + 1, u) / (2 * u), j / np.where(near, 1.0, gap))
            blocks.append(4 * math.pi * math.sqrt(2 / R**3) * sign * R**3 * u * ratio)
        return self._for_each_order(blocks)

    def angular_sum(self, radial: Float[Tensor, "p k"], w: Float[Tensor, "p"]) -> Float[Tensor, "lm k"]:
        """``A_lm(k) = Σ_s F_ls(k) w_lms``: the volume's harmonics on each shell, without the factor (−i)^l."""
        out = radial.new_zeros(len(self.angular), radial.shape[1])
        return out.index_add_(0, self.lm.to(radial.device), radial * w[:, None].to(radial.dtype))

    def radial_values(self, r: Float[Tensor, "r"]) -> Float[Tensor, "p r"]:
        """``sqrt(2/R³)/|j_{l+1}(u_ls)| · j_l(u_ls r/R)`` of each coefficient, r in pixels below R (float64)."""
        blocks = []
        for l, us in enumerate(self.zeros):
            norm = math.sqrt(2 / self.radius**3) / np.abs(spherical_jn(l + 1, us))[:, None]
            blocks.append(norm * spherical_jn(l, us[:, None] * r.numpy() / self.radius))
        return self._for_each_order(blocks)

    def values(self, points: Float[Tensor, "x 3"]) -> Float[Tensor, "x p"]:
        """``ψ_lms`` at points (x, y, z) in pixels inside the ball (float64)."""
        harmonics = self.angular.values(points)[:, self.lm]
        return self.radial_values(points.double().norm(dim=1)).mT * harmonics

    def embed(self, w: Float[Tensor, "p"], larger: "SphericalBesselBasis") -> Float[Tensor, "q"]:
        """The same volume's coefficients in a basis of the same radius and a larger ``k_max``.

        Raises:
            InputError: if the radii differ or the other basis is smaller.
        """
        if larger.radius != self.radius or larger.k_max < self.k_max:
            raise InputError(
                "coefficients can only be embedded in a basis of the same radius and of an equal or larger k_max"
            )
        out = w.new_zeros(len(larger))
        out[self._places_in(larger)] = w
        return out

    def restrict(self, w: Float[Tensor, "p"], smaller: "SphericalBesselBasis") -> Float[Tensor, "q"]:
        """The coefficients of a volume's part in a basis of the same radius and a smaller ``k_max``.

        Raises:
            InputError: if the radii differ or the other basis is larger.
        """
        if smaller.radius != self.radius or smaller.k_max > self.k_max:
            raise InputError(
                "coefficients can only be restricted to a basis of the same radius and of an equal or smaller k_max"
            )
        return w[smaller._places_in(self)]

    def _places_in(self, larger: "SphericalBesselBasis") -> list[int]:
        """Where the functions of this basis are in a larger one."""
        position = {(lm, round(u, 9)): i for i, (lm, u) in enumerate(zip(*larger._index, strict=True))}
        return [position[lm, round(u, 9)] for lm, u in zip(*self._index, strict=True)]


@dataclass(frozen=True)
class SphericalBesselVolume:
    """Real coefficients in a :class:`SphericalBesselBasis`; a real volume by construction."""

    basis: SphericalBesselBasis
    coefficients: Float[Tensor, "p"]

    def fourier(self, points: Float[Tensor, "... 3"]) -> Complex[Tensor, "..."]:
        """``v̂(k) = Σ (−i)^l F_ls(|k|) Y_lm w_lms`` at frequency vectors in radians per pixel."""
        flat = points.reshape(-1, 3).double()
        shell, inverse = torch.unique(flat.norm(dim=-1).mul(1e9).round().div(1e9), return_inverse=True)
        harmonics = self.basis.angular.values(flat)
        amplitude = self.basis.angular_sum(self.basis.radial(shell), self.coefficients.double())
        rotated = amplitude * self.basis.angular.phases[:, None]
        values = torch.einsum("pa,ap->p", harmonics.to(rotated.dtype), rotated[:, inverse])
        dtype = torch.complex128 if points.dtype == torch.float64 else torch.complex64
        return values.reshape(points.shape[:-1]).to(dtype)

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        """Density on an n³ grid; zero outside the ball."""
        points = pixel_vectors(n, 3).reshape(-1, 3)
        inside = points.norm(dim=-1) < self.basis.radius
        values = _density(self.basis, self.coefficients.double(), points[inside])
        out = torch.zeros(n**3, dtype=torch.float64)
        out[inside] = values
        return out.reshape(n, n, n).to(self.coefficients.dtype)


def _density(basis: SphericalBesselBasis, w: Float[Tensor, "p"], points: Float[Tensor, "x 3"]) -> Float[Tensor, "x"]:
    r2, inverse = torch.unique(points.square().sum(-1).mul(1e6).round(), return_inverse=True)
    amplitude = basis.angular_sum(basis.radial_values((r2 / 1e6).sqrt()), w)
    return torch.einsum("pa,ap->p", basis.angular.values(points), amplitude[:, inverse])

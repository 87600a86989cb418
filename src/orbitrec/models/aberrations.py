"""What a CTF's usual parameters leave out: beam tilt, trefoil, tetrafoil and anisotropic magnification.

In RELION (Zivanov, Nakane and Scheres 2020) an image's transform is multiplied by ``exp(iφ)`` with an odd φ, and an
even phase is added to χ. Both are sums of Zernike polynomials in the frequency s (x and y in 1/Å, on a disc of 1/Å);
beam tilt τ is the odd phase ``−2π C_s λ² |s|² (s·τ)``. A magnification M − 1 moves what lies at r by ``(M − 1) r``.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ANGLES = 360
"""Directions at which the largest phase is looked for."""


def odd_index(i: int) -> tuple[int, int]:
    """Degree n and order m of the i-th odd Zernike polynomial, in RELION's order."""
    half = (math.isqrt(1 + 4 * i) - 1) // 2
    n = 2 * half + 1
    return n, 2 * (i - half * (half + 1)) - n


def even_index(i: int) -> tuple[int, int]:
    """Degree n and order m of the i-th even Zernike polynomial, in RELION's order."""
    half = math.isqrt(i)
    return 2 * half, 2 * (i - half * (half + 1))


def zernike(n: int, m: int, points: Float[Tensor, "*b 2"], least_power: int = 0) -> Float[Tensor, "*b"]:
    """Zernike's polynomial ``R_n^|m|(r) cos mφ`` (m ≥ 0) or ``R_n^|m|(r) sin |m|φ`` (m < 0), not normalised.

    Args:
        n: degree.
        m: order, of the parity of ``n``.
        points: x and y.
        least_power: powers of r below it are left out.

    Returns:
        Its values.
    """
    x, y = points.unbind(-1)
    r, order = torch.hypot(x, y), abs(m)
    radial = torch.zeros_like(r)
    for k in range((n - order) // 2 + 1):
        if n - 2 * k >= least_power:
            below = math.factorial(k) * math.factorial((n + order) // 2 - k) * math.factorial((n - order) // 2 - k)
            radial += (-1) ** k * (math.factorial(n - k) // below) * r ** (n - 2 * k)
    angle = order * torch.atan2(y, x)
    return radial * (angle.sin() if m < 0 else angle.cos())


@dataclass(frozen=True, eq=False)
class Aberrations:
    """Aberrations of G kinds of images.

    Attributes:
        odd: coefficients of the odd Zernike polynomials in radians, in RELION's order.
        even: those of the even ones.
        magnification: M − 1.
        group: the optics group of each kind, counted from 0.
    """

    odd: Float[Tensor, "g p"]
    even: Float[Tensor, "g q"]
    magnification: Float[Tensor, "g 2 2"]
    group: Int[Tensor, "g"]

    def odd_phase(self, points: Float[Tensor, "*b 2"], least_power: int = 0) -> Float[Tensor, "g *b"]:
        """The odd phase in radians at frequencies in 1/Å, without its powers of s below ``least_power``."""
        basis = [zernike(*odd_index(i), points, least_power) for i in range(self.odd.shape[1])]
        return torch.tensordot(self.odd, torch.stack(basis), 1)

    def even_phase(self, points: Float[Tensor, "*b 2"]) -> Float[Tensor, "g *b"]:
        """The even phase in radians, an addition to χ, at frequencies in 1/Å."""
        basis = [zernike(*even_index(i), points) for i in range(self.even.shape[1])]
        return torch.tensordot(self.even, torch.stack(basis), 1)

    def largest_phase_deg(self, resolution_A: float, radius_A: float) -> Float[Tensor, "g"]:
        """Largest error of a phase that leaving them out causes, over all directions of one frequency.

        The part of the odd phase that is linear in the frequency does not count: it is a displacement, and a particle's
        origin takes it up. A magnification that all kinds share along all axes does not either: the map has that scale.

        Args:
            resolution_A: one over the frequency.
            radius_A: of the particle, at whose rim a wrong magnification displaces most.

        Returns:
            Degrees, for each kind: the sum of the largest odd phase, even phase, and phase by magnification.
        """
        angle = torch.linspace(0, 2 * math.pi, _ANGLES + 1, dtype=torch.float64)
        points = torch.stack([angle.cos(), angle.sin()], dim=-1) / resolution_A
        phases = self.odd_phase(points, 3).abs().amax(-1) + self.even_phase(points).abs().amax(-1)
        common = self.magnification.diagonal(dim1=-2, dim2=-1).mean() * torch.eye(2).to(self.magnification)
        displaced_A = radius_A * torch.linalg.matrix_norm(self.magnification - common, 2)
        return torch.rad2deg(phases + 2 * math.pi / resolution_A * displaced_A)


def beam_tilt_zernike(
    tilt_mrad: Float[Tensor, "g 2"], cs_mm: Float[Tensor, "g"], wavelength_A: Float[Tensor, "g"]
) -> Float[Tensor, "g 6"]:
    """Beam tilt as coefficients of the first six odd Zernike polynomials.

    Args:
        tilt_mrad: along x and y.
        cs_mm: spherical aberration.
        wavelength_A: of the electrons.

    Returns:
        Coefficients in radians; ``r² x`` is a third of ``R_3^1 cos φ + 2 R_1^1 cos φ``.
    """
    third = -2 * math.pi * 1e4 * (cs_mm * wavelength_A.square())[:, None] * tilt_mrad / 3  # 1e7 Å/mm, 1e-3 rad/mrad
    none, (x, y) = torch.zeros_like(cs_mm), third.unbind(1)
    return torch.stack([2 * y, 2 * x, none, y, x, none], dim=1)

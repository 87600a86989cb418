"""Polar templates of pseudo-atoms: equal particles at free positions, cheap enough to be moved thousands of times.

Seen from direction d a pseudo-atom lies at radius r and angle θ of the image. By the Jacobi–Anger expansion its slice
has the circular modes ``(−i)^m J_m(kr) e^{−imθ}``. Bessel functions of even order are even in r, and those of odd order
r times an even function; both are sums of Chebyshev polynomials in r², as exact as the numbers are. So templates are
two matrix products: pseudo-atoms to polynomials, polynomials to nodes.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy.fft import dct
from scipy.special import jv
from torch import Tensor

from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import direction_frames


@dataclass(frozen=True, eq=False)
class PseudoAtomProjector:
    """Templates of point-like pseudo-atoms seen from given directions, differentiable in positions and weights.

    Args:
        grid: the images' polar grid.
        directions: viewing directions.
        max_radius: no pseudo-atom is farther from the origin, pixels; one that is shows at this distance from the
            centre.
        dtype: real dtype of the work.
    """

    grid: PolarGrid
    directions: Float[Tensor, "d 3"]
    max_radius: float
    dtype: torch.dtype = torch.float32

    @cached_property
    def _frames(self) -> Float[Tensor, "d 3 2"]:
        return direction_frames(self.directions.double())[:, :, :2].to(self.dtype) / self.max_radius

    @cached_property
    def _bessel(self) -> Float[Tensor, "m p k"]:
        """Chebyshev coefficients of ``±c_m s_k J_m(kr)``, for odd m divided by r, in ``2r² − 1``.

        r is in units of ``max_radius``. The sign is that of ``(−i)^m``, or of ``i (−i)^m`` where m is odd.
        """
        argument = self.max_radius * self.grid.nodes.numpy()
        largest = argument[-1]
        # J_m(zr) has polynomials of degree z and a little more; half as many in r².
        count = math.ceil((largest + 5 * largest ** (1 / 3) + 12) / 2)
        radii = np.cos(np.pi * (np.arange(count) + 0.5) / (2 * count))  # cosines are the roots in 2r² − 1
        modes = np.arange(self.grid.max_mode + 1)[:, None, None]
        values = jv(modes, radii[:, None] * argument) / np.where(modes % 2 == 0, 1.0, radii[:, None])
        table = dct(values, axis=1) / count
        table[:, 0] /= 2
        scales = (-1.0) ** (modes // 2) * self.grid.mode_weights[:, None, None].numpy() * self.grid.scale.numpy()
        return torch.from_numpy(table * scales).to(self.dtype)

    def templates(self, centers: Float[Tensor, "a 3"], weights: Float[Tensor, "a"]) -> Complex[Tensor, "m d k"]:
        """``T[m, d, k]`` of ``Σ_a weights_a δ(x − centers_a)``: modes first, as moments want them."""
        seen = torch.einsum("dij,ai->jda", self._frames, centers)
        x, y = seen / seen.square().sum(0).clamp(min=1).sqrt()
        count, modes = self._bessel.shape[1], self.grid.max_mode + 1
        cosines, sines = _even_rotations(x, y, (modes + 1) // 2)
        radial = _chebyshev(2 * (x.square() + y.square()) - 1, count) * weights
        # Modes 2j are (−1)^j e^{−2ijθ} times the first third, modes 2j + 1 that times −i (x − iy), the others.
        spread = torch.cat([radial, radial * x[:, None], radial * y[:, None]], dim=1).mT
        c, cx, cy = (cosines @ spread).unflatten(2, (3, count)).unbind(2)
        s, sx, sy = (sines @ spread).unflatten(2, (3, count)).unbind(2)
        by_mode = torch.stack([c, s, sx - cy, -cx - sy]).permute(2, 0, 1, 3)
        by_mode = by_mode.reshape(-1, 2 * len(self.directions), count)[:modes]
        return torch.complex(*(by_mode @ self._bessel).chunk(2, dim=1))


def _even_rotations(
    x: Float[Tensor, "d a"], y: Float[Tensor, "d a"], count: int
) -> tuple[Float[Tensor, "d j a"], Float[Tensor, "d j a"]]:
    """Real and imaginary parts of ``e^{−2ijθ}`` for j below ``count``."""
    square = x.square() + y.square() + 1e-12  # differentiable at the centre
    cosine, sine = (x.square() - y.square()) / square, -2 * x * y / square
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(count - 1):
        c, s = cosines[-1], sines[-1]
        cosines.append(c * cosine - s * sine)
        sines.append(s * cosine + c * sine)
    return torch.stack(cosines, dim=1), torch.stack(sines, dim=1)


def _chebyshev(x: Float[Tensor, "d a"], count: int) -> Float[Tensor, "d p a"]:
    """Chebyshev polynomials of the first kind of degrees below ``count``."""
    found, twice = [torch.ones_like(x), x], 2 * x
    while len(found) < count:
        found.append(twice * found[-1] - found[-2])
    return torch.stack(found[:count], dim=1)

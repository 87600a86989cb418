"""First and second moments of templates, and what Gaussian shifts do to them.

The M·K coordinates (m, k) fall into blocks between which the second moment vanishes. In general there is one block of
them all; where the in-plane angle is uniform every circular mode m is its own block and only m = 0 has a first moment.
So both forms are one stack of Hermitian matrices, and everything on top of :class:`Moments` is written once.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.geometry.polar import PolarGrid
from orbitrec.models.base import Circle, circular_coefficients


@dataclass(frozen=True, eq=False)
class Moments:
    """``first[b, i] = E Y`` and ``second[b, i, j] = E Y Y*`` of the coordinates of each block b.

    ``weights[b]`` is what the squared norm of block b counts in the Frobenius norm of the whole second moment: 1, or
    ½ for the blocks m > 0 of real images, whose twin −m is not kept (``c_m⁻²``, :class:`PolarGrid`). Leading axes, if
    any, are a batch of problems.
    """

    first: Complex[Tensor, "*batch b i"]
    second: Complex[Tensor, "*batch b i i"]
    weights: Float[Tensor, "b"]

    def first_norm(self) -> Float[Tensor, "*batch"]:
        """Euclidean norm of the first moment."""
        return self.first.abs().square().sum((-2, -1)).sqrt()

    def second_norm(self) -> Float[Tensor, "*batch"]:
        """Frobenius norm of the whole second moment."""
        return (self.weights * self.second.abs().square().sum((-2, -1))).sum(-1).sqrt()

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.first - other.first, self.second - other.second, self.weights)


def full_moments(
    templates: Complex[Tensor, "*batch d m k"], density: Float[Tensor, "*batch d a"], circle: Circle
) -> Moments:
    """Moments (2.3), (2.8) for any density on directions and angles, as one block of m·k coordinates.

    ``M¹[m, k] = Σ_d ρ̂_d(m) T[d, m, k]``, ``M²[mk, m'k'] = Σ_d ρ̂_d(m − m') T[d, m, k] conj(T[d, m', k'])`` with the
    Fourier coefficients ρ̂_d of the density. The second factor is conjugated, as (2.2) has it.

    Args:
        templates: one for each direction.
        density: probabilities of directions and angles, summing to 1.
        circle: the integer order of each mode, and the angles. A polar grid's modes m ≥ 0 hold all of a uniform
            angle's second moment; for a non-uniform angle give the modes −M … M of a real image.
    """
    single = circular_coefficients(density, circle.modes).to(templates.dtype)
    first = torch.einsum("...dm,...dmk->...mk", single, templates).flatten(-2)
    pairs = circular_coefficients(density, circle.modes[:, None] - circle.modes).to(templates.dtype)
    second = torch.einsum("...dmn,...dmk,...dnl->...mknl", pairs, templates, templates.conj())
    second = second.flatten(-4, -3).flatten(-2)
    return Moments(first[..., None, :], second[..., None, :, :], first.real.new_ones(1))


def uniform_moments(templates: Complex[Tensor, "d m k"], density: Float[Tensor, "d"], grid: PolarGrid) -> Moments:
    """Moments of real images on a polar grid whose in-plane angle is uniform: one block for each mode.

    ``M¹[0, k] = Σ_d ρ_d T[d, 0, k]`` and ``M²[m, k, k'] = Σ_d ρ_d T[d, m, k] conj(T[d, m, k'])``.

    Args:
        templates: polar templates, one for each direction.
        density: probabilities of the directions, summing to 1.
        grid: the templates' grid.
    """
    by_mode = templates.transpose(0, 1)
    weighted = density.to(templates.real.dtype)[:, None] * by_mode
    first = torch.cat([weighted[:1].sum(1), torch.zeros_like(templates[0, 1:])])
    return Moments(first, weighted.mT @ by_mode.conj(), grid.mode_weights.pow(-2).to(first.real.dtype))


def antipodal_moments(templates: Complex[Tensor, "m h k"], density: Float[Tensor, "d"], grid: PolarGrid) -> Moments:
    """:func:`uniform_moments` from the templates of half of the directions, modes first; the rest are their antipodes.

    ``T[−d, m] = (−1)^m conj T[d, m]``, so what both directions share weighs real parts of the products, and what sets
    them apart weighs imaginary parts.

    Args:
        templates: of the first half of the directions.
        density: probabilities of all directions, direction ``i + d/2`` being minus direction i; they sum to 1.
        grid: the templates' grid.
    """
    half = templates.shape[1]
    even, odd = (density[:half] + density[half:])[:, None], (density[:half] - density[half:])[:, None]
    a, b = templates.real, templates.imag
    cross = (odd * b).mT @ a
    second = torch.complex((even * a).mT @ a + (even * b).mT @ b, cross - cross.mT)
    first = torch.complex((even * a[:1]).sum(1), (odd * b[:1]).sum(1))
    rest = torch.zeros(len(a) - 1, a.shape[2], dtype=first.dtype)
    return Moments(torch.cat([first, rest]), second, grid.mode_weights.pow(-2).to(a.dtype))


def bounded_spread(free: Float[Tensor, "*batch"], largest: float) -> Float[Tensor, "*batch"]:
    """A standard deviation of shifts η in (0, η_max) from a free parameter: ``η_max / (1 + e^{−x})`` (3.8)."""
    return largest * torch.sigmoid(free)


def shifted_uniform_moments(moments: Moments, grid: PolarGrid, sigma: Float[Tensor, "*batch"]) -> Moments:
    """Block moments after Gaussian shifts of standard deviation ``sigma`` pixels in x and in y (3.6), (3.7).

    The first moment is damped by ``exp(−η²k²/2)``. The second is multiplied by ``exp(−η²‖k − k'‖²/2)``, a function of
    Δ = φ − φ': over m it convolves the blocks with ``exp(−η²(k² + k'²)/2) I_q(η²kk')``. That is done on the circle of
    Δ, where the second moment ``Σ_m M²[m] e^{imΔ}`` is real, since block −m of real images is the conjugate of block m.
    Blocks above the largest mode are taken as zero. A batch of problems has a batch of spreads, or one for all.
    """
    k = grid.nodes.to(moments.weights)
    variance = sigma.to(k).square()[..., None, None, None]
    # I_q(x) e^{−x} is below 1e-16 beyond q ≈ 9√x + 12: so many modes past M must not alias into the kept ones.
    tail = math.ceil(9 * float(sigma.detach().max()) * float(k[-1])) + 12
    count = 2 * grid.max_mode + 2 * (tail // 2 + 1)
    delta = 2 * math.pi * torch.arange(count, dtype=k.dtype, device=k.device) / count
    square = k[:, None].square() + k.square() - 2 * k[:, None] * k * delta.cos()[:, None, None]
    scale = moments.weights[:, None, None]  # kept blocks hold c_m² times the mode's own second moment
    on_circle = torch.fft.irfft(moments.second * scale, n=count, dim=-3, norm="forward")
    second = torch.fft.rfft(on_circle * torch.exp(-variance * square / 2), dim=-3, norm="forward")
    first = moments.first * torch.exp(-variance[..., 0] * k.square() / 2)
    return Moments(first, second[..., : grid.max_mode + 1, :, :] / scale, moments.weights)


def shifted_cartesian_moments(
    moments: Moments, points: Float[Tensor, "i 2"], sigma: Float[Tensor, "*batch"]
) -> Moments:
    """Moments on Cartesian frequencies (radians per pixel) after Gaussian shifts: the elementwise factors of (3.12)."""
    apart, variance = (points[:, None] - points).square().sum(-1), sigma.to(points).square()[..., None, None]
    return Moments(
        moments.first * torch.exp(-variance * points.square().sum(-1) / 2),
        moments.second * torch.exp(-variance[..., None] * apart / 2),
        moments.weights,
    )

"""First and second moments of templates, and what Gaussian shifts do to them.

The coordinates (m, k) fall into blocks between which the second moment vanishes. In general all of them are one block.
Where the in-plane angle is uniform, every circular mode m is its own block, and only m = 0 has a first moment. So both
forms are one stack of Hermitian matrices, and everything on top of :class:`Moments` is written once.
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
    """The moments of observations Y, block by block; leading axes, if any, are a batch of problems.

    Attributes:
        first: ``E Y`` of the coordinates of each block.
        second: ``E Y Y*`` of the coordinates of each block.
        weights: what the squared norm of each block counts in the Frobenius norm of the whole second moment: 1, or ½
            for the blocks m > 0 of real images, whose twin −m is not kept (``c_m⁻²``, :class:`PolarGrid`).
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
    """Moments (2.3), (2.8) for any density of directions and angles, as one block of m·k coordinates.

    ``M¹[m, k] = Σ_d ρ̂_d(m) T[d, m, k]``, ``M²[mk, m'k'] = Σ_d ρ̂_d(m − m') T[d, m, k] conj(T[d, m', k'])`` with the
    Fourier coefficients ρ̂_d of the density. The second factor is conjugated, as (2.2) has it.

    Args:
        templates: one for each direction.
        density: probabilities of directions and angles, summing to 1.
        circle: the integer order of each mode, and the angles. Of a uniform in-plane angle the modes m ≥ 0 hold the
            whole second moment; for an angle that is not uniform give the modes −M … M of a real image.

    Returns:
        One block.
    """
    single = circular_coefficients(density, circle.modes).to(templates.dtype)
    first = torch.einsum("...dm,...dmk->...mk", single, templates).flatten(-2)
    pairs = circular_coefficients(density, circle.modes[:, None] - circle.modes).to(templates.dtype)
    second = torch.einsum("...dmn,...dmk,...dnl->...mknl", pairs, templates, templates.conj())
    second = second.flatten(-4, -3).flatten(-2)
    return Moments(first[..., None, :], second[..., None, :, :], first.real.new_ones(1))


def uniform_moments(templates: Complex[Tensor, "d m k"], density: Float[Tensor, "d"], grid: PolarGrid) -> Moments:
    """Moments (2.3), (2.8) of real images on a polar grid whose in-plane angle is uniform: one block for each mode.

    ``M¹[0, k] = Σ_d ρ_d T[d, 0, k]`` and ``M²[m, k, k'] = Σ_d ρ_d T[d, m, k] conj(T[d, m, k'])``.

    Args:
        templates: polar templates, one for each direction.
        density: probabilities of the directions, summing to 1.
        grid: the templates' grid.

    Returns:
        Moments of one problem.
    """
    weights = density.to(templates.real.dtype)
    return block_moments(_parts(templates.transpose(0, 1)), weights, weights, grid)


def antipodal_moments(templates: Complex[Tensor, "m h k"], density: Float[Tensor, "d"], grid: PolarGrid) -> Moments:
    """:func:`uniform_moments` from the templates of half of the directions; the others are their antipodes.

    Args:
        templates: of the first half of the directions, modes first.
        density: probabilities of all directions, direction ``i + d/2`` being minus direction i; they sum to 1.
        grid: the templates' grid.

    Returns:
        Moments of one problem.
    """
    return block_moments(_parts(templates), *antipodal_weights(density), grid)


def antipodal_weights(
    density: Float[Tensor, "*batch d"],
) -> tuple[Float[Tensor, "*batch h"], Float[Tensor, "*batch h"]]:
    """Weights for :func:`block_moments`: sum and difference of the probabilities of each direction and its antipode.

    A template's mirror image is ``T[−d, m] = (−1)^m conj T[d, m]``, so products ``T[d, m, k] conj(T[d, m, k'])`` of a
    direction and of its antipode are conjugates of each other.
    """
    here, opposite = density.chunk(2, dim=-1)
    return here + opposite, here - opposite


def block_moments(
    parts: Float[Tensor, "*batch m two_d k"],
    real: Float[Tensor, "*batch d"],
    imaginary: Float[Tensor, "*batch d"],
    grid: PolarGrid,
) -> Moments:
    """The sums of which every moment on a polar grid is made where the in-plane angle is uniform.

    With templates ``T = a + ib``, real weights S and D of the real and of the imaginary parts of their products,

        Re M²[m] = Σ_d S_d (a aᵀ + b bᵀ),     Im M²[m] = Σ_d D_d (b aᵀ − a bᵀ),     M¹[0] = Σ_d S_d a + i D_d b.

    Where S = D these are the plain sums ``Σ_d S_d T T*``.

    Args:
        parts: templates, their real parts a above their imaginary parts b, for modes 0 … and as many as there are.
        real: weight S of each direction.
        imaginary: weight D of each direction.
        grid: the templates' grid; its modes beyond those of the templates are taken as zero.

    Returns:
        Moments of each problem of the batch, differentiable in templates and weights.
    """
    a, b = parts.chunk(2, dim=-2)
    own, cross = real[..., None, :, None], imaginary[..., None, :, None]
    symmetric = parts.mT @ (parts * torch.cat([own, own], dim=-2))
    skew = b.mT @ (a * cross)
    second = torch.complex(symmetric, skew - skew.mT)
    first = torch.complex((own * a[..., :1, :, :]).sum(-2), (cross * b[..., :1, :, :]).sum(-2))
    modes = grid.max_mode + 1
    return Moments(_padded(first, modes, -2), _padded(second, modes, -3), grid.mode_weights.pow(-2).to(parts))


def _parts(templates: Complex[Tensor, "m d k"]) -> Float[Tensor, "m two_d k"]:
    """Real parts above imaginary parts."""
    return torch.view_as_real(templates).permute(0, 3, 1, 2).flatten(1, 2)


def _padded(x: Complex[Tensor, "*shape"], size: int, dim: int) -> Complex[Tensor, "*_"]:
    """Zeros behind the entries along an axis, up to ``size``."""
    if x.shape[dim] == size:
        return x
    shape = list(x.shape)
    shape[dim] = size - x.shape[dim]
    return torch.cat([x, x.new_zeros(shape)], dim)


def bounded_spread(free: Float[Tensor, "*batch"], largest: float) -> Float[Tensor, "*batch"]:
    """A standard deviation of shifts below ``largest`` from a free parameter: ``η_max / (1 + e^{−x})`` (3.8)."""
    return largest * torch.sigmoid(free)


def shifted_uniform_moments(moments: Moments, grid: PolarGrid, sigma: Float[Tensor, "*batch"]) -> Moments:
    """Block moments after Gaussian shifts of standard deviation ``sigma`` pixels in x and in y (3.6), (3.7).

    The first moment is damped by ``exp(−η²k²/2)``. The second is multiplied by ``exp(−η²‖k − k'‖²/2)``, a function of
    Δ = φ − φ': over m it convolves the blocks with ``exp(−η²(k² + k'²)/2) I_q(η²kk')``. That is done on the circle of
    Δ, where the second moment ``Σ_m M²[m] e^{imΔ}`` is real, since block −m of real images is the conjugate of block m.

    Args:
        moments: block moments without shifts; blocks above the grid's largest mode are taken as zero.
        grid: their grid.
        sigma: standard deviation of the shifts in pixels: one for each problem of a batch, or one for all.

    Returns:
        Block moments on the same grid, differentiable in moments and spreads.
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

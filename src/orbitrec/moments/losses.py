"""Distances: the moment loss (2.15), (2.17), the Kam loss (3.13), relative errors (2.10), the orbit error (2.9).

All norms are those of :class:`Moments`: Euclidean for the first moment, Frobenius for the whole second moment, whether
it is kept as one full matrix or as blocks. A polar grid's coordinates are isometric, so its losses are the Cartesian
ones to the quadrature's error. Losses are differentiable except where two moments are equal.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.moments.analytic import Moments


def moment_loss(target: Moments, model: Moments, balance: float = 1.0) -> Float[Tensor, "*batch"]:
    """``‖M̂¹ − M¹‖ + λ ‖M̂² − M²‖_F``, λ = ``balance`` (2.15), (2.17)."""
    difference = target - model
    return difference.first_norm() + balance * difference.second_norm()


def relative_errors(target: Moments, model: Moments) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """``‖M¹ − M̂¹‖ / ‖M̂¹‖`` and ``‖M² − M̂²‖_F / ‖M̂²‖_F``: relative to the target, as (2.10) has it."""
    difference = model - target
    return difference.first_norm() / target.first_norm(), difference.second_norm() / target.second_norm()


def kam_loss(target: Moments, model: Moments) -> Float[Tensor, "*batch"]:
    """Sum of the two relative errors (3.13)."""
    first, second = relative_errors(target, model)
    return first + second


def best_shift(moving: Float[Tensor, "... n"], fixed: Float[Tensor, "... n"]) -> Int[Tensor, "..."]:
    """The shift s, of all n, for which ``R_s moving`` is nearest to ``fixed``: the largest correlation, by FFT."""
    spectrum = torch.fft.rfft(fixed.detach()) * torch.fft.rfft(moving.detach()).conj()
    return torch.fft.irfft(spectrum, n=moving.shape[-1]).argmax(-1)


def _best_turn(moving: Float[Tensor, "*batch n"], fixed: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """The same over all shifts, whole or not, in radians of the circle: eight trials a sample, then Newton's method.

    The mode at the Nyquist frequency of an even n has no shift by a fraction and does not vote.
    """
    n, finer = moving.shape[-1], 8
    spectrum = torch.fft.rfft(fixed.detach()) * torch.fft.rfft(moving.detach()).conj()
    spectrum = spectrum[..., : (n + 1) // 2]
    turn = torch.fft.irfft(spectrum, n=finer * n).argmax(-1).to(moving.dtype) * (2 * math.pi / (finer * n))
    k = torch.arange(spectrum.shape[-1], dtype=moving.dtype, device=moving.device)
    for _ in range(2):
        terms = spectrum * torch.exp(1j * k * turn[..., None])
        slope, curvature = -(k * terms.imag).sum(-1), -(k.square() * terms.real).sum(-1)
        turn = turn - torch.where(curvature < 0, slope / curvature, 0)
    return turn


def aligned(moving: Float[Tensor, "*batch n"], fixed: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """``R_s moving`` for the shift s, whole or not, that brings it nearest to ``fixed``: by Fourier interpolation."""
    turn = _best_turn(moving, fixed)
    spectrum = torch.fft.rfft(moving)
    k = torch.arange(spectrum.shape[-1], dtype=moving.dtype, device=moving.device)
    return torch.fft.irfft(spectrum * torch.exp(-1j * k * turn[..., None]), n=moving.shape[-1])


def orbit_error(estimate: Float[Tensor, "*batch n"], truth: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """``inf_s ‖R_s v − u‖ / ‖v‖`` over all shifts s of the circle, v the truth and u the estimate (2.9).

    The infimum is over fractions of a sample as well: shifting signal and density by half a sample against each other
    leaves the moments of smooth ones as they are, so nobody could find the whole sample. The norm is taken of the
    difference itself, so that small errors keep their digits. Differentiable in the estimate; the gradient is that at
    the best shift.
    """
    return (aligned(truth, estimate) - estimate).norm(dim=-1) / truth.norm(dim=-1)

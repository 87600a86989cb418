"""Distances: the moment loss (2.15), (2.17), the Kam loss (3.13), relative errors (2.10), the orbit error (2.9).

All norms are those of :class:`Moments`: Euclidean for the first moment, Frobenius for the whole second moment, whether
it is kept as one full matrix or as blocks. The coordinates of a polar grid are isometric, so losses there are those on
the Cartesian grid up to the error of the quadrature. Losses are differentiable except where two moments are equal.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.moments.analytic import Moments


def moment_loss(target: Moments, model: Moments, balance: float = 1.0) -> Float[Tensor, "*batch"]:
    """The moment loss ``‖M̂¹ − M¹‖ + λ ‖M̂² − M²‖_F`` (2.15), (2.17).

    Args:
        target: the moments M̂ to be matched.
        model: the moments M of a model, on the same grid.
        balance: λ, the weight of the second moment.

    Returns:
        The loss of each problem of a batch.
    """
    difference = target - model
    return difference.first_norm() + balance * difference.second_norm()


def relative_errors(target: Moments, model: Moments) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """``‖M¹ − M̂¹‖ / ‖M̂¹‖`` and ``‖M² − M̂²‖_F / ‖M̂²‖_F``: relative to the target, as (2.10) has it."""
    difference = model - target
    return difference.first_norm() / target.first_norm(), difference.second_norm() / target.second_norm()


def kam_loss(target: Moments, model: Moments) -> Float[Tensor, "*batch"]:
    """The Kam loss (3.13): the sum of both relative errors."""
    first, second = relative_errors(target, model)
    return first + second


def _best_rotation(moving: Float[Tensor, "*batch n"], fixed: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """The rotation of the circle, in radians, that brings ``moving`` nearest to ``fixed``: of largest correlation.

    It is found among eight trials for every sample, then by Newton's method. The mode at the Nyquist frequency of an
    even n cannot be shifted by a fraction of a sample and is left out.
    """
    n, finer = moving.shape[-1], 8
    spectrum = torch.fft.rfft(fixed.detach()) * torch.fft.rfft(moving.detach()).conj()
    spectrum = spectrum[..., : (n + 1) // 2]
    angle = torch.fft.irfft(spectrum, n=finer * n).argmax(-1).to(moving.dtype) * (2 * math.pi / (finer * n))
    k = torch.arange(spectrum.shape[-1], dtype=moving.dtype, device=moving.device)
    for _ in range(2):
        terms = spectrum * torch.exp(1j * k * angle[..., None])
        slope, curvature = -(k * terms.imag).sum(-1), -(k.square() * terms.real).sum(-1)
        angle = angle - torch.where(curvature < 0, slope / curvature, 0)
    return angle


def aligned(moving: Float[Tensor, "*batch n"], fixed: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """``moving`` shifted circularly, by whole samples or not, to where it is nearest to ``fixed``."""
    angle = _best_rotation(moving, fixed)
    spectrum = torch.fft.rfft(moving)
    k = torch.arange(spectrum.shape[-1], dtype=moving.dtype, device=moving.device)
    return torch.fft.irfft(spectrum * torch.exp(-1j * k * angle[..., None]), n=moving.shape[-1])


def orbit_error(estimate: Float[Tensor, "*batch n"], truth: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """``inf_s ‖R_s v − u‖ / ‖v‖`` over all circular shifts s, v the truth and u the estimate (2.9).

    The infimum is over fractions of a sample as well: smooth signals and densities keep their moments when they are
    shifted against each other by half a sample, so no method could find the whole sample. The norm is taken of the
    difference itself, so that small errors keep their digits. It is differentiable in the estimate; the gradient is
    that at the best shift.
    """
    return (aligned(truth, estimate) - estimate).norm(dim=-1) / truth.norm(dim=-1)

"""Bispectrum inversion: a signal from averages that no shift changes, so for any density of shifts, uniform ones too.

Shifts cancel in ``B[a, b] = E Y_a Y_b conj Y_{a+b} = v̂_a v̂_b conj v̂_{a+b}`` (frequencies mod n). Magnitudes come from
the power spectrum and phases from B, by optimisation on the manifold of phases (Bendory, Boumal, Ma, Zhao and Singer
2018, section IV). White noise does not bias B where a, b and a + b are not zero; ``v̂_0`` comes from the mean.
"""

import math
import time

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.mra.density import fitted_density
from orbitrec.mra.identifiability import present_frequencies, signal_checks
from orbitrec.mra.problem import MRAEstimate, MRAProblem
from orbitrec.optim.lbfgs import Rules, differentiated, minimise_function

_BATCH = 4096  # observations whose products stay in cache
_ROUNDING = 1e-12  # share of the largest power
_RULES = Rules(200, pairs=10, value_tolerance=1e-13, gradient_tolerance=1e-10)


def recover_bispectrum(problem: MRAProblem, generator: torch.Generator, starts: int = 4) -> MRAEstimate:
    """The signal whose bispectrum is nearest, entries weighted by their standard errors; then the density that fits it.

    Args:
        problem: observations of whole periods.
        generator: source of the lowest frequency's phase, from which frequency marching makes the other phases.
        starts: how many of them.

    Returns:
        Signal and density; the quality checks of the signal.

    Raises:
        InputError: if the observations are windows, or only moments are known.
    """
    began = time.perf_counter()
    n = problem.given_all_samples("bispectrum").n
    target = _weighted(problem, mean_bispectrum(problem.given_observations()))
    angles = torch.rand(starts, n // 2 + 1, generator=generator, dtype=torch.float64)
    results = [_maximised(target, _frequency_marching(target, start)) for start in torch.exp(2j * math.pi * angles)]
    _, best = max(results, key=lambda result: result[0])
    power = problem.moments.second[0].diagonal().real * present_frequencies(problem)
    transform = _phases(best, n)[: n // 2 + 1] * torch.fft.ifftshift(power)[: n // 2 + 1].sqrt()
    transform[0] = problem.moments.first[0, n // 2].real
    signal = torch.fft.irfft(transform, n=n, norm="ortho")
    density = fitted_density(problem, signal)
    return MRAEstimate(signal, density, 1.0, time.perf_counter() - began, signal_checks(problem))


def mean_bispectrum(observations: Float[Tensor, "N n"]) -> Complex[Tensor, "h n"]:
    """The mean of ``Y_a Y_b conj Y_{a+b}`` over observations, in one pass.

    Args:
        observations: (N, n); Y is their unitary transform about index 0.

    Returns:
        Entries for a = 0 … n//2 and all b in the DFT's own order; the others are ``B[−a, −b] = conj B[a, b]``.
    """
    n = observations.shape[1]
    half = n // 2 + 1
    total = torch.zeros(half, n, dtype=torch.complex128)
    for batch in observations.split(_BATCH):
        y = torch.fft.fft(batch, norm="ortho").mT.contiguous()
        for a in range(half):
            total[a] += (y[a] * y * y.conj().roll(-a, dims=0)).sum(1)
    return total / len(observations)


def _sums(n: int) -> Int[Tensor, "h n"]:
    """Index of a + b mod n."""
    index = torch.arange(n)
    return (index[: n // 2 + 1, None] + index) % n


def _weighted(problem: MRAProblem, bispectrum: Complex[Tensor, "h n"]) -> Complex[Tensor, "h n"]:
    """``B |v̂_a v̂_b v̂_{a+b}| / (P_a P_b P_{a+b})``, the coefficients of weighted least squares; 0 where B is biased."""
    n = problem.model.n
    power = torch.fft.ifftshift(problem.observed_power.clamp(min=_ROUNDING * float(problem.observed_power.max())))
    ratio = torch.fft.ifftshift(problem.moments.second[0].diagonal().real).clamp(min=0).sqrt() / power
    weight = ratio[: n // 2 + 1, None] * ratio * ratio[_sums(n)]
    weight[0] = 0
    weight[:, 0] = 0
    weight[_sums(n) == 0] = 0
    return bispectrum * weight


def _frequency_marching(target: Complex[Tensor, "h n"], start: Complex[Tensor, "h"]) -> Float[Tensor, "h"]:
    """Angles by frequency marching, ``u_c = sgn Σ_{a+b=c} conj B[a, b] u_a u_b``; those of ``start`` where it is 0."""
    phases = start.clone()
    for c in range(2, len(start)):
        a = torch.arange(1, c)
        total = (target[a, c - a].conj() * phases[a] * phases[c - a]).sum()
        if total != 0:
            phases[c] = total.sgn()
    return phases.angle()


def _maximised(target: Complex[Tensor, "h n"], start: Float[Tensor, "h"]) -> tuple[float, Float[Tensor, "h"]]:
    """Maximise ``Re Σ conj B[a, b] u_a u_b conj u_{a+b}`` over the angles of u_0 … u_{n//2}, by L-BFGS."""
    n = target.shape[1]
    sums, scale = _sums(n), 1 / (float(target.abs().sum()) or 1.0)  # 0 for a constant signal

    def loss(angles: Float[Tensor, "h"]) -> Float[Tensor, ""]:
        u = _phases(angles, n)
        return -scale * (target.conj() * u[: len(angles), None] * u * u[sums].conj()).real.sum()

    found = minimise_function(lambda angles: differentiated(loss, angles), start, _RULES)
    return -found.value, found.x


def _phases(angles: Float[Tensor, "h"], n: int) -> Complex[Tensor, "n"]:
    """Phases of a real signal's transform in the DFT's own order; an even n's Nyquist sign is relaxed to a cosine."""
    u = torch.polar(torch.ones_like(angles), angles)
    if n % 2:
        return torch.cat([u, u[1:].flip(0).conj()])
    return torch.cat([u[:-1], u[-1:].real.to(u.dtype), u[1:-1].flip(0).conj()])

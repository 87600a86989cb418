"""Least squares on moments: the classical match of signal and density to M̂¹ and M̂², from several starts."""

import time
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from orbitrec.models.mra import PeriodicMRA
from orbitrec.recovery.mra.density import fitted_density
from orbitrec.recovery.mra.identifiability import present_frequencies, two_moment_warnings
from orbitrec.recovery.mra.problem import MRAEstimate, MRAProblem, model_moments
from orbitrec.recovery.mra.starts import starting_signals

_LEAST_PROBABILITY = 1e-4  # of a start: the softmax has no zeros to start from


def recover_least_squares(problem: MRAProblem, generator: torch.Generator, starts: int = 4) -> MRAEstimate:
    """The match of least loss of several: from the spectral method where it applies, the others from random signals."""
    began = time.perf_counter()
    results = [
        matched(problem, signal, fitted_density(problem, signal))
        for signal in starting_signals(problem, generator, starts)
    ]
    _, signal = min(results, key=lambda result: result[0])
    return MRAEstimate(
        signal,
        fitted_density(problem, signal),
        seconds=time.perf_counter() - began,
        warnings=two_moment_warnings(problem),
    )


def matched(
    problem: MRAProblem, signal: Float[Tensor, "n"], density: Float[Tensor, "n"], iterations: int = 300
) -> tuple[float, Float[Tensor, "n"]]:
    """The loss and the signal at the end of L-BFGS from one start, over the signal and the logits of the density.

    The loss is ``N Σ_k |ΔM¹_k|²/P_k + N Σ_kl |ΔM²_kl|²/(P_k P_l)``, P the observations' mean power: each entry by its
    standard error. The density has the prior of :func:`fitted_density`; the signal is kept to the frequencies that
    stand out of the noise.
    """
    n = problem.model.n
    weight = problem.standard_errors.reciprocal()
    pair_weight = weight[:, None] * weight
    band = _band(problem)
    prior = 0.0 if problem.count == float("inf") else n / problem.count
    target = problem.moments

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        variables = torch.from_numpy(x).requires_grad_()
        density = variables[n:].softmax(0)
        difference = model_moments(problem.model, band(variables[:n]), density) - target
        value = (weight * difference.first[0].abs()).square().sum()
        value = value + (pair_weight * difference.second[0].abs()).square().sum()
        value = value + prior * (n * density.square().sum() - 1)
        (gradient,) = torch.autograd.grad(value, variables)
        return float(value.detach()), gradient.numpy()

    start = torch.cat([signal, density.clamp(min=_LEAST_PROBABILITY).log()]).double().numpy()
    options = {"maxiter": iterations, "maxcor": 20, "ftol": 1e-13, "gtol": 0.0}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return float(found.fun), band(torch.from_numpy(found.x[:n]))


def _band(problem: MRAProblem) -> Callable[[Float[Tensor, "n"]], Float[Tensor, "n"]]:
    """The projection of signals to the frequencies that are seen; windows do not tell them."""
    n = problem.model.n
    if not isinstance(problem.model, PeriodicMRA):
        return lambda signal: signal
    kept = torch.fft.ifftshift(present_frequencies(problem))[: n // 2 + 1].double()
    return lambda signal: torch.fft.irfft(torch.fft.rfft(signal) * kept, n=n)

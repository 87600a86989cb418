"""Least squares on moments: signal and density that match M̂¹ and M̂² best, from several starts."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.mra.density import LEAST_PROBABILITY, fitted_density
from orbitrec.mra.identifiability import present_frequencies, two_moment_checks
from orbitrec.mra.model import PeriodicMRA
from orbitrec.mra.problem import MRAEstimate, MRAProblem, model_moments
from orbitrec.mra.starts import starting_signals
from orbitrec.optim.lbfgs import Rules, differentiated, minimise_function

# Frequencies above the seen ones that are fitted: off its diagonal M² knows more of them than their power does. On
# smooth signals one of them halves the error from 10⁵ observations on, and more bring noise.
_MARGIN = 1
EXPLAINED = 1.5
"""Misfit over its expectation up to which moments are explained; the truth's stays far below."""
MOST = 4
"""How many times the starts that are asked for are tried while none explains the moments."""


def recover_least_squares(problem: MRAProblem, generator: torch.Generator, starts: int = 4) -> MRAEstimate:
    """The signal of the best match among several starts, and the density that fits it.

    Args:
        problem: whose moments are matched.
        generator: source of the random starts.
        starts: how many; the first is the spectral method's signal where it applies.

    Returns:
        Signal and density, with quality checks where two moments do not determine them.
    """
    began = time.perf_counter()
    found: list[MRAEstimate] = []
    for signal in starting_signals(problem, generator, MOST * starts):
        _, signal = matched(problem, signal, fitted_density(problem, signal))
        found.append(MRAEstimate(signal, fitted_density(problem, _band(problem, 0)(signal))))
        if len(found) >= starts and min(_excess(problem, each) for each in found) <= EXPLAINED:
            break
    best = min(found, key=lambda each: _excess(problem, each))
    checks = (*two_moment_checks(problem), *_fit_checks(problem, best))
    return replace(best, seconds=time.perf_counter() - began, checks=checks)


def _excess(problem: MRAProblem, found: MRAEstimate) -> float:
    """The misfit over its expectation at the truth, one for each entry of the moments and observation."""
    first, second = problem.moments.first[0], problem.moments.second[0]
    value = float(misfit(problem, found.signal, found.density))
    return value * problem.count / (first.numel() + second.numel()) if problem.count < float("inf") else value


def _fit_checks(problem: MRAProblem, found: MRAEstimate) -> tuple[str, ...]:
    """A sentence if the moments of what was found are not those that were observed."""
    excess = _excess(problem, found)
    if problem.count == float("inf") or excess <= EXPLAINED:
        return ()
    return (
        f"the moments of what was found differ from the observed ones {excess:.1f} times as much as noise would make "
        "them: it is not the signal; recover by EM instead",
    )


def misfit(problem: MRAProblem, signal: Float[Tensor, "n"], density: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """The squared errors of the moments of a signal and a density, weighted by the entries' standard errors.

    ``Σ_k |ΔM¹_k|²/P_k + Σ_kl |ΔM²_kl|²/(P_k P_l)`` with P the observations' mean power. N times this is about n + n² at
    the truth, the number of entries.

    Args:
        problem: whose moments are compared with.
        signal: (n,).
        density: probabilities of the n shifts.

    Returns:
        A differentiable scalar.
    """
    weight = problem.standard_errors.reciprocal()
    difference = model_moments(problem.model, signal, density) - problem.moments
    first, second = weight * difference.first[0].abs(), weight[:, None] * weight * difference.second[0].abs()
    return first.square().sum() + second.square().sum()


def matched(
    problem: MRAProblem,
    signal: Float[Tensor, "n"],
    density: Float[Tensor, "n"],
    *,
    enough: float = 0.0,
    iterations: int = 150,
) -> tuple[float, Float[Tensor, "n"]]:
    """The match of a signal and a density to the moments from one start, by L-BFGS over samples and logits.

    The loss is :func:`misfit` plus the density's prior of :func:`fitted_density`. The signal is restricted to the
    frequencies that stand out of the noise and the next one above.

    Args:
        problem: whose moments are matched.
        signal: where to begin, (n,).
        density: where to begin, (n,).
        enough: end when the misfit alone is at most this.
        iterations: the most of L-BFGS.

    Returns:
        The loss, and the signal.
    """
    n = problem.model.n
    band = _band(problem, _MARGIN)
    prior = 0.0 if problem.count == float("inf") else n / problem.count
    best = float("inf")

    def loss(x: Float[Tensor, "x"]) -> Float[Tensor, ""]:
        nonlocal best
        density = x[n:].softmax(0)
        value = misfit(problem, band(x[:n]), density)
        best = min(best, float(value.detach()))
        return value + prior * (n * density.square().sum() - 1)

    found = minimise_function(
        lambda x: differentiated(loss, x),
        torch.cat([signal, density.clamp(min=LEAST_PROBABILITY).log()]).double(),
        Rules(iterations, value_tolerance=1e-13, gradient_tolerance=0.0),
        stop=lambda evaluation: best <= enough,
    )
    return found.value, band(found.x[:n])


def _band(problem: MRAProblem, margin: int) -> Callable[[Float[Tensor, "n"]], Float[Tensor, "n"]]:
    """The projection of signals to the seen frequencies and so many above; the identity for windows."""
    n = problem.model.n
    if not isinstance(problem.model, PeriodicMRA):
        return lambda signal: signal
    seen = torch.fft.ifftshift(present_frequencies(problem))[: n // 2 + 1]
    kept = seen.clone()
    for above in range(1, margin + 1):
        kept[above:] |= seen[:-above]
    return lambda signal: torch.fft.irfft(torch.fft.rfft(signal) * kept, n=n)

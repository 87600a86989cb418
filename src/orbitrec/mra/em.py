"""Expectation maximisation for MRA from several starts, on growing parts of the observations."""

import time
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.mra.problem import MRAEstimate, MRAProblem
from orbitrec.mra.starts import starting_signals

_FIRST = 10_000  # observations on which the starts compete
_TRIAL = 20  # iterations of each
_GROWTH = 10  # of the part, up to all observations


def recover_em(
    problem: MRAProblem, generator: torch.Generator, starts: int = 4, iterations: int = 50, tolerance: float = 0.5
) -> MRAEstimate:
    """Signal and density of greatest likelihood that EM finds.

    The starts compete on the first 10⁴ observations; the likeliest goes on there, then on ten times as many, and so on
    to all of them. At each size EM stops when an iteration gains less than ``tolerance`` in the log-likelihood of all
    observations there, or after so many ``iterations``. What it would gain beyond is mostly the fit of noise: on
    smooth signals errors in the density rise again.

    Raises:
        InputError: if only moments are known or σ is not positive.
    """
    began = time.perf_counter()
    observations = problem.given_observations()
    whole = MRALikelihood(problem.model, observations, problem.sigma)
    size = min(_FIRST, len(observations))
    part = replace(whole, observations=observations[:size])
    uniform = torch.full((problem.model.n,), 1 / problem.model.n, dtype=torch.float64)
    trials = [
        iterated(part, part.vector(signal, uniform), _TRIAL, 0.0)
        for signal in starting_signals(problem, generator, starts)
    ]
    w = min(trials, key=lambda trial: trial[1])[0]
    passes = starts * _TRIAL * size / len(observations)
    while True:
        w, _, used = iterated(part, w, iterations, tolerance / size)
        passes += used * size / len(observations)
        if size == len(observations):
            break
        size = min(_GROWTH * size, len(observations))
        part = replace(whole, observations=observations[:size])
    signal, log_density = whole.parameters(w)
    return MRAEstimate(signal, log_density.exp(), passes, time.perf_counter() - began)


def iterated(
    likelihood: MRALikelihood, w: Float[Tensor, "d"], iterations: int, tolerance: float
) -> tuple[Float[Tensor, "d"], float, int]:
    """EM until an iteration lowers the mean negative log-likelihood by less than ``tolerance``, with a limit.

    Returns the last iterate, the value before the last iteration, and the passes.
    """
    last = float("inf")
    for used in range(1, iterations + 1):
        value, statistics = likelihood.expectation(w)
        w = likelihood.maximisation(statistics, w)
        if last - value < tolerance:
            return w, value, used
        last = value
    return w, last, iterations

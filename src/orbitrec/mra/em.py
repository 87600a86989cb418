"""Expectation maximisation for MRA from several starts, on growing parts of the observations."""

import time
from dataclasses import replace

import torch

from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.mra.problem import MRAEstimate, MRAProblem
from orbitrec.mra.starts import starting_signals
from orbitrec.optim.driver import run
from orbitrec.optim.growing import growing_sizes
from orbitrec.optim.solvers import em
from orbitrec.optim.termination import Cost, Termination

_FIRST = 10_000  # observations on which the starts compete
_TRIAL = 20  # iterations of each
_GROWTH = 10  # of the part, up to all observations


def recover_em(
    problem: MRAProblem, generator: torch.Generator, starts: int = 4, iterations: int = 50, tolerance: float = 0.5
) -> MRAEstimate:
    """The signal and density of greatest likelihood that EM finds (4.12), (4.19).

    The starts compete on the first 10⁴ observations; the likeliest goes on there, then on ten times as many, and so on
    to all of them. What EM would gain beyond its tolerance is mostly the fit of noise: on smooth signals errors in the
    density rise again.

    Args:
        problem: observations of one signal.
        generator: source of the random starts.
        starts: how many.
        iterations: the most at each number of observations.
        tolerance: EM ends at a number of observations when an iteration gains less than this in the log-likelihood of
            all of them together.

    Returns:
        Signal and density, with the passes over the observations that they cost.

    Raises:
        InputError: if only moments are known or σ is not positive.
    """
    began = time.perf_counter()
    observations = problem.given_observations()
    whole = MRALikelihood(problem.model, observations, problem.sigma)
    uniform = torch.full((problem.model.n,), 1 / problem.model.n, dtype=torch.float64)
    sizes = growing_sizes(len(observations), _FIRST, _GROWTH)
    cost, part, trial = Cost(), _part(whole, sizes[0]), Termination(moved=0.0, epochs=_TRIAL)
    trials = [
        run(em(), part, part.vector(signal, uniform), trial) for signal in starting_signals(problem, generator, starts)
    ]
    for found in trials:
        cost = cost + found.trace[-1].cost.scaled(sizes[0] / whole.count)
    w = min(trials, key=lambda found: found.trace[-1].value).state.w
    for size in sizes:
        stage = run(em(), _part(whole, size), w, Termination(moved=tolerance / size, epochs=iterations))
        w, cost = stage.state.w, cost + stage.trace[-1].cost.scaled(size / whole.count)
    signal, log_density = whole.parameters(w)
    return MRAEstimate(signal, log_density.exp(), cost.measured, time.perf_counter() - began)


def _part(whole: MRALikelihood, size: int) -> MRALikelihood:
    """The likelihood of the first ``size`` observations."""
    return replace(whole, observations=whole.observations[:size])

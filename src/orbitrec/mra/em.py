"""Expectation maximisation for MRA from several starts, on growing parts of the observations."""

import time
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.mra.problem import MRAEstimate, MRAProblem
from orbitrec.mra.starts import starting_signals
from orbitrec.optim.driver import run
from orbitrec.optim.growing import growing_sizes
from orbitrec.optim.multiresolution import MultiResolution
from orbitrec.optim.solvers import em
from orbitrec.optim.termination import Termination
from orbitrec.runtime.progress import RunState

_FIRST = 10_000  # observations on which the starts compete
_TRIAL = 20  # iterations of each
_GROWTH = 10  # of the part, up to all observations


class _Search(NamedTuple):
    """The next point of EM, F at the point before, and passes so far."""

    w: Float[Tensor, "d"]
    value: float = float("inf")
    passes: float = 0.0


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
    whole = MRALikelihood(problem.model, problem.given_observations(), problem.sigma)
    sizes = growing_sizes(whole.count, _FIRST, _GROWTH)

    def part(size: int) -> MRALikelihood:
        return replace(whole, observations=whole.observations[:size])

    def ascended(part: MRALikelihood, state: _Search, termination: Termination) -> _Search:
        found = run(em(), part, state.w, termination)
        passes = state.passes + found.trace[-1].cost.measured * part.count / whole.count
        return _Search(found.state.w, found.trace[-1].value, passes)

    def converged(part: MRALikelihood, state: _Search) -> _Search:
        return ascended(part, state, Termination(moved=tolerance / part.count, epochs=iterations))

    uniform = torch.full((problem.model.n,), 1 / problem.model.n, dtype=torch.float64)
    trial = Termination(moved=0.0, epochs=_TRIAL)
    trials = [
        ascended(part(sizes[0]), _Search(whole.vector(signal, uniform)), trial)
        for signal in starting_signals(problem, generator, starts)
    ]
    best = min(trials, key=lambda found: found.value)._replace(passes=sum(found.passes for found in trials))
    growing = MultiResolution("em", [(size, converged) for size in sizes], part, lambda smaller, larger, state: state)
    _, found = growing.run(best, RunState(generator))
    signal, log_density = whole.parameters(found.w)
    return MRAEstimate(signal, log_density.exp(), found.passes, time.perf_counter() - began)

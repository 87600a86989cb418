"""Growing batches: go far on few terms, end on all of them.

A minimum over n terms is the minimum over all within the noise of n terms, so that going further on n is waste. From
``first`` terms on, each stage begins where the one before it ended, until the last has all N: the way from a random
start, which takes the most steps, then costs a small part of one pass.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.optim.driver import run
from orbitrec.optim.problem import FiniteSum, Subset
from orbitrec.optim.solvers import Solver
from orbitrec.optim.termination import Cost, Result, Termination


def growing_sizes(count: int, first: int, factor: int) -> list[int]:
    """``first``, ``first · factor``, … as far as it is below ``count``, then ``count``."""
    sizes = []
    while first < count:
        sizes.append(first)
        first *= factor
    return [*sizes, count]


def run_growing(
    solver: Solver[Any],
    problem: FiniteSum,
    w: Float[Tensor, "d"],
    termination: Termination,
    *,
    first: int = 3000,
    factor: int = 10,
    seed: int = 0,
) -> Result:
    """Stages of growing numbers of random terms, then all. The trace is that of the last stage.

    A stage of n terms ends when F moves by less than 0.1/n in an epoch: a likelihood's noise is d/2n. What the stages
    cost, in passes over all terms and in seconds, is in the trace from its first entry on.

    Args:
        solver: the method.
        problem: what is minimised.
        w: where to begin, (d,).
        termination: of the last stage.
        first: terms of the first stage.
        factor: how many times as many the next one has.
        seed: of the order of terms and of the solver's random numbers.

    Returns:
        The end of the last stage.
    """
    order, before = torch.randperm(problem.count, generator=torch.Generator().manual_seed(seed)), Cost()
    *stages, _ = growing_sizes(problem.count, first, factor)
    for size in stages:
        own = Termination(moved=0.1 / size, measured=200.0)
        stage = run(solver, Subset(problem, order[:size]), w, own, seed=seed)
        before, w = before + stage.trace[-1].cost.scaled(size / problem.count), stage.w
    last = run(solver, problem, w, termination, seed=seed)
    return Result(last.w, [info._replace(cost=before + info.cost) for info in last.trace], last.outcome)

"""Growing batches: go far on few terms, end on all of them.

A minimum over n terms is the minimum over all within the noise of n terms, so that going further on n is waste. From
``first`` terms on, each stage begins where the one before it ended, until the last has all N: the way from a random
start, which takes the most steps, then costs a small part of one pass.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.optim.driver import Result, Termination, run
from orbitrec.optim.problem import FiniteSum, Subset
from orbitrec.optim.solvers import Cost, Solver


def run_growing(
    solver: Solver,
    problem: FiniteSum,
    w: Float[Tensor, "d"],
    stop: Termination,
    *,
    first: int = 3000,
    factor: int = 10,
    seed: int = 0,
) -> Result:
    """Stages of ``first``, ``first · factor``, … random terms, then all. The trace is that of the last stage.

    A stage of n terms ends when F moves by less than 0.1/n in an epoch: a likelihood's noise is d/2n. What the stages
    cost, in passes over all terms and in seconds, is in the trace from its first entry on.
    """
    order, size, before = torch.randperm(problem.count, generator=torch.Generator().manual_seed(seed)), first, Cost()
    while size < problem.count:
        stage = run(solver, Subset(problem, order[:size]), w, Termination(moved=0.1 / size, measured=200.0), seed=seed)
        share, cost, w = size / problem.count, stage.trace[-1].cost, stage.w
        cost = Cost(cost.epochs, share * cost.measured, share * cost.reported, cost.seconds)
        before, size = _sum(before, cost), size * factor
    last = run(solver, problem, w, stop, seed=seed)
    return Result(last.w, [info._replace(cost=_sum(before, info.cost)) for info in last.trace], last.reason)


def _sum(a: Cost, b: Cost) -> Cost:
    return Cost(a.epochs + b.epochs, a.measured + b.measured, a.reported + b.reported, a.seconds + b.seconds)

"""Growing batches: most iterations are made on few terms, the last ones on all.

A minimum over n terms is that over all terms up to the noise of n terms, so that further iterations on n are wasted.
Each stage has more terms and begins where the one before it ended, until the last has all N. The iterations far from
the minimum, which are most of them, then cost a small part of one pass.
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
    """Sizes of the stages: ``first``, ``first · factor``, … as long as they are below ``count``, then ``count``.

    Args:
        count: number of all terms, N.
        first: terms of the first stage.
        factor: ratio of the sizes of two stages.

    Returns:
        The sizes, rising.
    """
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
    """Minimise a finite sum in stages of growing numbers of random terms, the last of which has all.

    A stage of n terms ends when F changes by less than 0.1/n in an epoch, since the noise of a likelihood is d/2n.

    Args:
        solver: the method.
        problem: F, the finite sum.
        w: (d,) where to begin.
        termination: of the last stage.
        first: terms of the first stage.
        factor: ratio of the sizes of two stages.
        seed: of the order of terms and of the solver's random numbers.

    Returns:
        The result of the last stage. Its trace begins with that stage; the costs in it include those of all stages
        before, in passes over all terms and in seconds.
    """
    order, before = torch.randperm(problem.count, generator=torch.Generator().manual_seed(seed)), Cost()
    *stages, _ = growing_sizes(problem.count, first, factor)
    for size in stages:
        own = Termination(moved=0.1 / size, measured=200.0)
        stage = run(solver, Subset(problem, order[:size]), w, own, seed=seed)
        before, w = before + stage.trace[-1].cost.scaled(size / problem.count), stage.w
    last = run(solver, problem, w, termination, seed=seed)
    return Result(last.w, [info._replace(cost=before + info.cost) for info in last.trace], last.outcome)

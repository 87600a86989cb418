"""Subsets of a problem, and stages of them."""

import pytest
import torch

from orbitrec.optim import solvers
from orbitrec.optim.driver import run
from orbitrec.optim.growing import run_growing
from orbitrec.optim.problem import Subset
from orbitrec.optim.termination import Termination
from orbitrec.thesis.baselines import lbfgs


def test_a_subset_is_the_problem_of_its_terms(problem, starts):
    chosen = torch.tensor([7, 3, 200, 11])
    subset, w = Subset(problem, chosen), starts(problem, 1)[0]
    assert subset.count == 4
    for found, expected in (
        (subset.gradient(w), problem.gradient(w, chosen)),
        (subset.gradient(w, torch.tensor([2, 0])), problem.gradient(w, torch.tensor([200, 7]))),
        (subset.expectation(w), problem.expectation(w, chosen)),
    ):
        assert found[0] == expected[0]
        torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0)
    torch.testing.assert_close(subset.hessian(w), problem.hessian(w, chosen))
    torch.testing.assert_close(subset.fisher(w, torch.tensor([1])), problem.fisher(w, torch.tensor([3])))
    assert subset.passes == pytest.approx(1 + 0.5 + 1 + 12 + problem.fisher_passes / 4)


def test_growing_ends_at_the_minimum_for_fewer_passes(small_problem, starts):
    problem = small_problem(20_000)
    w = starts(problem, 1)[0]
    found = run_growing(solvers.fisher_bfgs(), problem, w, Termination(), first=200)
    expected = run(solvers.fisher_bfgs(), problem, w, Termination())
    assert found.converged
    assert abs(found.trace[-1].value - lbfgs(problem, found.w, Termination()).trace[-1].value) < 1e-12
    assert found.trace[-1].cost.measured < 0.8 * expected.trace[-1].cost.measured

"""Estimators: unbiased over all batches; batches are what they say."""

from itertools import combinations

import pytest
import torch

from orbitrec.optim.estimators import Batch, Snapshot, VarianceReduced, draw, gradient, reduced
from orbitrec.optim.problem import Counted


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_reduced_field_is_unbiased_over_all_batches(size, small_problem, starts):
    problem = Counted(small_problem(7))
    w, anchor = starts(problem.problem, 2)
    snapshot = Snapshot(anchor, *gradient(problem, anchor, None))
    estimates = [reduced(gradient, problem, w, snapshot, torch.tensor(batch)) for batch in combinations(range(7), size)]
    exact = gradient(problem, w, None)[1]
    torch.testing.assert_close(torch.stack(estimates).mean(0), exact, rtol=1e-12, atol=1e-12)
    assert max(float((e - exact).norm()) for e in estimates) > 0.01  # they do differ


def test_the_reduced_field_varies_less_near_its_snapshot(problem, starts):
    counted, generator = Counted(problem), torch.Generator().manual_seed(0)
    w = starts(problem, 1)[0]
    snapshot = Snapshot(w, *gradient(counted, w, None))
    near = w + 1e-3 * torch.ones_like(w)
    exact = gradient(counted, near, None)[1]
    spread = {
        kind: torch.stack(
            [kind(0.1).estimate(gradient, counted, near, snapshot, generator) - exact for _ in range(50)]
        ).norm()
        for kind in (Batch, VarianceReduced)
    }
    assert spread[VarianceReduced] < 0.02 * spread[Batch]


def test_steps_at_the_snapshot_cost_no_pass(problem, starts):
    counted = Counted(problem)
    w = starts(problem, 1)[0]
    snapshot = Snapshot(w, *gradient(counted, w, None))
    VarianceReduced().estimate(gradient, counted, w, snapshot, torch.Generator())
    assert counted.passes == 1
    VarianceReduced(0.25).estimate(gradient, counted, w + 1, snapshot, torch.Generator())
    assert counted.passes == pytest.approx(1.5)  # two batches of a quarter


@pytest.mark.parametrize(("count", "size"), [(20, 1), (20, 2), (20, 10), (20, 19), (5000, 7), (5000, 600)])
def test_draws_are_different_terms(count, size):
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        index = draw(count, size, generator)
        assert index is not None
        assert len(index) == len(index.unique()) == size
        assert 0 <= int(index.min()) <= int(index.max()) < count


def test_draws_are_uniform():
    generator = torch.Generator().manual_seed(2)
    rounds, count, size = 4000, 40, 4  # by rejection: 8 · 4 < 40
    hits = torch.zeros(count, dtype=torch.float64)
    for _ in range(rounds):
        hits[draw(count, size, generator)] += 1
    expected = rounds * size / count
    deviation = (expected * (1 - size / count)) ** 0.5
    assert float((hits - expected).abs().max()) < 4.5 * deviation


def test_all_terms_are_no_batch():
    assert draw(10, 10, torch.Generator()) is None

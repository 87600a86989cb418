"""The compositions: known identities between them, safety from random starts, one minimum."""

import dataclasses
from itertools import pairwise

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.optim import solvers
from orbitrec.optim.driver import run
from orbitrec.optim.estimators import Full, VarianceReduced
from orbitrec.optim.termination import Termination
from orbitrec.thesis.baselines import Adam, Anderson, Squarem, lbfgs, newton

NINE = {
    "GD": solvers.gradient_descent(),
    "SGD": solvers.stochastic_gradient(),
    "SVRG": solvers.svrg(),
    "SVRG+I": solvers.svrg_newton(6),
    "SVRG+II": solvers.svrg_bfgs(),
    "EM": solvers.em(),
    "sEM": solvers.stochastic_em(),
    "sEM-vr": solvers.sem_vr(),
    "sEM-vr+QN": solvers.sem_vr_bfgs(),
}
MORE = {
    "Fisher+BFGS": solvers.fisher_bfgs(),
    "EM, then Fisher+BFGS": solvers.fisher_bfgs_after_em(),
    "Newton": newton(12),
    "Anderson": Anderson(),
    "SQUAREM": Squarem(),
}


@pytest.mark.parametrize(("full", "reduced"), [("GD", "SVRG"), ("EM", "sEM-vr")])
def test_variance_reduction_with_all_terms_is_the_full_method(problem, full, reduced, starts):
    w = starts(problem, 1)[0]
    expected = run(NINE[full], problem, w, Termination(reported=6.0))
    all_terms = dataclasses.replace(NINE[reduced], estimator=VarianceReduced(1.0, 1))
    found = run(all_terms, problem, w, Termination(reported=12.0))
    assert [i.value for i in found.trace] == [i.value for i in expected.trace]
    torch.testing.assert_close(found.w, expected.w, rtol=0, atol=0)


def test_inner_steps_with_all_terms_are_steps_of_gradient_descent(problem, starts):
    w = starts(problem, 1)[0]
    solver = solvers.SnapshotSolver(solvers.gradient, VarianceReduced(1.0, 5), longest=1e-3, average=False)
    state, _ = solver.step(problem, solver.init(problem, w))
    for _ in range(5):
        w = w - 1e-3 * problem.gradient(w)[1]
    torch.testing.assert_close(state.w, w, rtol=1e-13, atol=1e-13)


def test_snapshots_are_means_of_an_epoch(problem, starts):
    w = starts(problem, 1)[0]
    solver = solvers.SnapshotSolver(solvers.gradient, VarianceReduced(1.0, 3), longest=1e-3)
    state, _ = solver.step(problem, solver.init(problem, w))
    path = []
    for _ in range(3):
        w = w - 1e-3 * problem.gradient(w)[1]
        path.append(w)
    torch.testing.assert_close(state.w, torch.stack(path).mean(0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("known", [False, True])
def test_em_never_decreases_the_likelihood(known, small_problem, starts):
    problem = small_problem(300, known)
    for w in starts(problem, 3):
        trace = run(solvers.em(), problem, w, Termination(moved=0.0, reported=60.0)).trace
        values = [info.value for info in trace]
        assert all(info.accepted for info in trace)  # no safeguard was needed
        assert all(b <= a + 1e-13 for a, b in pairwise(values))
        assert values[-1] < values[0] - 0.1


@pytest.mark.parametrize("name", [*NINE, *MORE])
def test_no_method_diverges(problem, name, starts):
    solver = (NINE | MORE)[name]
    for w in starts(problem, 3):
        result = run(solver, problem, 3 * w, Termination(reported=30.0 if name != "Newton" else 200.0))
        values = torch.tensor([info.value for info in result.trace])
        assert bool(values.isfinite().all())
        assert bool(result.w.isfinite().all())
        assert bool((values.diff() <= 1e-13).all())
        assert float(values[-1]) < float(values[0]) - 0.1


@pytest.mark.parametrize("name", ["SVRG+II", "sEM-vr+QN", "EM", "sEM-vr", *MORE])
def test_one_minimum(problem, name, starts):
    w = starts(problem, 3)[1]
    start = run(solvers.em(), problem, w, Termination(reported=40.0)).w  # so that all are in one basin
    least = lbfgs(problem, start, Termination()).trace[-1].value
    end = run((NINE | MORE)[name], problem, start, Termination(reported=3000.0)).trace[-1]
    assert abs(end.value - least) < 1e-10
    assert end.field_norm < 1e-3


@pytest.mark.parametrize("count", [4, 5])
def test_fisher_bfgs_arrives_with_fewer_terms_than_unknowns(count, small_problem, starts):
    few = small_problem(count, known=True)
    assert few.dimension > count
    for w in starts(few, 4):
        result = run(solvers.fisher_bfgs(), few, w, Termination(measured=300.0))
        assert result.converged
        assert result.trace[-1].field_norm < 1e-6


def test_adam_descends(problem, starts):
    trace = run(Adam(), problem, starts(problem, 1)[0], Termination(reported=100.0)).trace
    assert trace[-1].value < trace[0].value - 0.1


def test_costs_as_printed_and_as_measured(problem, starts):
    w = starts(problem, 1)[0]
    state = NINE["SVRG"].init(problem, w)
    state, info = NINE["SVRG"].step(problem, state)
    assert info.cost.reported == pytest.approx(1 + 20 * 40 / 400)
    assert info.cost.measured == pytest.approx(2 + 2 * 19 * 40 / 400)  # one more for the step length at the start
    _, second = NINE["SVRG"].step(problem, state)
    assert second.cost.measured - info.cost.measured == pytest.approx(1 + 2 * 19 * 40 / 400)


def test_a_rejected_epoch_is_run_again_with_a_shorter_step(problem, starts):
    w = starts(problem, 1)[0]
    solver = solvers.SnapshotSolver(solvers.gradient, Full(), longest=1e3)  # absurd
    state = solver.init(problem, w)
    state, _ = solver.step(problem, state)
    state, info = solver.step(problem, state)
    assert not info.accepted
    assert state.length == 500
    torch.testing.assert_close(state.snapshot.w, w)
    torch.testing.assert_close(state.w, w - 500 * state.snapshot.field)


def test_a_problem_without_em_map_says_so():
    class Quadratic:
        count, dimension = 1, 2

        def gradient(self, w, index=None):
            return float(w @ w) / 2, w

    with pytest.raises(InputError, match="Quadratic is not ExpectationMaximisation"):
        run(solvers.em(), Quadratic(), torch.ones(2, dtype=torch.float64))
    assert run(solvers.gradient_descent(), Quadratic(), torch.ones(2, dtype=torch.float64)).converged

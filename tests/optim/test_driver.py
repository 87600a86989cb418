"""Stopping, and going on after an interruption."""

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.optim import solvers
from orbitrec.optim.driver import run
from orbitrec.optim.online import OnlineEM
from orbitrec.optim.termination import Outcome, Termination
from orbitrec.thesis.baselines import Adam, Anderson, lbfgs

RESUMABLE = {
    "SVRG": solvers.svrg(),
    "SVRG+I": solvers.svrg_newton(6),
    "sEM-vr+QN": solvers.sem_vr_bfgs(inner=4),
    "Fisher+BFGS": solvers.fisher_bfgs(),
    "EM, then Fisher+BFGS": solvers.fisher_bfgs_after_em(9),
    "online EM": OnlineEM(70),
    "Anderson": Anderson(),
    "Adam": Adam(),
}


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_resumed_run_has_the_same_trajectory(problem, tmp_path, name, starts):
    solver, stop, w = RESUMABLE[name], Termination(moved=0.0, measured=60.0), starts(problem, 1)[0]
    expected = run(solver, problem, w, stop, seed=5)

    def interrupt(info):
        if info.cost.epochs == 7:
            raise StoppedError

    path = tmp_path / "state.safetensors"
    with pytest.raises(StoppedError):
        run(solver, problem, w, stop, seed=5, checkpoint=path, every=3, callback=interrupt)
    found = run(solver, problem, w, stop, seed=5, checkpoint=path)
    assert torch.equal(found.w, expected.w)
    assert [i[:4] + i.cost[:3] for i in found.trace] == [i[:4] + i.cost[:3] for i in expected.trace]
    assert run(solver, problem, w, stop, checkpoint=path).trace == found.trace  # finished: nothing to do


def test_other_files_are_no_checkpoints(problem, tmp_path, small_problem, starts):
    path = tmp_path / "state.safetensors"
    path.write_text("no checkpoint")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        run(solvers.em(), problem, starts(problem, 1)[0], checkpoint=path)
    path.unlink()
    known = small_problem(100, known=True)
    run(solvers.em(), known, starts(known, 1)[0], Termination(reported=2.0), checkpoint=path)
    with pytest.raises(InputError, match="6 unknowns and this problem has 12"):
        run(solvers.em(), problem, starts(problem, 1)[0], checkpoint=path)


@pytest.mark.parametrize(
    ("stop", "outcome"),
    [
        (Termination(moved=1e-3), Outcome.CONVERGED),
        (Termination(moved=0.0, value=6.0), Outcome.REACHED),
        (Termination(moved=0.0, epochs=5.0), Outcome.OUT_OF_EPOCHS),
        (Termination(moved=0.0, reported=5.0), Outcome.OUT_OF_EPOCHS),
        (Termination(moved=0.0, measured=4.0), Outcome.OUT_OF_PASSES),
        (Termination(moved=0.0, seconds=1e-9), Outcome.OUT_OF_TIME),
    ],
)
def test_every_way_to_stop(problem, stop, outcome, starts):
    w = starts(problem, 1)[0]
    for result in (run(solvers.em(), problem, w, stop), lbfgs(problem, w, stop)):
        assert result.outcome is outcome
        assert result.converged == (outcome in {Outcome.CONVERGED, Outcome.REACHED})


@pytest.mark.parametrize("least", [0, 1, 2, 3])
def test_no_budget_ends_the_least_number_of_epochs(problem, least, starts):
    """An epoch of SVRG takes nearly six passes, and its second one judges where the first one led."""
    w = starts(problem, 1)[0]
    for budget in ({"measured": 3.0}, {"reported": 1.0}, {"seconds": 1e-9}):
        result = run(solvers.svrg(), problem, w, Termination(moved=0.0, least_epochs=least, **budget))
        assert len(result.trace) == max(1, least)
        assert torch.equal(result.w, w) == (least < 2)
    # A criterion that is met ends it all the same.
    assert len(run(solvers.svrg(), problem, w, Termination(value=1e9, least_epochs=least)).trace) == 1


def test_lbfgs_counts_evaluations(problem, starts):
    evaluations = 0

    class Watched:
        count, dimension = problem.count, problem.dimension

        def gradient(self, w, index=None):
            nonlocal evaluations
            evaluations += 1
            return problem.gradient(w, index)

    result = lbfgs(Watched(), starts(problem, 1)[0], Termination())
    assert result.converged
    assert result.trace[-1].cost.measured == evaluations
    assert float(problem.gradient(result.w)[1].norm()) < 1e-5

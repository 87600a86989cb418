"""Online EM against EM, against sums by hand, and against itself."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.optim.driver import continued, run
from orbitrec.optim.online import OnlineEM
from orbitrec.optim.problem import em_map
from orbitrec.optim.termination import Termination
from orbitrec.runtime.checkpoints import flattened, read_checkpoint, rebuilt, write_checkpoint
from orbitrec.thesis.baselines import lbfgs


@dataclass
class Recorded:
    """A problem that writes down which terms are asked for."""

    problem: MRALikelihood
    drawn: list[Tensor] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.problem.count

    @property
    def dimension(self) -> int:
        return self.problem.dimension

    def gradient(self, w, index=None):
        raise AssertionError("online EM needs no gradient")

    def expectation(self, w, index=None):
        self.drawn.append(index)
        return self.problem.expectation(w, index)

    def maximisation(self, statistics, w, inertia=0.0, terms=None):
        return self.problem.maximisation(statistics, w, inertia, terms)


def stepped(solver, problem, w, steps, seed=0):
    """Every state from the first on, and what each step reported."""
    states, infos = [solver.init(problem, w, seed)], []
    for _ in range(steps):
        state, info = solver.step(problem, states[-1])
        states.append(state)
        infos.append(info)
    return states, infos


@pytest.mark.parametrize("solver", [OnlineEM(400, kept=0.0), OnlineEM(10_000), OnlineEM(400, kept=0.0, passes=False)])
def test_one_batch_of_all_terms_is_a_step_of_em(problem, starts, solver):
    """With a share 1 − b/N = 0 of what was seen before, or none by choice; the terms' order rounds."""
    w = starts(problem, 1)[0]
    states, infos = stepped(solver, problem, w, 3)
    for before, after, info in zip(states, states[1:], infos, strict=False):
        value, expected = em_map(problem, before.w)
        assert info.value == pytest.approx(value, rel=1e-12)
        torch.testing.assert_close(after.w, expected, rtol=1e-9, atol=1e-12)
        assert info.field_norm == pytest.approx(float((after.w - before.w).norm()))
    assert [info.cost.measured for info in infos] == [1.0, 2.0, 3.0]
    assert float((states[3].w - w).norm()) > 0.1


@pytest.mark.parametrize(("kept", "share"), [(None, 1 - 80 / 400), (0.7, 0.7), (0.0, 0.0)])
def test_statistics_are_the_discounted_sum_of_the_batches(problem, starts, kept, share):
    """Σ_i share^(t−i) Σ_{j in batch i} s_j(w_i), over as many terms as that stands for."""
    recorded = Recorded(problem)
    states, _ = stepped(OnlineEM(80, kept), recorded, starts(problem, 1)[0], 5)
    total, terms = torch.zeros_like(states[-1].statistics), 0.0
    for before, after, index in zip(states, states[1:], recorded.drawn, strict=False):
        total = share * total + 80 * problem.expectation(before.w, index)[1]
        terms = share * terms + 80
        assert after.terms == pytest.approx(terms)
        torch.testing.assert_close(after.statistics, total / terms, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(after.w, problem.maximisation(total / terms, before.w, terms=terms))
    if kept is None:  # they stand for nearly one pass after the first, and never for more
        assert 0.6 * 400 < terms < 400


@pytest.mark.parametrize("batch", [80, 150, 400, 1000])
def test_the_batches_of_a_pass_tile_the_data_once(problem, starts, batch):
    recorded, per_pass = Recorded(problem), -(-400 // batch)
    states, infos = stepped(OnlineEM(batch), recorded, starts(problem, 1)[0], 3 * per_pass)
    orders = [torch.cat(recorded.drawn[i : i + per_pass]) for i in range(0, 3 * per_pass, per_pass)]
    for number, order in enumerate(orders, start=1):
        assert torch.equal(order.sort().values, torch.arange(400))
        assert len(states[number * per_pass].left) == 0
        assert infos[number * per_pass - 1].cost.measured == pytest.approx(number)
    assert all(not torch.equal(a, b) for a, b in pairwise(orders))
    assert {len(index) for index in recorded.drawn[: per_pass - 1]} <= {batch}


def test_batches_drawn_anew_have_no_term_twice(problem, starts):
    recorded = Recorded(problem)
    stepped(OnlineEM(120, passes=False), recorded, starts(problem, 1)[0], 6)
    assert all(len(index.unique()) == len(index) == 120 for index in recorded.drawn)
    assert 120 < len(torch.cat(recorded.drawn[:2]).unique()) < 240  # the second does not know of the first
    assert len(torch.cat(recorded.drawn).unique()) == pytest.approx(400 * (1 - 0.7**6), abs=20)


def test_the_same_seed_gives_the_same_bits(problem, starts):
    w, solver, termination = starts(problem, 1)[0], OnlineEM(70), Termination(measured=4.0)
    one, two, other = (run(solver, problem, w, termination, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.w, two.w)
    assert [info.value for info in one.trace] == [info.value for info in two.trace]
    assert not torch.equal(one.w, other.w)
    # A generator that is handed on draws what the seed would have drawn, and is left where a pass ends.
    generator = torch.Generator().manual_seed(3)
    ended = continued(solver, problem, solver.init(problem, w), generator, len(one.trace))
    assert torch.equal(ended.w, one.w)
    assert torch.equal(generator.get_state(), ended.generator)


@pytest.mark.parametrize("done", [0, 1, 4, 5, 7])
def test_a_state_taken_apart_and_rebuilt_goes_on_identically(problem, starts, tmp_path, done):
    """After no step, within a pass, and at its end."""
    solver, w = OnlineEM(90), starts(problem, 1)[0]
    states, _ = stepped(solver, problem, w, 12)
    tensors, numbers = flattened(states[done])
    write_checkpoint(tmp_path / "state", {**tensors, "numbers": numbers})
    record = read_checkpoint(tmp_path / "state")
    state = rebuilt(solver.init(problem, torch.zeros_like(w)), record, record["numbers"])
    for expected in states[done + 1 :]:
        state, _ = solver.step(problem, state)
        assert torch.equal(state.w, expected.w)
        assert torch.equal(state.statistics, expected.statistics)
        assert torch.equal(state.left, expected.left)
        assert (state.terms, state.cost[:3]) == (expected.terms, expected.cost[:3])


def test_it_comes_near_the_minimum_in_few_passes(small_problem, starts):
    """Batches make noise, which what is kept averages: it ends above the minimum by a fraction of what EM still has."""
    problem = small_problem(4000)
    w = starts(problem, 1)[0]
    online = run(OnlineEM(100), problem, w, Termination(measured=10.0))
    value, _ = problem.gradient(online.w)
    em_value = run(OnlineEM(4000), problem, w, Termination(measured=10.0)).trace[-1].value
    least = lbfgs(problem, online.w, Termination()).trace[-1].value
    assert 0 <= value - least < 0.2 * (em_value - least)


def test_over_relaxed_em_comes_nearer_in_as_many_passes(small_problem, starts):
    """On all terms: the same minimum, and the rest of the way to it shrinks faster where EM is slow."""
    problem = small_problem(4000)
    w = starts(problem, 1)[0]
    least = lbfgs(problem, run(OnlineEM(4000), problem, w, Termination(measured=40.0)).w, Termination()).trace[-1].value

    def rest(relaxation: float) -> float:
        solver = OnlineEM(4000, kept=0.0, relaxation=relaxation)
        found = run(solver, problem, w, Termination(measured=10.0))
        return problem.gradient(found.w)[0] - least

    assert 0 <= rest(1.8) < 0.5 * rest(1.0)


def test_a_problem_without_an_em_map_is_refused(problem, starts):
    class Gradient:
        count, dimension = problem.count, problem.dimension

        def gradient(self, w, index=None):
            return problem.gradient(w, index)

    with pytest.raises(InputError, match="is not ExpectationMaximisation, which this solver needs"):
        run(OnlineEM(), Gradient(), starts(problem, 1)[0])

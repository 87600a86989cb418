"""EM on batches whose sufficient statistics are kept and discounted (Cappé and Moulines 2009).

The statistics of EM are sums over observations, so those of a batch can be added to what is kept of earlier ones. An
M-step after every batch then costs no more memory than one after a pass, and the unknowns improve long before all
observations have been seen. It is the default solver of an ab initio search.
"""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from orbitrec.optim.estimators import Snapshot
from orbitrec.optim.problem import Counted, FiniteSum
from orbitrec.optim.termination import Cost, StepInfo


class OnlineState(NamedTuple):
    """The unknowns, the running statistics, and what is left of the present pass.

    Attributes:
        w: (d,) the unknowns.
        snapshot: the same point, with the last batch's value before its M-step and the residual w − ψ_I(w) there.
        statistics: (s,) discounted mean of the expected statistics.
        terms: how many observations the mean stands for.
        left: indices of the observations that the pass has not yet used.
        generator: state of the random numbers.
        cost: of all steps so far.
    """

    w: Float[Tensor, "d"]
    snapshot: Snapshot
    statistics: Float[Tensor, "s"]
    terms: float
    left: Int[Tensor, "n"]
    generator: UInt8[Tensor, "g"]
    cost: Cost


@dataclass(frozen=True)
class OnlineEM:
    """A solver whose epoch is one batch and one M-step (Cappé and Moulines 2009).

    It needs an :class:`orbitrec.optim.problem.ExpectationMaximisation`. F of all terms is never evaluated: the value
    that is reported is that of the batch, before its M-step, and every epoch is accepted.

    Attributes:
        batch: terms in a batch.
        kept: share of the old statistics that is kept at each batch. None keeps ``1 − b/(memory N)`` of them, so that
            they always stand for about so many passes.
        memory: passes that the statistics stand for where ``kept`` is None.
        relaxation: how many times as far as the M-step a step goes, below 2. Over-relaxed EM has the same fixed points
            and comes there up to as many times sooner where much is missing (Salakhutdinov and Roweis 2003).
        passes: whether batches go through all terms in a random order, each once in a pass; otherwise every batch is
            drawn from all terms.
    """

    batch: int = 1000
    kept: float | None = None
    passes: bool = True
    memory: float = 1.0
    relaxation: float = 1.0

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> OnlineState:
        """The state at w, before any statistics."""
        w, empty = w.detach().double(), torch.zeros(0, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed).get_state()
        return OnlineState(w, Snapshot(w, math.inf, torch.zeros_like(w)), empty, 0.0, empty.long(), generator, Cost())

    def step(self, problem: FiniteSum, state: OnlineState) -> tuple[OnlineState, StepInfo]:
        """One batch: the E-step, the update of the discounted statistics, and the M-step."""
        started, counted = time.process_time(), Counted(problem)
        index, left, drawn = self._drawn(problem.count, state)
        value, new = counted.expectation(state.w, index)
        share = len(index) / (self.memory * problem.count)
        kept = 0.0 if state.terms == 0 else (max(0.0, 1 - share) if self.kept is None else self.kept)
        old = kept * state.terms
        terms = old + len(index)
        statistics = new if old == 0 else (old * state.statistics + len(index) * new) / terms
        moved = self.relaxation * (counted.maximisation(statistics, state.w, terms=terms) - state.w)
        w = state.w + moved
        cost = state.cost.and_epoch(counted.passes, counted.passes, started)
        info = StepInfo(value, float(moved.norm()), math.inf, True, cost)
        return OnlineState(w, Snapshot(w, value, -moved), statistics, terms, left, drawn, cost), info

    def _drawn(self, count: int, state: OnlineState) -> tuple[Int[Tensor, "b"], Int[Tensor, "n"], UInt8[Tensor, "g"]]:
        """The next batch, what is left of the pass, and the state of the random numbers."""
        generator = torch.Generator()
        generator.set_state(state.generator)
        left = state.left
        if not self.passes or len(left) == 0:
            left = torch.randperm(count, generator=generator)
        batch, left = left[: self.batch], left[self.batch :]
        return batch, left if self.passes else left[:0], generator.get_state()

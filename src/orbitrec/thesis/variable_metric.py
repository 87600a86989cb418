"""Mini-batch descent in EM's metric with momentum and growing batches, in the manner of RELION 4's initial model.

Kimanius, Dong, Sharov, Nakane and Scheres (2021) call it VDAM. Its ingredients, here on any problem with an EM map: the
gradient is multiplied by the inverse information of the M-step, which makes it the EM residual; two halves of each
batch give two running means of it, and coordinates are weighted by how well the two agree; the step shrinks while the
batches grow. It is made to come near quickly, not to converge to the last digit.
"""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from orbitrec.optim.estimators import Snapshot, batch_size, draw, em_residual
from orbitrec.optim.problem import Counted, FiniteSum
from orbitrec.optim.termination import Cost, StepInfo

_DECAY = 0.9


class MomentumState(NamedTuple):
    """The iterate, the last full evaluation, two running means of residuals, and the steps made."""

    w: Float[Tensor, "d"]
    snapshot: Snapshot
    means: Float[Tensor, "two d"]
    count: int
    generator: UInt8[Tensor, "s"]
    cost: Cost


@dataclass(frozen=True)
class VariableMetric:
    """Batches grow from ``share`` of the terms to all of them, and steps shrink from ``first`` to ``last``.

    Both over ``epochs`` epochs of ``inner`` steps; every epoch evaluates F once.
    """

    share: float = 0.05
    inner: int = 10
    first: float = 0.9
    last: float = 0.1
    epochs: int = 40

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> MomentumState:
        """The state at w.

        Args:
            problem: what is minimised.
            w: where to begin, (d,).
            seed: of the solver's random numbers.

        Returns:
            The state.
        """
        w = w.detach().double()
        zero, generator = torch.zeros_like(w), torch.Generator().manual_seed(seed).get_state()
        return MomentumState(w, Snapshot(w, math.inf, zero), torch.zeros(2, len(w)).double(), 0, generator, Cost())

    def step(self, problem: FiniteSum, state: MomentumState) -> tuple[MomentumState, StepInfo]:
        """An evaluation and ``inner`` steps."""
        started, counted, generator = time.process_time(), Counted(problem), torch.Generator()
        generator.set_state(state.generator)
        value, field = em_residual(counted, state.w, None)
        done = min(1.0, state.cost.epochs / self.epochs)
        share, length = self.share ** (1 - done), self.first + (self.last - self.first) * done
        w, means, t = state.w, state.means, state.count
        for _ in range(self.inner):
            t += 1
            index = draw(problem.count, max(2, batch_size(share, problem.count)), generator)
            halves = (torch.arange(problem.count) if index is None else index).tensor_split(2)
            residuals = torch.stack([em_residual(counted, w, half)[1] for half in halves])
            means = _DECAY * means + (1 - _DECAY) * residuals
            agreement = (2 * means.prod(0) / means.square().sum(0).clamp(min=1e-300)).clamp(min=0.1)
            w = w - length * agreement * means.mean(0) / (1 - _DECAY**t)
        cost = state.cost.and_epoch(counted.passes, counted.passes, started)
        info = StepInfo(value, float(field.norm()), abs(value - state.snapshot.value), True, cost)
        return MomentumState(w, Snapshot(state.w, value, field), means, t, generator.get_state(), cost), info

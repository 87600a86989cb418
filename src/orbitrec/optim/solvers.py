"""Nine optimisers as three choices: a field, an estimator of it, a metric applied to it (chapter 4).

|              | full | batch | variance-reduced                                                        |
|--------------|------|-------|-------------------------------------------------------------------------|
| ∇F           | GD   | SGD   | SVRG (VR-SGD); + subsampled Newton = SVRG+I; + BFGS = SVRG+II           |
| w − Ψ(w)     | EM   | sEM   | sEM-vr; + BFGS = sEM-vr+QN                                              |

and one that the thesis does not have: ∇F in full with Fisher + BFGS. ``init(problem, w) -> state``, then
``step(problem, state) -> (state, info)``: one epoch, from snapshot to snapshot.

None needs tuning and none diverges. A snapshot is accepted if F did not rise there; if it did, or is no number, the
epoch runs again from the old one with a shorter step, so that F at snapshots never increases. The value costs nothing:
it comes with the field. Step lengths begin at the inverse curvature along the field for a gradient without metric, at 1
otherwise, and recover after success.
"""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from orbitrec.optim.estimators import Batch, Estimator, Field, Full, Snapshot, VarianceReduced, em_residual, gradient
from orbitrec.optim.metrics import BFGS, FisherBFGS, Identity, InformationBFGS, InverseHessian, Metric, SubsampledNewton
from orbitrec.optim.problem import Counted, FiniteSum
from orbitrec.optim.termination import Cost, StepInfo

ROUNDING = 8 * torch.finfo(torch.float64).eps  # relative: F is a sum, and may rise by this much at a minimum

_LEAST_LENGTH = 0.1  # of a step with secant pairs


class State(NamedTuple):
    """Everything a run needs to go on: the last accepted snapshot, the next candidate, metric, step, draws, counts."""

    w: Float[Tensor, "d"]
    snapshot: Snapshot
    inverse: InverseHessian
    length: float
    generator: UInt8[Tensor, "s"]
    cost: Cost


S = TypeVar("S", bound=tuple)


@runtime_checkable
class Solver(Protocol[S]):
    """A method as the driver sees it. To add one, write these two functions, in a file of their own.

    Its state is a named tuple of tensors, numbers and other such tuples, which is all that a checkpoint keeps. It has
    ``snapshot``, the last accepted point, and ``generator``, the state of its random numbers where it draws any.
    """

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> S:
        """The state before the first epoch from w."""
        ...

    def step(self, problem: FiniteSum, state: S) -> tuple[S, StepInfo]:
        """One epoch."""
        ...


_IDENTITY = Identity()


@dataclass(frozen=True)
class SnapshotSolver:
    """A composition. ``longest`` bounds the step length; ``average`` makes an epoch's mean its snapshot.

    Any of the nine is safe without settings; what each needs is the problem's: EM maps need
    ``ExpectationMaximisation``, curvature ``TwiceDifferentiable``.
    """

    field: Field
    estimator: Estimator
    metric: Metric = _IDENTITY
    longest: float = 1.0
    average: bool = True

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> State:
        """The state at w; the first epoch evaluates it."""
        w = w.detach().double()
        start = Snapshot(w, math.inf, torch.zeros_like(w))
        generator = torch.Generator().manual_seed(seed).get_state()
        return State(w, start, InverseHessian.scaled_identity(len(w)), math.nan, generator, Cost())

    def step(self, problem: FiniteSum, state: State) -> tuple[State, StepInfo]:
        """Judge the candidate snapshot, update the metric, and take an epoch's inner steps to the next candidate."""
        started = time.process_time()
        counted = Counted(problem)
        generator = torch.Generator()
        generator.set_state(state.generator)
        old = state.snapshot
        value, field = self.field(counted, state.w, None)
        accepted = value <= old.value + ROUNDING * abs(value) and bool(field.isfinite().all())
        inverse, snapshot, reported = state.inverse, old, self.estimator.reported_passes(problem.count)
        if not accepted and old.value == math.inf:
            raise ArithmeticError("the objective or its field is not finite at the start")
        new = Snapshot(state.w, value, field)
        if old.value < math.inf and math.isfinite(value) and bool(field.isfinite().all()):
            inverse = self.metric.updated(inverse, new, old)
        if accepted:
            snapshot = new
            inverse = self.metric.refreshed(inverse, counted, snapshot, generator)
            reported += self.metric.reported_passes(counted)
        length = self._length(counted, state, snapshot, accepted)
        if length < _LEAST_LENGTH and len(inverse.steps):  # the pairs mislead: forget them
            inverse = inverse.without_pairs()
        w = self._epoch(counted, snapshot, inverse, length, generator)
        cost = state.cost.and_epoch(counted.passes, reported, started)
        info = StepInfo(snapshot.value, float(snapshot.field.norm()), abs(value - old.value), accepted, cost)
        return State(w, snapshot, inverse, length, generator.get_state(), cost), info

    def _epoch(
        self,
        problem: Counted,
        snapshot: Snapshot,
        inverse: InverseHessian,
        length: float,
        generator: torch.Generator,
    ) -> Float[Tensor, "d"]:
        w, total = snapshot.w, torch.zeros_like(snapshot.w)
        steps = self.estimator.steps(problem.count)
        for _ in range(steps):
            field = self.estimator.estimate(self.field, problem, w, snapshot, generator)
            w = w - length * inverse.apply(field)
            total += w
        return total / steps if self.average else w

    def _length(self, problem: Counted, state: State, snapshot: Snapshot, accepted: bool) -> float:
        """Halved after a rejection; after success it recovers: fast up to ``longest``, slowly without a bound."""
        if math.isnan(state.length):
            return self.longest if self.longest < math.inf else _inverse_curvature(problem, snapshot)
        if not accepted:
            return state.length / 2
        return min(self.longest, state.length * (2 if self.longest < math.inf else 1.05))


@dataclass(frozen=True)
class After:
    """``then``, after so many epochs of ``first``.

    EM's first steps are the longest of all methods', and from random starts it ends at the lowest minimum more often.
    """

    first: SnapshotSolver
    epochs: int
    then: SnapshotSolver

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> State:
        """The state of ``first``."""
        return self.first.init(problem, w, seed)

    def step(self, problem: FiniteSum, state: State) -> tuple[State, StepInfo]:
        """One epoch of whichever's turn it is."""
        if state.cost.epochs < self.epochs:
            return self.first.step(problem, state)
        if state.cost.epochs == self.epochs:
            fresh = self.then.init(problem, state.w)
            state = fresh._replace(generator=state.generator, cost=state.cost)
        return self.then.step(problem, state)


def _inverse_curvature(problem: Counted, snapshot: Snapshot) -> float:
    """1/λ with λ the curvature along the gradient, from one more gradient a little way down."""
    size = float(snapshot.field.norm())
    if size == 0:
        return 1.0
    small = 1e-4 * max(1.0, float(snapshot.w.norm())) / size
    _, ahead = problem.gradient(snapshot.w - small * snapshot.field)
    return small * size / max(float((snapshot.field - ahead).norm()), 1e-12 * size)


def gradient_descent() -> SnapshotSolver:
    """GD (4.5)."""
    return SnapshotSolver(gradient, Full(), longest=math.inf)


def stochastic_gradient(share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """SGD (4.6): the step halves whenever an epoch did not lower F, which makes it decay as it must."""
    return SnapshotSolver(gradient, Batch(share, inner), longest=math.inf)


def svrg(share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """SVRG with VR-SGD's averaging (Algorithm 1)."""
    return SnapshotSolver(gradient, VarianceReduced(share, inner), longest=math.inf)


def svrg_newton(rank: int, share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """SVRG+I (Algorithm 2)."""
    return SnapshotSolver(gradient, VarianceReduced(share, inner), SubsampledNewton(rank, share))


def svrg_bfgs(share: float = 0.1, inner: int = 2, metric: BFGS | None = None) -> SnapshotSolver:
    """SVRG+II (Algorithm 3)."""
    return SnapshotSolver(gradient, VarianceReduced(share, inner), metric or BFGS())


def em() -> SnapshotSolver:
    """EM (4.13)."""
    return SnapshotSolver(em_residual, Full())


def stochastic_em(share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """sEM (4.14)."""
    return SnapshotSolver(em_residual, Batch(share, inner))


def sem_vr(share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """sEM-vr (Algorithm 4)."""
    return SnapshotSolver(em_residual, VarianceReduced(share, inner))


def sem_vr_bfgs(share: float = 0.1, inner: int = 2, metric: BFGS | None = None) -> SnapshotSolver:
    """sEM-vr+QN (Algorithm 5), with the residual's secant in the geometry of EM unless ``metric`` says otherwise."""
    return SnapshotSolver(em_residual, VarianceReduced(share, inner), metric or InformationBFGS())


def fisher_bfgs(metric: FisherBFGS | None = None) -> SnapshotSolver:
    """Full gradients, Fisher + BFGS: the fewest passes wherever the data fit a few hundred batches."""
    return SnapshotSolver(gradient, Full(), metric or FisherBFGS())


def fisher_bfgs_after_em(epochs: int = 10) -> After:
    """EM while it is fast, then Fisher + BFGS."""
    return After(em(), epochs, fisher_bfgs())

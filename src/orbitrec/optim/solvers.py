"""Nine optimisers as three choices: a field, an estimator of it, a metric applied to it (chapter 4).

|              | full | batch | variance-reduced                                                        |
|--------------|------|-------|-------------------------------------------------------------------------|
| ∇F           | GD   | SGD   | SVRG (VR-SGD); + subsampled Newton = SVRG+I; + BFGS = SVRG+II           |
| w − Ψ(w)     | EM   | sEM   | sEM-vr; + BFGS = sEM-vr+QN                                              |

and one that the thesis does not have: ∇F in full with Fisher + BFGS. ``init(problem, w) -> state``, then
``step(problem, state) -> (state, info)``: one epoch, from snapshot to snapshot.

None needs tuning and none diverges. A snapshot is accepted if F is not larger there than at the one before. Otherwise
the epoch is repeated from the old snapshot with a shorter step, so that F at snapshots never increases. This needs no
further evaluation, since the value comes with the field. Step lengths begin at the inverse curvature along the field
for a gradient without metric, at 1 otherwise, and grow again after success.
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
    """All that a run needs to go on.

    Attributes:
        w: (d,) the next candidate for a snapshot.
        snapshot: the last accepted one.
        inverse: the metric.
        length: of a step; NaN before the first.
        generator: state of the random numbers.
        cost: of all epochs so far.
    """

    w: Float[Tensor, "d"]
    snapshot: Snapshot
    inverse: InverseHessian
    length: float
    generator: UInt8[Tensor, "s"]
    cost: Cost


S = TypeVar("S", bound=tuple)


@runtime_checkable
class Solver(Protocol[S]):
    """A method of minimisation. To add one, write these two functions in a file of their own.

    The state is a named tuple of tensors, numbers and other such tuples, since a checkpoint keeps nothing else. It has
    the fields ``snapshot``, the last accepted point, and, if the method is random, ``generator``, the state of its
    random numbers.
    """

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> S:
        """The state before the first epoch.

        Args:
            problem: F, the finite sum.
            w: (d,) where to begin.
            seed: of the method's random numbers.

        Returns:
            The state; F need not have been evaluated.
        """
        ...

    def step(self, problem: FiniteSum, state: S) -> tuple[S, StepInfo]:
        """Make one epoch.

        Args:
            problem: F, the finite sum.
            state: before the epoch.

        Returns:
            The state after it, and what it found.
        """
        ...


_IDENTITY = Identity()


@dataclass(frozen=True)
class SnapshotSolver:
    """A method composed of a field, an estimator of it, and a metric.

    A field of EM needs an ``ExpectationMaximisation`` problem, a metric of curvature a ``TwiceDifferentiable`` one.

    Attributes:
        field: what is driven to zero.
        estimator: of the field between snapshots.
        metric: applied to the field.
        longest: bound of the step length.
        average: whether the next snapshot is the mean of an epoch's points, as in VR-SGD, or its last point.
    """

    field: Field
    estimator: Estimator
    metric: Metric = _IDENTITY
    longest: float = 1.0
    average: bool = True

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> State:
        """The state at w, where F is not evaluated before the first epoch."""
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
    """Two methods, one after the other.

    EM makes the longest first steps of all methods, and from random starts it finds the lowest minimum more often.

    Attributes:
        first: the method to begin with.
        epochs: how many it makes.
        then: the method after that.
    """

    first: SnapshotSolver
    epochs: int
    then: SnapshotSolver

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> State:
        """The state of the first method."""
        return self.first.init(problem, w, seed)

    def step(self, problem: FiniteSum, state: State) -> tuple[State, StepInfo]:
        """One epoch of the method that is due."""
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
    """Gradient descent, GD (4.5)."""
    return SnapshotSolver(gradient, Full(), longest=math.inf)


def stochastic_gradient(share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """SGD (4.6). The step is halved whenever an epoch does not lower F, which gives the decay that it needs."""
    return SnapshotSolver(gradient, Batch(share, inner), longest=math.inf)


def svrg(share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """SVRG with the averaging of VR-SGD (Algorithm 1)."""
    return SnapshotSolver(gradient, VarianceReduced(share, inner), longest=math.inf)


def svrg_newton(rank: int, share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """SVRG+I, variance-reduced gradients with a subsampled Hessian (4.8), Algorithm 2.

    Args:
        rank: directions of the Hessian that are used.
        share: of the terms in a batch, and in the Hessian.
        inner: steps of an epoch.

    Returns:
        The solver.
    """
    return SnapshotSolver(gradient, VarianceReduced(share, inner), SubsampledNewton(rank, share))


def svrg_bfgs(share: float = 0.1, inner: int = 2, metric: BFGS | None = None) -> SnapshotSolver:
    """SVRG+II, variance-reduced gradients with BFGS pairs of snapshots (4.9), (4.10), Algorithm 3.

    Args:
        share: of the terms in a batch.
        inner: steps of an epoch.
        metric: the rule for the pairs; :class:`BFGS` with its defaults if None.

    Returns:
        The solver.
    """
    return SnapshotSolver(gradient, VarianceReduced(share, inner), metric or BFGS())


def em() -> SnapshotSolver:
    """Expectation maximisation, EM (4.13)."""
    return SnapshotSolver(em_residual, Full())


def stochastic_em(share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """Stochastic EM on batches, sEM (4.14)."""
    return SnapshotSolver(em_residual, Batch(share, inner))


def sem_vr(share: float = 0.1, inner: int = 20) -> SnapshotSolver:
    """Variance-reduced stochastic EM, sEM-vr (4.16), Algorithm 4."""
    return SnapshotSolver(em_residual, VarianceReduced(share, inner))


def sem_vr_bfgs(share: float = 0.1, inner: int = 2, metric: BFGS | None = None) -> SnapshotSolver:
    """sEM-vr+QN, variance-reduced EM (4.16) with BFGS pairs of snapshots, Algorithm 5.

    Args:
        share: of the terms in a batch.
        inner: steps of an epoch.
        metric: the rule for the pairs; if None, pairs of the residual in the geometry of EM,
            :class:`InformationBFGS`, instead of the thesis's pairs of Ψ.

    Returns:
        The solver.
    """
    return SnapshotSolver(em_residual, VarianceReduced(share, inner), metric or InformationBFGS())


def fisher_bfgs(metric: FisherBFGS | None = None) -> SnapshotSolver:
    """Full gradients with a Fisher matrix and BFGS pairs: the fewest passes if the data are a few hundred batches."""
    return SnapshotSolver(gradient, Full(), metric or FisherBFGS())


def fisher_bfgs_after_em(epochs: int = 10) -> After:
    """EM while it is fast, then Fisher + BFGS."""
    return After(em(), epochs, fisher_bfgs())

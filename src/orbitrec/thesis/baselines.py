"""What chapter 4 is to be measured against: L-BFGS, accelerated EM, Newton's method, Adam."""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from orbitrec.optim.estimators import Full, Snapshot, batch_size, draw, em_residual, gradient
from orbitrec.optim.lbfgs import Evaluation, Rules, minimise_function
from orbitrec.optim.metrics import SubsampledNewton
from orbitrec.optim.problem import Counted, FiniteSum
from orbitrec.optim.solvers import ROUNDING, SnapshotSolver
from orbitrec.optim.termination import Cost, Outcome, Result, StepInfo, Termination


def lbfgs(problem: FiniteSum, w: Float[Tensor, "d"], termination: Termination, memory: int = 30) -> Result:
    """scipy's L-BFGS-B without bounds; every evaluation is one pass, every iteration one entry of the trace.

    Args:
        problem: what is minimised.
        w: where to begin, (d,).
        termination: when to end.
        memory: pairs of steps and changes of the gradient that are kept.

    Returns:
        The last point, the trace, and how the run ended.
    """
    counted, trace, started = Counted(problem), [], time.process_time()

    def record(at: Evaluation) -> bool:
        moved = abs(at.value - trace[-1].value) if trace else math.inf
        cost = Cost(len(trace) + 1, counted.passes, counted.passes, time.process_time() - started)
        trace.append(StepInfo(at.value, float(at.gradient.norm()), moved, True, cost))
        return termination.outcome(trace[-1]) is not None

    rules = Rules(10**6, pairs=memory, value_tolerance=0.0, gradient_tolerance=0.0)
    found = minimise_function(counted.gradient, w, rules, stop=record)
    outcome = termination.outcome(trace[-1]) if trace else None
    return Result(found.x, trace, outcome or Outcome.LINE_SEARCH_FAILED)


def newton(dimension: int) -> SnapshotSolver:
    """Newton's method with the exact Hessian's absolute eigenvalues, halving steps that do not descend."""
    return SnapshotSolver(gradient, Full(), SubsampledNewton(dimension, 1.0))


class EMState(NamedTuple):
    """The last accepted point with its residual, the next candidate, and the points and residuals mixed so far."""

    w: Float[Tensor, "d"]
    snapshot: Snapshot
    points: Float[Tensor, "k d"]
    residuals: Float[Tensor, "k d"]
    cost: Cost


@dataclass(frozen=True)
class Anderson:
    """EM accelerated by Anderson's mixing of the last ``memory`` residuals (Walker and Ni 2011).

    Where F rises at the extrapolated point, the plain EM step from the last accepted point is taken instead, and the
    memory begins anew: F never increases (as in Henderson and Varadhan's DAAREM, 2019).
    """

    memory: int = 10

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> EMState:
        """The state at w.

        Args:
            problem: what is minimised.
            w: where to begin, (d,).
            seed: of the solver's random numbers.

        Returns:
            The state.
        """
        empty = torch.zeros(0, len(w), dtype=torch.float64)
        w = w.detach().double()
        return EMState(w, Snapshot(w, math.inf, torch.zeros_like(w)), empty, empty, Cost())

    def step(self, problem: FiniteSum, state: EMState) -> tuple[EMState, StepInfo]:
        """Judge the candidate, then mix."""
        started, counted, old = time.process_time(), Counted(problem), state.snapshot
        value, field = em_residual(counted, state.w, None)
        accepted = value <= old.value + ROUNDING * abs(value) and bool(field.isfinite().all())
        snapshot, kept = (Snapshot(state.w, value, field), self.memory) if accepted else (old, 0)
        points, residuals = state.points[len(state.points) - min(kept, len(state.points)) :], state.residuals
        residuals = residuals[len(residuals) - len(points) :]
        w = snapshot.w - snapshot.field
        if accepted and len(points):
            changes = (snapshot.field - residuals).T
            mix = torch.linalg.lstsq(changes, snapshot.field, driver="gelsd").solution
            w = w - ((snapshot.w - points).T - changes) @ mix
        if accepted:
            points, residuals = (
                torch.cat([old, new[None]]) for old, new in ((points, snapshot.w), (residuals, snapshot.field))
            )
        cost = state.cost.and_epoch(counted.passes, counted.passes, started)
        info = StepInfo(snapshot.value, float(snapshot.field.norm()), abs(value - old.value), accepted, cost)
        return EMState(w, snapshot, points, residuals, cost), info


@dataclass(frozen=True)
class Squarem:
    """EM accelerated by squared extrapolation (Varadhan and Roland 2008, scheme S3) with a monotone safeguard.

    A cycle is two EM steps, r and v their residual and its change, and an EM step from ``w − 2αr + α²v``,
    ``α = −‖r‖/‖v‖``; where F rises, the two plain steps stand.
    """

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> EMState:
        """The state at w.

        Args:
            problem: what is minimised.
            w: where to begin, (d,).
            seed: of the solver's random numbers.

        Returns:
            The state.
        """
        return Anderson().init(problem, w, seed)

    def step(self, problem: FiniteSum, state: EMState) -> tuple[EMState, StepInfo]:
        """One cycle."""
        started, counted, old = time.process_time(), Counted(problem), state.snapshot
        value, first = em_residual(counted, state.w, None)
        once = state.w - first
        _, second = em_residual(counted, once, None)
        twice = once - second
        change = first - second
        alpha = max(1.0, float(first.norm() / change.norm().clamp(min=1e-300)))
        far = state.w - 2 * alpha * first + alpha**2 * change
        far = far if alpha > 1 else twice
        far_value, far_field = em_residual(counted, far, None)
        good = far_value <= value + ROUNDING * abs(value) and bool(far_field.isfinite().all())
        snapshot = Snapshot(state.w, value, first)
        cost = state.cost.and_epoch(counted.passes, counted.passes, started)
        info = StepInfo(value, float(first.norm()), abs(value - old.value), good, cost)
        return EMState(far - far_field if good else twice, snapshot, state.points, state.residuals, cost), info


class AdamState(NamedTuple):
    """The iterate, the last full evaluation, and Adam's two running means."""

    w: Float[Tensor, "d"]
    snapshot: Snapshot
    mean: Float[Tensor, "d"]
    square: Float[Tensor, "d"]
    count: int
    generator: UInt8[Tensor, "s"]
    cost: Cost


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015) on batches of ``share``, its rate decaying as 1/√t; every epoch evaluates F once."""

    share: float = 0.1
    inner: int = 20
    rate: float = 0.05

    def init(self, problem: FiniteSum, w: Float[Tensor, "d"], seed: int = 0) -> AdamState:
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
        return AdamState(w, Snapshot(w, math.inf, zero), zero, zero, 0, generator, Cost())

    def step(self, problem: FiniteSum, state: AdamState) -> tuple[AdamState, StepInfo]:
        """An evaluation and ``inner`` steps."""
        started, counted, generator = time.process_time(), Counted(problem), torch.Generator()
        generator.set_state(state.generator)
        value, field = gradient(counted, state.w, None)
        w, mean, square, t = state.w, state.mean, state.square, state.count
        for _ in range(self.inner):
            t += 1
            g = counted.gradient(w, draw(problem.count, batch_size(self.share, problem.count), generator))[1]
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g.square()
            direction = mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
            w = w - self.rate / math.sqrt(1 + t / self.inner) * direction
        cost = state.cost.and_epoch(counted.passes, counted.passes - 1, started)
        info = StepInfo(value, float(field.norm()), abs(value - state.snapshot.value), True, cost)
        snapshot = Snapshot(state.w, value, field)
        return AdamState(w, snapshot, mean, square, t, generator.get_state(), cost), info

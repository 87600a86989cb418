"""Run a solver until a criterion ends it, keeping a trace; an interrupted run goes on along the same trajectory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.optim.problem import FiniteSum
from orbitrec.optim.solvers import S, Solver
from orbitrec.optim.termination import Result, StepInfo, Termination
from orbitrec.runtime.checkpoints import flattened, read_checkpoint, rebuilt, write_checkpoint

KIND = "optimiser checkpoint"
UNTIL_CONVERGED = Termination()


def run(
    solver: Solver[Any],
    problem: FiniteSum,
    w: Float[Tensor, "d"],
    termination: Termination = UNTIL_CONVERGED,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    every: int = 50,
    callback: Callable[[StepInfo], None] = lambda info: None,
) -> Result:
    """Minimise a finite sum: epochs of a solver until a criterion is met or the budget is spent.

    Args:
        solver: the method.
        problem: F, the finite sum.
        w: (d,) where to begin.
        termination: when to end.
        seed: of the solver's random numbers.
        checkpoint: a file to which the state is written every ``every`` epochs and at the end. If it exists, the run
            goes on from it, draws the same batches and ends at the same point as one that was not interrupted.
        every: epochs between two checkpoints.
        callback: called after each epoch.

    Returns:
        The last accepted point, the trace of epochs, and how the run ended.

    Raises:
        InputError: if the checkpoint is broken, or not one of this solver and problem.
    """
    state, trace = solver.init(problem, w, seed), []
    if checkpoint is not None and checkpoint.exists():
        state, trace = _loaded(checkpoint, state)
    outcome = termination.outcome(trace[-1]) if trace else None
    while outcome is None:
        state, info = solver.step(problem, state)
        trace.append(info)
        callback(info)
        outcome = termination.outcome(info)
        if checkpoint is not None and (outcome is not None or info.cost.epochs % every == 0):
            tensors, numbers = flattened(state)
            write_checkpoint(checkpoint, {**tensors, "numbers": numbers, "trace": trace}, KIND)
    return Result(state.snapshot.w, trace, outcome, state)


def continued(
    solver: Solver[S],
    problem: FiniteSum,
    state: S,
    generator: torch.Generator,
    epochs: int,
    callback: Callable[[StepInfo], None] = lambda info: None,
) -> S:
    """Make a number of epochs of a solver from a given state.

    It serves solvers whose state is passed from one problem to the next, where the problems have the same unknowns and
    differ in how their observations are seen.

    Args:
        solver: the method.
        problem: F, the finite sum.
        state: of the solver, with a field ``generator``.
        generator: source of its random numbers; it is advanced.
        epochs: how many.
        callback: called after each.

    Returns:
        The state at the end.
    """
    state = state._replace(generator=generator.get_state())  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(epochs):
        state, info = solver.step(problem, state)
        callback(info)
    generator.set_state(state.generator)  # pyright: ignore[reportAttributeAccessIssue]
    return state


def _loaded(path: Path, like: S) -> tuple[S, list[StepInfo]]:
    """State and trace from a checkpoint; ``like`` is a state of the same solver and problem."""
    record = read_checkpoint(path, KIND, "remove it to start anew")
    try:
        tensors = {name: value for name, value in record.items() if isinstance(value, Tensor)}
        state, trace = rebuilt(like, tensors, record["numbers"]), [StepInfo.from_json(row) for row in record["trace"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is a checkpoint of another solver; remove it to start anew") from error
    found, wanted = len(state.w), len(like.w)  # pyright: ignore[reportAttributeAccessIssue]
    if found != wanted:
        raise InputError(
            f"{path} is a checkpoint of {found} unknowns and this problem has {wanted}; remove it to start anew"
        )
    return state, trace

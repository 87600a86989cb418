"""Run a method until it stops, keeping a trace; interrupt it and go on with the same trajectory."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.tensors import read_tensors, write_tensors
from orbitrec.optim.problem import FiniteSum
from orbitrec.optim.solvers import StepInfo, Stepper, info_of


@dataclass(frozen=True)
class Termination:
    """When to stop: the objective moves by less than ``moved`` between two epochs, or a budget is cost.

    Attributes:
        moved: 1e-14 is the thesis's criterion; 0 never stops a run.
        value: stop at this objective, where the minimum is known.
        reported: cost-weighted epochs as the thesis counts them.
        measured: data passes.
        seconds: of the processor, in the method's own work.
    """

    moved: float = 1e-14
    value: float = -float("inf")
    reported: float = float("inf")
    measured: float = float("inf")
    seconds: float = float("inf")

    def reason(self, info: StepInfo) -> str | None:
        """Why to stop now, as a sentence; None to go on."""
        if info.moved < self.moved:
            return f"converged: the objective moved by less than {self.moved:g} in an epoch"
        if info.value <= self.value:
            return "reached the objective asked for"
        for name, cost, limit in (
            ("cost-weighted epochs", info.cost.reported, self.reported),
            ("data passes", info.cost.measured, self.measured),
            ("seconds", info.cost.seconds, self.seconds),
        ):
            if cost >= limit:
                return f"not converged after {limit:g} {name}; allow more or choose another method"
        return None


@dataclass(frozen=True)
class Result:
    """Where a run ended: the last accepted w, what each epoch found, why it stopped."""

    w: Float[Tensor, "d"]
    trace: list[StepInfo]
    reason: str

    @property
    def converged(self) -> bool:
        """Whether it met the criterion rather than a budget."""
        return self.reason.startswith(("converged", "reached"))


def run(
    solver: Stepper[Any],
    problem: FiniteSum,
    w: Float[Tensor, "d"],
    stop: Termination = Termination(),
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    every: int = 50,
    report: Callable[[StepInfo], None] = lambda info: None,
) -> Result:
    """Epochs from w until ``stop``. ``report`` is called after each.

    With a ``checkpoint`` file the state is written there every ``every`` epochs and at the end; if the file exists the
    run goes on from it, drawing the same batches and ending at the same point as a run that was not interrupted.

    Raises:
        InputError: if the checkpoint is not one of this problem.
    """
    state, trace = solver.init(problem, w, seed), []
    if checkpoint is not None and checkpoint.exists():
        state, trace = load_checkpoint(checkpoint, state)
    reason = stop.reason(trace[-1]) if trace else None
    while reason is None:
        state, info = solver.step(problem, state)
        trace.append(info)
        report(info)
        reason = stop.reason(info)
        if checkpoint is not None and (reason is not None or info.cost.epochs % every == 0):
            save_checkpoint(checkpoint, state, trace)
    return Result(state.snapshot.w, trace, reason)


def save_checkpoint(path: Path, state: Any, trace: list[StepInfo]) -> None:  # noqa: ANN401
    """The state's tensors in a safetensors file, trace and numbers as JSON in its header."""
    tensors, numbers = _flatten(state)
    header = {"state": json.dumps(numbers), "trace": json.dumps(trace)}
    write_tensors(path, "optimiser checkpoint", tensors, header)


def load_checkpoint(path: Path, like: Any) -> tuple[Any, list[StepInfo]]:  # noqa: ANN401
    """State and trace of :func:`save_checkpoint`; ``like`` is a state of the same problem.

    Raises:
        InputError: if the file is missing, not a checkpoint, or of a problem with another number of unknowns.
    """
    tensors, header = read_tensors(path, "optimiser checkpoint", "remove it to start anew")
    numbers, rows = json.loads(header["state"]), json.loads(header["trace"])
    try:
        state = _unflatten(like, tensors, numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is a checkpoint of another method; remove it to start anew") from error
    if state.w.shape != like.w.shape:
        raise InputError(
            f"{path} is a checkpoint of {len(state.w)} unknowns and this problem has {len(like.w)}; "
            "remove it to start anew"
        )
    return state, [info_of(row) for row in rows]


def _flatten(node: Any, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, float | int]]:  # noqa: ANN401
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float | int] = {}
    for name, value in node._asdict().items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value.contiguous().clone()
        elif isinstance(value, tuple):
            inner = _flatten(value, f"{prefix}{name}.")  # pyright: ignore[reportArgumentType]
            tensors |= inner[0]
            numbers |= inner[1]
        else:
            numbers[prefix + name] = value
    return tensors, numbers


def _unflatten(like: Any, tensors: dict[str, Tensor], numbers: dict[str, float | int], prefix: str = "") -> Any:  # noqa: ANN401
    """``like`` with every leaf replaced: the shape of the tree is the type's."""
    leaves = {}
    for name, value in like._asdict().items():
        if isinstance(value, Tensor):
            leaves[name] = tensors[prefix + name]
        elif isinstance(value, tuple):
            leaves[name] = _unflatten(value, tensors, numbers, f"{prefix}{name}.")
        else:
            leaves[name] = numbers[prefix + name]
    return type(like)(**leaves)

"""What an optimiser's step reports, when a run of them ends, and how it ended."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor


class Cost(NamedTuple):
    """What a run has cost so far.

    Attributes:
        epochs: steps of the solver.
        measured: passes through the data.
        reported: passes by the thesis's rule (section 4.5.1), which leaves out one of the two batches of a
            variance-reduced step.
        seconds: of the processor.
    """

    epochs: int = 0
    measured: float = 0.0
    reported: float = 0.0
    seconds: float = 0.0

    def and_epoch(self, measured: float, reported: float, started: float) -> "Cost":
        """Add one epoch, which ends now.

        Args:
            measured: its passes through the data.
            reported: its passes by the thesis's rule.
            started: ``time.process_time()`` when it began.

        Returns:
            The cost including the epoch.
        """
        seconds = self.seconds + time.process_time() - started
        return Cost(self.epochs + 1, self.measured + measured, self.reported + reported, seconds)

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sum of two costs."""
        return Cost(
            self.epochs + other.epochs,
            self.measured + other.measured,
            self.reported + other.reported,
            self.seconds + other.seconds,
        )

    def scaled(self, share: float) -> "Cost":
        """The cost of passes over a ``share`` of the data, as passes over all of it."""
        return self._replace(measured=share * self.measured, reported=share * self.reported)


class StepInfo(NamedTuple):
    """What an epoch found.

    Attributes:
        value: the objective at the snapshot.
        field_norm: norm of the field there.
        moved: change of the objective from the snapshot before, an absolute value.
        accepted: whether this epoch's snapshot was kept.
        cost: of the run so far.
    """

    value: float
    field_norm: float
    moved: float
    accepted: bool
    cost: Cost

    @classmethod
    def from_json(cls, row: Sequence[Any]) -> "StepInfo":
        """The record from the list that JSON makes of it."""
        value, norm, moved, accepted, cost = row
        return cls(value, norm, moved, accepted, Cost(*cost))


class Outcome(Enum):
    """How a run ended, and what to do about it."""

    CONVERGED = "converged: the objective moved by less than the tolerance in an epoch"
    REACHED = "reached the objective asked for"
    OUT_OF_EPOCHS = "not converged: all epochs are spent; allow more or choose another solver"
    OUT_OF_PASSES = "not converged: all data passes are spent; allow more or choose another solver"
    OUT_OF_TIME = "not converged: all seconds are spent; allow more or choose another solver"
    LINE_SEARCH_FAILED = "not converged: the line search found no lower point; start from there with another solver"

    @property
    def converged(self) -> bool:
        """Whether a criterion was met, and not a budget spent."""
        return self in (Outcome.CONVERGED, Outcome.REACHED)


@dataclass(frozen=True)
class Termination:
    """When a run ends: the objective changes by less than ``moved`` from an epoch to the next, or a budget is spent.

    Attributes:
        moved: 1e-14 is the thesis's criterion; 0 turns the criterion off.
        value: end at this objective, where the minimum is known.
        epochs: steps of the solver.
        reported: cost-weighted epochs as the thesis counts them.
        measured: data passes.
        seconds: of the processor, in the solver's own work.
        least_epochs: steps that are made whatever they cost. The first of a solver that judges its steps afterwards
            only finds a candidate, so that a run of one epoch ends where it began.
    """

    moved: float = 1e-14
    value: float = -float("inf")
    epochs: int | float = float("inf")
    reported: float = float("inf")
    measured: float = float("inf")
    seconds: float = float("inf")
    least_epochs: int = 0

    def outcome(self, info: StepInfo) -> Outcome | None:
        """How the run ends with this epoch; None if it goes on."""
        # Batches that tile the data add up to whole passes but for rounding.
        spent = info.cost.measured * (1 + 1e-12)
        if info.moved < self.moved:
            return Outcome.CONVERGED
        if info.value <= self.value:
            return Outcome.REACHED
        if info.cost.epochs < self.least_epochs:
            return None
        if info.cost.epochs >= self.epochs or info.cost.reported >= self.reported:
            return Outcome.OUT_OF_EPOCHS
        if spent >= self.measured:
            return Outcome.OUT_OF_PASSES
        return Outcome.OUT_OF_TIME if info.cost.seconds >= self.seconds else None


@dataclass(frozen=True)
class Result:
    """Where and how a run ended.

    Attributes:
        w: the last accepted point, which the last entry of the trace describes.
        trace: what each epoch found.
        outcome: how it ended.
        state: the solver's last state, to go on from: its ``w`` is the next point, not yet evaluated.
    """

    w: Float[Tensor, "d"]
    trace: list[StepInfo]
    outcome: Outcome
    state: Any = None

    @property
    def converged(self) -> bool:
        """Whether a criterion was met, and not a budget spent."""
        return self.outcome.converged

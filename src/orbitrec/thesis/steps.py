"""Experiments of hours: each step that is done is kept, so that an interrupted run goes on where it was."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orbitrec.runtime.checkpoints import Checkpoints, Record


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of one experiment.

    Attributes:
        callback: called after each step.
        checkpoints: keep what a step found.
    """

    callback: Callable[[], None] = lambda: None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    def record(self, name: str, compute: Callable[[], Record]) -> dict[str, Any]:
        """What was kept under ``name``, else what ``compute`` returns."""
        record = self.checkpoints.load(name) or self.checkpoints.save(name, compute())
        self.callback()
        return record


NOT_KEPT = Steps()
"""Steps that are neither kept nor reported."""


class TimedSteps:
    """Steps whose seconds are counted, those before an interruption with them.

    Args:
        steps: of the experiment.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps, self._begin = steps, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the first step began."""
        return time.perf_counter() - self._begin

    def record(self, name: str, compute: Callable[[], Record]) -> dict[str, Any]:
        """See :meth:`Steps.record`; may be called from several threads at once."""
        record = self._steps.record(name, lambda: {**compute(), "seconds": self.seconds})
        self._begin = min(self._begin, time.perf_counter() - record.pop("seconds", 0.0))
        return record

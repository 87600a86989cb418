"""The state of a run: its random numbers, its history and timers, its checkpoints, and how far it is."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

import torch

from orbitrec.runtime.checkpoints import Checkpoints, Record
from orbitrec.runtime.distributed import from_first

T = TypeVar("T")


class Stage(StrEnum):
    """What a run is doing, in the words that progress bar, history and report use."""

    READING = "reading particles"
    STARTS = "stochastic EM"
    SELECTION = "selection"
    MARCHING = "frequency marching"
    POSE_SEARCH = "pose search"
    REFINEMENT = "refinement"
    POSE_REFINEMENT = "pose refinement"
    RECONSTRUCTION = "reconstruction"

    @property
    def cost(self) -> float:
        """Milliseconds of one core per image at the usual sizes; only the progress bar uses them."""
        return _COSTS.get(self, 0.0)


_COSTS = {
    Stage.READING: 0.3,
    Stage.STARTS: 0.17,
    Stage.SELECTION: 0.4,
    Stage.MARCHING: 2.0,
    Stage.POSE_SEARCH: 2.0,
    Stage.REFINEMENT: 2.0,
    Stage.POSE_REFINEMENT: 3.0,
    Stage.RECONSTRUCTION: 1.0,
}


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        stage: what it is doing.
        part: of the stage, such as ``start 3`` or ``half 1``; may be empty.
        share: of all work that is done, between 0 and 1.
    """

    stage: Stage
    part: str
    share: float

    def __str__(self) -> str:
        """The stage and its part, as the progress bar shows them."""
        return f"{self.stage}, {self.part}" if self.part else str(self.stage)


Callback = Callable[[Status], None]
"""A function that is called whenever some work has been done."""


def ignore(status: Status) -> None:
    """The callback of a run that nobody watches."""


def restored(kind: type[T], record: Mapping[str, Any]) -> T:
    """An instance of the dataclass ``kind`` from a record that has its fields; other entries are ignored."""
    return kind(*(record[part.name] for part in fields(kind)))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class HistoryRow:
    """One step of a run: at which resolution it worked and how well the model explained the particles that it saw.

    Attributes:
        stage: of the run.
        alternative: which of the attempts that a stage makes side by side: the number of a start, or a half-set; empty
            where there is only one.
        step: of this stage, alternative and resolution, from 1.
        resolution_A: finest that the step used, in Å.
        log_likelihood: of one particle.
        seconds: since the beginning of the run.
    """

    stage: Stage
    alternative: str
    step: int
    resolution_A: float
    log_likelihood: float
    seconds: float


@dataclass
class RunState:
    """What all stages of a run share, and the records of its finished steps.

    With every record the state of the random numbers, the history and the clock are saved. A run that is begun again
    with the same inputs takes the steps that are recorded from their records and computes the others, and so ends in
    the same result as one that was never interrupted.

    Attributes:
        generator: source of all random numbers of the run.
        total: work of the whole run, in the units of :attr:`Stage.cost`.
        callback: called with the status whenever work has been done.
        checkpoints: where records are kept.
        history: one row for every step.
        timers: seconds of each part of the run.
        part: what the run works on at present, say a half-set, while it does the same to several; may be empty.
    """

    generator: torch.Generator
    total: float = 1.0
    callback: Callback = ignore
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    history: list[HistoryRow] = field(default_factory=list)
    timers: dict[str, float] = field(default_factory=dict)
    part: str = ""
    _done: float = 0.0
    _begun: float = field(default_factory=time.monotonic)
    _last_timer: float = 0.0

    @contextmanager
    def working_on(self, part: str) -> Iterator[None]:
        """Records and rows of the history made within belong to this part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def named(self, name: str) -> str:
        """The name of a record of the part that the run works on."""
        return f"{self.part} {name}".strip()

    def step(self, name: str, compute: Callable[[], Record]) -> dict[str, Any]:
        """The record ``name`` if there is one; otherwise what ``compute`` returns, which is recorded."""
        found = self.load(name)
        return self.save(name, compute()) if found is None else found

    def load(self, name: str) -> dict[str, Any] | None:
        """The record ``name``, None if there is none; random numbers, history and clock are set back to its time."""
        state = from_first(lambda: self.checkpoints.load(self.named(name)))
        if state is None:
            return None
        kept: dict[str, Any] = {key: state.pop(f"run {key}") for key in ("generator", "history", "times", "timers")}
        self.generator.set_state(kept["generator"])
        self.history[:] = [HistoryRow(**{**row, "stage": Stage(row["stage"])}) for row in kept["history"]]
        elapsed, self._last_timer, self._done = kept["times"]
        self._begun = time.monotonic() - elapsed
        self.timers = kept["timers"]
        return state

    def save(self, name: str, record: Record) -> dict[str, Any]:
        """Save a record, replacing an earlier one of the same ``name``, and return it as it would be loaded."""
        state = {
            "generator": self.generator.get_state(),
            "history": [dict(vars(row)) for row in self.history],
            "times": [self.elapsed(), self._last_timer, self._done],
            "timers": self.timers,
        }
        saved = self.checkpoints.save(
            self.named(name), {**record, **{f"run {key}": value for key, value in state.items()}}
        )
        return {key: saved[key] for key in record}

    def advance(self, stage: Stage, images: int | float, part: str = "") -> None:
        """Report that some work has been done.

        Args:
            stage: of the work.
            images: how many have been worked on.
            part: of the stage; may be empty.
        """
        self._done += stage.cost * images
        self.callback(Status(stage, self.named(part), min(1.0, self._done / self.total)))

    def counter(self, stage: Stage, part: str = "") -> Callable[[int], None]:
        """A function that reports work on a stage; it is called with the number of images."""
        return lambda images: self.advance(stage, images, part)

    def record(
        self, stage: Stage, alternative: str, resolution_A: float, log_likelihood: float, seconds: float | None = None
    ) -> None:
        """Add a step to the history.

        Args:
            stage: of the run.
            alternative: which of the attempts that a stage makes side by side; may be empty.
            resolution_A: the finest that the step used, in Å.
            log_likelihood: of one particle.
            seconds: since the beginning of the run; now if None.
        """
        alternative = self.named(alternative)
        own = stage, alternative, resolution_A
        before = (r.step for r in reversed(self.history) if (r.stage, r.alternative, r.resolution_A) == own)
        step = 1 + next(before, 0)
        now = self.elapsed() if seconds is None else seconds
        self.history.append(HistoryRow(stage, alternative, step, resolution_A, log_likelihood, now))

    def timer(self, name: str) -> None:
        """Record the seconds of the part ``name`` of the run, which ends now."""
        now = self.elapsed()
        self.timers[name] = self.timers.get(name, 0.0) + now - self._last_timer
        self._last_timer = now

    def elapsed(self) -> float:
        """Seconds since the beginning of the run, without those in which it was interrupted."""
        return time.monotonic() - self._begun

"""A run as it goes: its random numbers, its history and seconds, and what of it is done."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import torch

from orbitrec.runtime.checkpoints import Checkpoints, Record
from orbitrec.runtime.distributed import from_first

# Work of one image in each stage, in milliseconds of one core at the usual sizes: for the progress bar only.
READ, START, SELECT, SWEEP, POSE, REBUILD = 0.3, 0.17, 0.4, 2.0, 3.0, 1.0


T = TypeVar("T")


def restored(kind: type[T], record: Mapping[str, Any]) -> T:
    """A dataclass of that ``kind`` from a record that has its fields."""
    return kind(*(record[part.name] for part in fields(kind)))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Stage:
    """One step of the history: where the climb was and how well it explained the particles it saw."""

    stage: str
    step: int
    resolution_A: float
    log_likelihood: float
    seconds: float


@dataclass
class RunState:
    """What a run carries through its stages, and the records of its finished steps.

    Every record has the state of the random numbers, the history and the clock beside it. A run that is begun again
    with the same inputs computes the same values, takes what it finds recorded instead of computing it, and so ends in
    the same result as one that was never interrupted.

    Attributes:
        generator: all random numbers of the run.
        total: work of the whole run, in the units of :meth:`advance`.
        callback: told ``(stage, share of the whole work done)``.
        checkpoints: where records are kept.
        history: every step of the climb.
        laps: seconds of each stage.
    """

    generator: torch.Generator
    total: float = 1.0
    callback: Callable[[str, float], None] = lambda stage, share: None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    history: list[Stage] = field(default_factory=list)
    laps: dict[str, float] = field(default_factory=dict)
    _done: float = 0.0
    _begun: float = field(default_factory=time.monotonic)
    _last_lap: float = 0.0

    def step(self, name: str, compute: Callable[[], Record]) -> dict[str, Any]:
        """The record of ``name`` if there is one, else what ``compute`` returns, recorded."""
        found = self.load(name)
        return self.save(name, compute()) if found is None else found

    def load(self, name: str) -> dict[str, Any] | None:
        """The record of ``name``, None if there is none; the journal goes back to where it was when it was saved."""
        state = from_first(lambda: self.checkpoints.load(name))
        if state is None:
            return None
        kept: dict[str, Any] = {key: state.pop(f"journal {key}") for key in ("generator", "history", "times", "laps")}
        self.generator.set_state(kept["generator"])
        self.history[:] = [Stage(**row) for row in kept["history"]]
        elapsed, self._last_lap, self._done = kept["times"]
        self._begun = time.monotonic() - elapsed
        self.laps = kept["laps"]
        return state

    def save(self, name: str, record: Record) -> dict[str, Any]:
        """Keep a record in place of the last one of that ``name``, and return it as it would be loaded."""
        state = {
            "generator": self.generator.get_state(),
            "history": [asdict(row) for row in self.history],
            "times": [self.elapsed(), self._last_lap, self._done],
            "laps": self.laps,
        }
        saved = self.checkpoints.save(name, {**record, **{f"journal {key}": value for key, value in state.items()}})
        return {key: saved[key] for key in record}

    def advance(self, stage: str, work: float) -> None:
        """``work`` units of ``stage`` have been done."""
        self._done += work
        self.callback(stage, min(1.0, self._done / self.total))

    def reader(self, stage: str, cost: float) -> Callable[[int], None]:
        """To be told how many images of ``stage``, at ``cost`` each, have been done."""
        return lambda count: self.advance(stage, cost * count)

    def climbed(self, stage: str, step: int, resolution_A: float, log_likelihood: float) -> None:
        """Enter a step of the climb."""
        self.history.append(Stage(stage, step, resolution_A, log_likelihood, self.elapsed()))

    def steps_of(self, stage: str) -> int:
        """Steps of ``stage`` entered so far."""
        return sum(row.stage == stage for row in self.history)

    def lap(self, name: str) -> None:
        """The stage ``name`` has ended."""
        now = self.elapsed()
        self.laps[name] = now - self._last_lap
        self._last_lap = now

    def elapsed(self) -> float:
        """Seconds since the beginning, without those between an interruption and the next begin."""
        return time.monotonic() - self._begun

"""From coarse to fine: steps at a list of levels, each beginning where the one before it ended.

Frequency marching of an ab initio search, refinement of a given map and growing parts of a data set are all this: a
level is a resolution or a number of observations, a step takes the state at a level to a better one, and where the
level changes the state is prolongated to the finer one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from orbitrec.runtime.checkpoints import Record
from orbitrec.runtime.progress import RunState

V = TypeVar("V")  # what a level is known by, say its bandwidth
L = TypeVar("L")  # what is needed at a level
S = TypeVar("S")  # the state


class Records(Protocol[S]):
    """How a state becomes a record of a checkpoint, and back."""

    def record(self, state: S) -> Record:
        """Tensors, and what JSON knows, by name."""
        ...

    def restored(self, record: Record) -> S:
        """The state of a record."""
        ...


@dataclass(frozen=True)
class MultiResolution(Generic[V, L, S]):
    """A plan of steps at levels that never get coarser.

    Attributes:
        name: of its records in a run's checkpoints.
        plan: the level of every step, and the step.
        level: what is needed at a level. It is made when it is reached and forgotten when it is left, since it may hold
            large matrices.
        prolong: takes a state from one level to the next finer one.
        records: how a state is kept.
    """

    name: str
    plan: Sequence[tuple[V, Callable[[L, S], S]]]
    level: Callable[[V], L]
    prolong: Callable[[L, L, S], S]
    records: Records[S]

    def run(self, state: S, run: RunState) -> tuple[L, S]:
        """All steps from a state at the first level, or those that the run's checkpoints do not have.

        Args:
            state: where to begin.
            run: keeps a record after every step. Going on from it gives the same result as never having stopped.

        Returns:
            The last level and the state at its end.

        Raises:
            ValueError: if there is no step.
        """
        if not self.plan:
            raise ValueError("a multi-resolution run needs at least one step")
        saved = run.load(self.name)
        done = 0 if saved is None else saved.pop("done")
        state = state if saved is None else self.records.restored(saved)
        present = self.plan[max(done - 1, 0)][0]
        level = self.level(present)
        for number, (wanted, step) in enumerate(self.plan[done:], start=done + 1):
            if wanted != present:
                finer = self.level(wanted)
                present, level, state = wanted, finer, self.prolong(level, finer, state)
            record = {"done": number, **self.records.record(step(level, state))}
            kept = run.save(self.name, record)
            state = self.records.restored({key: value for key, value in kept.items() if key != "done"})
        return level, state

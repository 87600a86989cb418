"""From coarse to fine: steps at a list of levels, each beginning where the one before it ended.

This is the form of frequency marching in an ab initio search and of the refinement of a given map. A level is a
resolution, a step takes the state at a level to a better one, and when the level changes the state is prolongated to
the finer one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from orbitrec.runtime.checkpoints import flattened, rebuilt
from orbitrec.runtime.progress import RunState

V = TypeVar("V")  # what a level is known by, say its bandwidth
L = TypeVar("L")  # what is needed at a level
S = TypeVar("S")  # the state, a dataclass or named tuple of tensors, numbers and such


@dataclass(frozen=True)
class MultiResolution(Generic[V, L, S]):
    """A plan of steps at levels that never get coarser.

    Attributes:
        name: of its record in a run's checkpoints.
        plan: the level of every step, and the step.
        level: makes what is needed at a level. That is kept only while the run is at the level, since it may hold large
            matrices.
        prolong: takes a state from one level to the next finer one.
    """

    name: str
    plan: Sequence[tuple[V, Callable[[L, S], S]]]
    level: Callable[[V], L]
    prolong: Callable[[L, L, S], S]

    def run(self, state: S, run: RunState) -> tuple[L, S]:
        """Make all steps of the plan that are not yet in the run's checkpoints.

        Args:
            state: where to begin, at the first level.
            run: keeps a record after every step. A run that goes on from a record has the same result as one that was
                not interrupted.

        Returns:
            The last level and the state at its end.

        Raises:
            ValueError: if there is no step.
        """
        if not self.plan:
            raise ValueError("a multi-resolution run needs at least one step")
        done, state = self._resumed(state, run)
        present = self.plan[max(done - 1, 0)][0]
        level = self.level(present)
        for number, (wanted, step) in enumerate(self.plan[done:], start=done + 1):
            if wanted != present:
                finer = self.level(wanted)
                present, level, state = wanted, finer, self.prolong(level, finer, state)
            state = step(level, state)
            tensors, numbers = flattened(state)
            # What comes back is laid out in memory as it will be read, so that going on from there gives the same sums.
            kept = run.save(self.name, {**tensors, "done": number, "numbers": numbers})
            state = _restored(state, kept)
        return level, state

    def _resumed(self, state: S, run: RunState) -> tuple[int, S]:
        """How many steps are done, and the state after them."""
        saved = run.load(self.name)
        return (0, state) if saved is None else (saved["done"], _restored(state, saved))


def _restored(like: S, record: Mapping[str, Any]) -> S:
    tensors = {name: value for name, value in record.items() if isinstance(value, Tensor)}
    return rebuilt(like, tensors, record["numbers"])

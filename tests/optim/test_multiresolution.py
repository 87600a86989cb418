"""Multi-resolution runs on a problem small enough to be written out: levels, prolongation, interruption anywhere."""

import weakref
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from orbitrec.optim.multiresolution import MultiResolution
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import RunState, Stage

SIZES = (2, 2, 4, 8, 8, 8)


class Mesh:
    """A level: so many points on [0, 1]."""

    def __init__(self, size: int) -> None:
        self.points = (torch.arange(size, dtype=torch.float64) + 0.5) / size


@dataclass(frozen=True)
class Values:
    """A state: values at the points; ``seen`` only after the first step, as poses are."""

    values: Tensor
    steps: int = 0
    seen: Tensor | None = None


class StoppedError(Exception):
    pass


@dataclass
class Watch:
    """What has happened, in order; ``stop`` interrupts the step of that number, before it ends."""

    run: RunState
    stop: int | None = None
    levels: list[int] = field(default_factory=list)
    changes: list[tuple[int, int]] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)
    alive: "weakref.WeakSet[Mesh]" = field(default_factory=weakref.WeakSet)
    most: int = 0

    def level(self, size: int) -> Mesh:
        self.levels.append(size)
        mesh = Mesh(size)
        self.alive.add(mesh)
        self.most = max(self.most, len(self.alive))
        return mesh

    def prolong(self, coarse: Mesh, fine: Mesh, state: Values) -> Values:
        self.changes.append((len(coarse.points), len(fine.points)))
        values = state.values.repeat_interleave(len(fine.points) // len(coarse.points))
        return replace(state, values=values)

    def halved(self, mesh: Mesh, state: Values) -> Values:
        """Half of the way to x², and some noise."""
        assert len(mesh.points) == len(state.values)
        self.steps.append((len(mesh.points), state.steps))
        noise = 0.1 * torch.randn(len(mesh.points), generator=self.run.generator, dtype=torch.float64)
        if self.stop == state.steps + 1:
            raise StoppedError
        values = (state.values + mesh.points.square()) / 2 + noise
        self.run.record(Stage.MARCHING, "", 1 / len(values), float(values.sum()))
        return Values(values, state.steps + 1, mesh.points.square())

    def method(self) -> MultiResolution:
        plan = [(size, self.halved) for size in SIZES]
        return MultiResolution("descent", plan, self.level, self.prolong)


def started(checkpoints: Checkpoints | None = None, stop: int | None = None) -> Watch:
    return Watch(RunState(torch.Generator().manual_seed(1), checkpoints=checkpoints or Checkpoints()), stop)


BEGIN = Values(torch.zeros(2, dtype=torch.float64))


def by_hand() -> Tensor:
    generator, values = torch.Generator().manual_seed(1), BEGIN.values
    for size in SIZES:
        values = values.repeat_interleave(size // len(values))
        points = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        noise = 0.1 * torch.randn(size, generator=generator, dtype=torch.float64)
        values = (values + points.square()) / 2 + noise
    return values


def test_steps_levels_and_prolongations_are_those_of_the_plan():
    watch = started()
    level, state = watch.method().run(BEGIN, watch.run)
    assert torch.equal(state.values, by_hand())
    assert watch.steps == [(size, number) for number, size in enumerate(SIZES)]
    # A level is made once, when it is reached; only where it changes is the state prolongated.
    assert watch.levels == [2, 4, 8]
    assert watch.changes == [(2, 4), (4, 8)]
    assert len(level.points) == 8
    assert watch.most == 2
    assert [row.step for row in watch.run.history] == [1, 2, 1, 1, 2, 3]


def test_a_level_is_forgotten_when_it_is_left():
    watch = started()
    level, _ = watch.method().run(BEGIN, watch.run)
    assert list(watch.alive) == [level]


@pytest.mark.parametrize("stop", range(1, len(SIZES) + 1))
def test_interrupted_in_any_step_it_goes_on_to_the_same_end(tmp_path, stop):
    whole = started()
    _, expected = whole.method().run(BEGIN, whole.run)
    kept = Checkpoints(tmp_path / "records")
    before = started(kept, stop)
    with pytest.raises(StoppedError):
        before.method().run(BEGIN, before.run)
    after = started(kept)
    if stop > 1:
        after.run.generator.manual_seed(99)  # what a record has counts, not what the run was begun with
    _, found = after.method().run(BEGIN, after.run)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.seen, expected.seen)
    assert found.steps == expected.steps
    # No step is made twice, and no level that is behind.
    assert [number for _, number in after.steps] == list(range(stop - 1, len(SIZES)))
    assert after.levels == list(dict.fromkeys(SIZES[max(stop - 2, 0) :]))
    assert [replace(row, seconds=0.0) for row in after.run.history] == [
        replace(row, seconds=0.0) for row in whole.run.history
    ]
    assert torch.equal(after.run.generator.get_state(), whole.run.generator.get_state())


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    kept = Checkpoints(tmp_path / "records")
    first, again = started(kept), started(kept)
    _, expected = first.method().run(BEGIN, first.run)
    level, found = again.method().run(BEGIN, again.run)
    assert again.steps == again.changes == []
    assert again.levels == [8]
    assert len(level.points) == 8
    assert torch.equal(found.values, expected.values)


def test_steps_of_several_kinds_may_follow_at_one_level():
    """As a search for poses and a solver's passes do."""
    watch = started()

    def doubled(mesh: Mesh, state: Values) -> Values:
        return replace(state, values=2 * state.values, steps=state.steps + 1)

    plan = [(2, watch.halved), (2, doubled), (4, doubled)]
    _, state = MultiResolution("descent", plan, watch.level, watch.prolong).run(BEGIN, watch.run)
    noise = 0.1 * torch.randn(2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 4 * (torch.tensor([0.25, 0.75], dtype=torch.float64).square() / 2 + noise)
    assert torch.equal(state.values, expected.repeat_interleave(2))
    assert watch.changes == [(2, 4)]


def test_a_plan_without_steps_is_refused():
    watch = started()
    with pytest.raises(ValueError, match="at least one step"):
        MultiResolution("descent", [], watch.level, watch.prolong).run(BEGIN, watch.run)

"""The state of a run: progress, history and timers, and all of them back from a record."""

import torch

from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import HistoryRow, RunState, Stage, Status


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_share_weighs_images_by_what_a_stage_costs():
    heard: list[Status] = []
    total = 10 * Stage.READING.cost + 10 * Stage.MARCHING.cost
    run = RunState(seeded(1), total, heard.append)
    count = run.counter(Stage.READING)
    count(4)
    count(6)
    run.advance(Stage.MARCHING, 5.0, "half 1")
    run.advance(Stage.MARCHING, 50)
    shares = [4 * Stage.READING.cost / total, 10 * Stage.READING.cost / total]
    shares += [shares[1] + 5 * Stage.MARCHING.cost / total, 1.0]  # more work than was planned is no more than all
    assert torch.allclose(torch.tensor([status.share for status in heard]), torch.tensor(shares))
    texts = ["reading particles", "reading particles", "frequency marching, half 1", "frequency marching"]
    assert [str(status) for status in heard] == texts


def test_every_alternative_counts_its_steps_at_every_resolution():
    run = RunState(seeded(1))
    for stage, alternative, resolution_A in (
        (Stage.STARTS, "1", 30.0), (Stage.STARTS, "1", 30.0), (Stage.STARTS, "2", 30.0), (Stage.SELECTION, "1", 20.0),
        (Stage.MARCHING, "", 20.0), (Stage.MARCHING, "", 15.0), (Stage.MARCHING, "", 15.0),
    ):  # fmt: skip
        run.record(stage, alternative, resolution_A, -1.5)
    assert [row.step for row in run.history] == [1, 2, 1, 1, 1, 1, 2]
    assert all(0 <= a.seconds <= b.seconds for a, b in zip(run.history, run.history[1:], strict=False))
    run.record(Stage.REFINEMENT, "half 1", 15.0, -1.0, 7.5)
    assert run.history[-1] == HistoryRow(Stage.REFINEMENT, "half 1", 1, 15.0, -1.0, 7.5)


def test_a_run_goes_on_from_a_record_as_if_it_had_not_stopped(tmp_path):
    """Random numbers, history, timers, share of the work and the clock are those of when the record was saved."""

    def drawn(run: RunState) -> dict[str, object]:
        return {"values": torch.randn(3, generator=run.generator), "name": "first"}

    kept, heard = Checkpoints(tmp_path / "records"), []
    before = RunState(seeded(1), 4 * Stage.READING.cost, checkpoints=kept)
    before.record(Stage.STARTS, "1", 30.0, -2.0)
    before.advance(Stage.READING, 1)
    before.timer("read")
    first = before.step("first", lambda: drawn(before))
    expected = torch.randn(3, generator=before.generator)
    assert list(before.timers) == ["read"]

    after = RunState(seeded(9), 4 * Stage.READING.cost, heard.append, kept)
    again = after.step("first", lambda: drawn(after))
    assert torch.equal(again["values"], first["values"])
    assert again["name"] == "first"
    assert set(again) == {"values", "name"}
    assert torch.equal(torch.randn(3, generator=after.generator), expected)
    assert after.history == before.history
    assert after.history[0].stage is Stage.STARTS
    assert after.timers == before.timers
    assert after.elapsed() >= before.timers["read"]
    after.advance(Stage.READING, 1)
    assert heard == [Status(Stage.READING, "", 0.5)]
    assert after.load("second") is None


def test_timers_are_of_one_part_each(monkeypatch):
    now = 100.0
    monkeypatch.setattr("orbitrec.runtime.progress.time.monotonic", lambda: now)
    run = RunState(seeded(1), _begun=now)
    for name, seconds in (("read", 2.0), ("centre", 0.5), ("starts", 4.0)):
        now += seconds
        run.timer(name)
    assert run.timers == {"read": 2.0, "centre": 0.5, "starts": 4.0}
    assert run.elapsed() == 6.5

"""Checkpoints: what is saved comes back bit by bit, and files of another kind are refused."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.tensors import write_tensors
from orbitrec.runtime.checkpoints import Checkpoints, flattened, read_checkpoint, rebuilt, write_checkpoint


class Costs(NamedTuple):
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Moments:
    first: Tensor
    count: float


class State(NamedTuple):
    w: Tensor
    costs: Costs
    moments: Moments | None
    label: str


def state(seed, *, moments=True):
    generator = torch.Generator().manual_seed(seed)
    values = Moments(torch.randn(2, 3, generator=generator, dtype=torch.complex64), float("inf"))
    return State(torch.randn(4, 5, generator=generator).T, Costs(seed, 0.1 * seed), values if moments else None, "a")


@pytest.mark.parametrize("like", [state(1), state(1, moments=False)], ids=["like", "like without moments"])
def test_a_state_comes_back_through_a_file(tmp_path, like):
    saved = state(7)
    tensors, numbers = flattened(saved)
    assert set(tensors) == {"w", "moments.first"}
    assert numbers == {"costs.epochs": 7, "costs.seconds": 0.1 * 7, "moments.count": float("inf"), "label": "a"}
    write_checkpoint(tmp_path / "state", {**tensors, "numbers": numbers})
    record = read_checkpoint(tmp_path / "state")
    found = rebuilt(like, record, record["numbers"])
    assert isinstance(found, State)
    assert (found.costs, found.label, found.moments.count) == (saved.costs, "a", float("inf"))
    assert torch.equal(found.w, saved.w)
    assert torch.equal(found.moments.first, saved.moments.first)


def test_a_state_without_its_nested_one_comes_back_without(tmp_path):
    tensors, numbers = flattened(state(3, moments=False))
    assert rebuilt(state(1), tensors, numbers).moments is None


def test_what_is_flattened_shares_no_memory():
    saved = state(2)
    tensors, _ = flattened(saved)
    before = saved.w.clone()
    tensors["w"].zero_()
    assert torch.equal(saved.w, before)


@pytest.mark.parametrize("missing", ["w", "moments.first", "costs.epochs", "moments.count"])
def test_a_missing_value_is_an_error(missing):
    tensors, numbers = flattened(state(2))
    tensors.pop(missing, None)
    numbers.pop(missing, None)
    with pytest.raises(KeyError, match=missing):
        rebuilt(state(1), tensors, numbers)


def test_records_come_back_as_they_were_returned(tmp_path):
    checkpoints = Checkpoints(tmp_path / "records")
    assert checkpoints.load("a step") is None
    given = {"rows": torch.arange(6).reshape(2, 3).T, "note": "x", "scores": [1.5, None]}
    returned = checkpoints.save("a step", given)
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["a-step.safetensors"]
    for record in (returned, Checkpoints(tmp_path / "records").load("a step")):
        assert torch.equal(record.pop("rows"), given["rows"])
        assert record == {"note": "x", "scores": [1.5, None]}


def test_without_a_folder_records_are_returned_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints()
    assert checkpoints.save("step", {"a": torch.ones(2), "b": 1})["b"] == 1
    assert checkpoints.load("step") is None
    assert checkpoints.file("step") is None
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    write_checkpoint(path, {"a": torch.ones(2)}, kind="training checkpoint")
    with pytest.raises(InputError, match="holds no checkpoint; remove it"):
        read_checkpoint(path)
    write_tensors(path, "checkpoint", {}, {"facts": "{}"})
    with pytest.raises(InputError, match="of another version"):
        read_checkpoint(path)
    path.write_bytes(b"1234567890")
    with pytest.raises(InputError, match="whole safetensors file"):
        read_checkpoint(path)

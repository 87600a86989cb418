"""Shards do not depend on the number of processes, are added in order, and alone nothing is exchanged.

That two processes make the files of one is tested on the commands (``tests/cryoem/test_distributed.py``).
"""

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.runtime import distributed


@pytest.mark.parametrize(("count", "fewest", "sizes"), [(100, 25, [25] * 4), (20, 25, [20]), (1003, 25, [125] * 8)])
def test_shards_are_nearly_equal_runs_in_order(count, fewest, sizes):
    rows = torch.arange(count)
    found = distributed.shards(rows, fewest)
    assert torch.equal(torch.cat(found), rows)
    assert [len(part) for part in found] == pytest.approx(sizes, abs=1)
    chunks = rows.split(7)
    assert sum(map(len, distributed.shards(chunks))) == len(chunks)


def test_alone_sums_are_added_in_the_order_of_shards():
    """In single precision 10⁸ + 1 − 10⁸ is 0 and 10⁸ − 10⁸ + 1 is 1."""
    for order, total in (([1e8, 1.0, -1e8], 0.0), ([1e8, -1e8, 1.0], 1.0)):
        first, second = distributed.summed(order, lambda value: [torch.tensor(value), torch.full((2,), value).double()])
        assert float(first) == total
        assert second.tolist() == [1.0, 1.0]


def test_alone_nothing_is_split_or_exchanged():
    values = torch.tensor([1.0, -0.0])
    distributed.fill_in(values)
    assert values.tolist() == [1, 0]
    assert distributed.share(["a", "b", "c"]) == ["a", "b", "c"]
    assert (distributed.rank(), distributed.count(), distributed.from_first(lambda: 5)) == (0, 1, 5)


def test_more_processes_than_shards_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(distributed.SHARDS + 1))
    with pytest.raises(InputError, match=r"9 processes are more than the 8 .* start fewer"), distributed.joined():
        pass


def test_each_process_has_a_gpu_of_its_own_and_tensors_go_by_what_their_device_knows(monkeypatch):
    assert [distributed.own_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda:0", "cuda:1"]
    assert [distributed.backend(device) for device in ("cpu", "cuda:1")] == ["gloo", "cpu:gloo,cuda:nccl"]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [distributed.own_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda:3", "cuda:1"]

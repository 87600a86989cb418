"""Any number of processes makes the same files, bit by bit; only the first writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orbitrec.cli import main
from orbitrec.errors import InputError
from orbitrec.inference.likelihood import Statistics, summed_statistics
from orbitrec.runtime import distributed

PROGRAM = """
import sys
from orbitrec.cli.main import run
from orbitrec.cryoem import config, reconstruct

short = config.Schedule(
    start_bandwidth=6.0, start_steps=4, settle_steps=1, settle_batch=60, select_bandwidth=8.0,
    select_steps=2, march=(8.0,), passes=1,  # 60 images are one part, which leaves one process without
)
config.Schedule = lambda: short
reconstruct.PIXELS_AT_ONCE = 100 * 24**2  # so that there is something to share
run(sys.argv[1:])
"""
OPTIONS = {
    "abinitio": ["--matched", "1", "--starts", "1", "--diameter", "50"],
    "refine": ["--init", "truth.mrc", "--passes", "2", "--resolution", "20", "--diameter", "50"],
}


@pytest.mark.parametrize(("count", "fewest", "sizes"), [(100, 25, [25] * 4), (20, 25, [20]), (1003, 25, [125] * 8)])
def test_shards_are_nearly_equal_runs_in_order(count, fewest, sizes):
    rows = torch.arange(count)
    found = distributed.shards(rows, fewest)
    assert torch.equal(torch.cat(found), rows)
    assert [len(part) for part in found] == pytest.approx(sizes, abs=1)
    assert sum(
        map(
            len,
            distributed.shards(rows.split(7)),
        )
    ) == len(rows.split(7))


def test_alone_sums_are_added_in_the_order_of_shards():
    """In single precision 10⁸ + 1 − 10⁸ is 0 and 10⁸ − 10⁸ + 1 is 1."""
    for order, total in (([1e8, 1.0, -1e8], 0.0), ([1e8, -1e8, 1.0], 1.0)):
        first, second = distributed.summed(order, lambda value: [torch.tensor(value), torch.full((2,), value).double()])
        assert float(first) == total
        assert second.tolist() == [1.0, 1.0]
    one = Statistics(torch.ones(1, 2, 3) * 1j, torch.ones(1, 3), torch.ones(1, 4), 5.0, 6.0)
    whole = summed_statistics([1.0, 2.0], one.scaled)
    assert all(torch.equal(*map(torch.as_tensor, pair)) for pair in
               zip(vars(whole).values(), vars(one.scaled(3.0)).values(), strict=True))  # fmt: skip


def test_alone_nothing_is_split_or_told():
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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed") / "data"
    options = ["--phantom", "40", "--box", "24", "--pixel-size", "4", "--views", "uniform", "--snr", "2"]
    with pytest.raises(SystemExit):
        main.run(["simulate", "cryoem", *options, "--shift-px", "1", "-n", "1100", "-o", str(folder)])
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    """All maps and star files, these without the time that is written into them."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.mrc")}
    for path in folder.glob("*.star"):
        found[path.name] = b"".join(row for row in path.read_bytes().splitlines(True) if not row.startswith(b"# Cr"))
    return found


@pytest.mark.parametrize(
    ("command", "device"),
    [
        ("abinitio", "cpu"),
        ("refine", "cpu"),
        pytest.param("abinitio", "cuda", marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs")),
    ],
)
def test_two_processes_make_the_files_of_one(command, device, data, tmp_path):
    (tmp_path / "short.py").write_text(PROGRAM)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    files = []
    usual = [] if device == "cpu" else ["--device", device]  # the CPU needs no saying
    for name, starter, where in (("one", [sys.executable], usual), ("two", launch, ["--device", device])):
        arguments = [*starter, tmp_path / "short.py", command, "particles.star", "-o", tmp_path / name]
        done = subprocess.run(
            [*arguments, *OPTIONS[command], *where], cwd=data, env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("look at") == 1
        files.append(_files(tmp_path / name))
    one, two = files
    assert len(one) == 6
    assert [name for name in one if one[name] != two.get(name)] == []

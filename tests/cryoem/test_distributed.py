"""Any number of processes makes the same files, bit by bit; only the first writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orbitrec.cli import main

PROGRAM = """
import sys
from orbitrec.cli.main import run
from orbitrec.cryoem import config, reconstruct

short = config.Schedule(
    start_bandwidth=6.0, start_steps=4, settle_steps=1, settle_batch=60, select_bandwidth=8.0,
    select_steps=2, bandwidths=(8.0,), passes=1,  # 60 images are one part, which leaves one process without
)
config.Schedule = lambda: short
reconstruct.PIXELS_AT_ONCE = 100 * 24**2  # so that there is something to share
run(sys.argv[1:])
"""
OPTIONS = {
    "abinitio": ["--matched", "1", "--starts", "1", "--diameter", "50"],
    "refine": ["--init", "truth.mrc", "--passes", "2", "--resolution", "20", "--diameter", "50"],
}


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

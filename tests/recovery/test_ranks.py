"""Two processes and one: the same result up to rounding; only the first writes."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from orbitrec.cli import main
from orbitrec.io.mrc import read_map
from orbitrec.recovery.ranks import add_up, count, from_first, rank, share

SHORT = """
import sys
from orbitrec.cli.main import run
from orbitrec.recovery import abinitio

short = abinitio.Schedule(
    matched=1, starts=1, start_bandwidth=6.0, start_steps=4, settle_steps=1, settle_batch=100, select_bandwidth=8.0,
    select_steps=2, march=(8.0,), sweeps=1,
)
abinitio.Schedule = lambda: short
run(sys.argv[1:])
"""


def test_alone_nothing_is_split_or_added():
    values = torch.ones(3)
    add_up(values)
    assert values.tolist() == [1, 1, 1]
    assert share(["a", "b", "c"]) == ["a", "b", "c"]
    assert (rank(), count(), from_first(lambda: 5)) == (0, 1, 5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "data"
    options = ["--phantom", "40", "--box", "24", "--pixel-size", "4", "--views", "uniform", "--snr", "2"]
    with pytest.raises(SystemExit):
        main.run(["simulate", "cryoem", *options, "--shift-px", "1", "-n", "120", "-o", str(folder)])
    return folder


def test_two_processes_make_the_map_of_one(data, tmp_path):
    """Log-likelihoods agree to single precision from the first step on; the climb amplifies rounding, here to 1e-4."""
    (tmp_path / "short.py").write_text(SHORT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    histories, maps = [], []
    for name, starter in (("one", [sys.executable]), ("two", launch)):
        command = [*starter, tmp_path / "short.py", "abinitio", data / "particles.star", "-o", tmp_path / name]
        options = ["--matched", "1", "--starts", "1", "--diameter", "50"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("look at") == 1
        histories.append(pd.read_csv(tmp_path / name / "history.csv"))
        maps.append(read_map(tmp_path / name / "initial_model.mrc")[0].flatten())
    one, two = (history["log_likelihood"].to_numpy() for history in histories)
    begun = histories[0]["stage"].str.startswith("start").to_numpy()
    assert begun.any()
    assert one[begun] == pytest.approx(two[begun], rel=1e-5)
    assert one == pytest.approx(two, rel=1e-3)
    assert float(torch.corrcoef(torch.stack(maps))[0, 1]) > 0.95

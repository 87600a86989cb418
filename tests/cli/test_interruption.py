"""Runs that are killed, stopped or out of disk: what they leave, and that they go on to the result they would have had.

The command runs in a process of its own, with a schedule so short that a run takes seconds.
"""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orbitrec.cli import main

PROGRAM = """
import sys
from orbitrec.cli.main import run
from orbitrec.cryoem import config

short = config.Schedule(
    start_bandwidth=6.0, start_steps=10, settle_steps=2, settle_batch=200, select_bandwidth=8.0,
    select_steps=4, bandwidths=(8.0, 12.0), passes=1,
)
config.Schedule = lambda: short
run(sys.argv[1:])
"""
MAPS = ["half1.mrc", "half2.mrc"]


def _arguments(command: str, data: Path, folder: Path) -> list[str]:
    options = {
        "abinitio": ["--matched", "1", "--starts", "1", "--diameter", "50"],
        "refine": ["--init", str(data / "truth.mrc"), "--passes", "2", "--resolution", "20"],
    }
    return [command, str(data / "particles.star"), "-o", str(folder), *options[command]]


def _begun(arguments: list[str], limit: int | None = None) -> subprocess.Popen[str]:
    """The command in its own process, able to write files of ``limit`` bytes."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, text=True, preexec_fn=limited,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def _finished(arguments: list[str]) -> None:
    process = _begun(arguments)
    _, said = process.communicate()
    assert process.returncode == 0, said


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.01)


def _records(folder: Path) -> int:
    return len(list((folder / "checkpoint").glob("*.safetensors")))


def _hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if re.match(r"\.\d", path.name)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interruption") / "data"
    options = ["--phantom", "40", "--box", "24", "--pixel-size", "4", "--views", "uniform", "--snr", "2"]
    with pytest.raises(SystemExit):
        main.run(["simulate", "cryoem", *options, "--shift-px", "1", "-n", "200", "-o", str(folder)])
    return folder


def _maps(command: str, data: Path) -> dict[str, bytes]:
    """The half-maps of an uninterrupted run."""
    folder = data.parent / f"whole-{command}"
    _finished(_arguments(command, data, folder))
    assert not (folder / "checkpoint").exists()
    return {name: (folder / name).read_bytes() for name in MAPS}


def _stopped(arguments: list[str], folder: Path, how: signal.Signals) -> tuple[int, str]:
    """Status and words of a run that a signal meets at a random moment after it has recorded another step."""
    records, process = _records(folder), _begun(arguments)
    _wait_for(lambda: _records(folder) > records, process)
    time.sleep(random.Random(how).uniform(0, 0.3))
    process.send_signal(how)
    _, said = process.communicate()
    return process.returncode, said


def test_stopped_and_killed_runs_resume_to_the_same_maps(data, tmp_path, capsys):
    """SIGTERM ends in a sentence, status 143 and whole files; kill −9 may leave a hidden file, which is removed."""
    run = tmp_path / "run"
    arguments = _arguments("abinitio", data, run)
    status, said = _stopped(arguments, run, signal.SIGTERM)
    assert status == 143
    assert said == "orbitrec: stopped by SIGTERM; files written are whole, and --resume goes on from them\n"
    assert not _hidden(run)
    for extra, sentence in (
        (["--seed", "2", "--resume"], "begun with seed 1, not 2"),
        ([], "go on with it with --resume"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main.run([*arguments, *extra])
        assert sentence in capsys.readouterr().err.replace("\n", "")
    assert _stopped([*arguments, "--resume"], run, signal.SIGKILL)[0] == -signal.SIGKILL
    (run / ".123-half1.mrc").touch()
    _finished([*arguments, "--resume"])
    assert {name: (run / name).read_bytes() for name in MAPS} == _maps("abinitio", data)
    assert not (run / "checkpoint").exists()
    assert not _hidden(run)


def test_a_full_disk_leaves_whole_files_and_the_run_goes_on(data, tmp_path):
    """The system refuses files of more than 50 kB: a map is one such."""
    arguments = _arguments("refine", data, tmp_path / "run")
    process = _begun(arguments, limit=50_000)
    _, said = process.communicate()
    assert process.returncode == 2
    assert re.fullmatch(r"orbitrec: cannot write \S+/run/checkpoint/\S+: .*File too large.*; make room, .*\n", said)
    assert not _hidden(tmp_path / "run")
    assert _records(tmp_path / "run") > 0
    _finished([*arguments, "--resume"])
    assert {name: (tmp_path / "run" / name).read_bytes() for name in MAPS} == _maps("refine", data)


def test_a_finished_run_is_not_resumed_and_nothing_begins(data, tmp_path, capsys):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        main.run([*_arguments("abinitio", data, tmp_path), "--resume"])
    assert "there is nothing to resume" in capsys.readouterr().err.replace("\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]

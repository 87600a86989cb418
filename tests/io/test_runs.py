"""Run folders and atomic files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.io.files import replacing, write_csv, write_json
from orbitrec.io.runs import new_run


def test_a_run_keeps_its_files(tmp_path: Path) -> None:
    with new_run(tmp_path / "deep" / "run") as run:
        write_json(run.file("summary.json"), {"fsc": np.float32(0.5), "loss": float("nan"), "shape": torch.ones(2)})
        write_csv(run.file("history.csv"), [{"step": 0}, {"step": 1, "loss": 2.5}])
    assert json.loads((run.path / "summary.json").read_text()) == {"fsc": 0.5, "loss": None, "shape": [1.0, 1.0]}
    history = pd.read_csv(run.path / "history.csv")
    assert list(history.columns) == ["step", "loss"]
    assert history["loss"][1] == 2.5
    assert sorted(file.name for file in run.path.iterdir()) == ["history.csv", "summary.json"]


def _failing_run(folder: Path, error: BaseException) -> None:
    with new_run(folder) as run:
        write_json(run.file("summary.json"), {})
        raise error


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="constant"):
        _failing_run(tmp_path / "deep" / "run", InputError("row 3 is constant"))
    assert not list(tmp_path.iterdir())


def test_an_interrupt_keeps_what_there_is_and_removes_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _failing_run(tmp_path / "a", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), new_run(tmp_path / "b"):
        raise KeyboardInterrupt
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["a", "a/summary.json"]


def test_a_used_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("mine")
    with pytest.raises(InputError, match="already holds a run"), new_run(tmp_path):
        pass
    with pytest.raises(InputError, match="is a file"), new_run(tmp_path / "summary.json"):
        pass
    assert (tmp_path / "summary.json").read_text() == "mine"


def test_an_empty_folder_of_the_user_is_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad"), new_run(tmp_path):
        raise InputError("bad")
    assert tmp_path.is_dir()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "summary.json"
    target.write_text("old")

    def half_write() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]

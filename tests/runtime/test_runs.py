"""Folders of runs that can be resumed: what goes on, what begins anew, and what is refused."""

import json
from contextlib import suppress

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.runtime.runs import resumable_run
from orbitrec.runtime.threads import run_threaded

SETTINGS = {"seed": 1, "table": "p.star"}


class KilledError(BaseException):
    pass


def interrupted(path):
    """A run that is stopped after its first step."""
    with suppress(KilledError), resumable_run(path, SETTINGS, resume=False) as (_, checkpoints):
        checkpoints.save("first", {"a": torch.ones(2)})
        raise KilledError


def test_a_finished_run_keeps_its_outputs_and_no_checkpoints(tmp_path):
    with resumable_run(tmp_path / "run", SETTINGS, resume=False) as (run, checkpoints):
        checkpoints.save("first", {"a": torch.ones(2)})
        run.file("summary.json").write_text("{}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["summary.json"]
    with (
        pytest.raises(InputError, match="is finished; there is nothing to resume"),
        resumable_run(tmp_path / "run", SETTINGS, resume=True),
    ):
        pass


def test_an_interrupted_run_goes_on_from_its_records(tmp_path):
    interrupted(tmp_path / "run")
    stray = tmp_path / "run" / ".123-half1.mrc"
    stray.touch()
    with resumable_run(tmp_path / "run", SETTINGS, resume=True) as (_, checkpoints):
        assert torch.equal(checkpoints.load("first")["a"], torch.ones(2))
        assert not stray.exists()
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_other_settings_do_not_go_on(tmp_path):
    interrupted(tmp_path / "run")
    with (
        pytest.raises(InputError, match="was begun with seed 1, not 2; give the same"),
        resumable_run(tmp_path / "run", {**SETTINGS, "seed": 2}, resume=True),
    ):
        pass
    assert (tmp_path / "run" / "checkpoint" / "first.safetensors").exists()


def test_records_of_another_version_are_not_gone_on_with(tmp_path):
    interrupted(tmp_path / "run")
    settings = tmp_path / "run" / "checkpoint" / "settings.json"
    settings.write_text(json.dumps(SETTINGS))  # as orbitrec wrote it before records had a format
    with (
        pytest.raises(InputError, match=r"begun by another version of orbitrec.*; begin it anew in another folder"),
        resumable_run(tmp_path / "run", SETTINGS, resume=True),
    ):
        pass
    assert (tmp_path / "run" / "checkpoint" / "first.safetensors").exists()


def test_a_run_killed_before_it_had_begun_begins(tmp_path):
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint" / ".123-settings.json").touch()
    with resumable_run(tmp_path / "run", SETTINGS, resume=True) as (_, checkpoints):
        assert checkpoints.load("first") is None
    assert not any((tmp_path / "run").iterdir())


def test_a_folder_of_checkpoints_that_is_no_runs_is_left_alone(tmp_path):
    kept = tmp_path / "project" / "checkpoint" / "network.pt"
    kept.parent.mkdir(parents=True)
    kept.touch()
    with (
        pytest.raises(InputError, match="is not of a run that can go on; choose another folder"),
        resumable_run(tmp_path / "project", SETTINGS, resume=True),
    ):
        pass
    assert kept.exists()


def test_without_resume_an_interrupted_run_is_left_alone(tmp_path):
    interrupted(tmp_path / "run")
    with (
        pytest.raises(InputError, match="interrupted run; go on with it with `resume`"),
        resumable_run(tmp_path / "run", SETTINGS, resume=False),
    ):
        pass


def test_jobs_share_the_threads_and_come_back_in_order():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = run_threaded([lambda index=index: (index, torch.get_num_threads()) for index in range(5)])
        assert found == [(index, 1) for index in range(5)]
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            run_threaded([lambda: 1 // 0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

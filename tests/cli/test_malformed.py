"""Damaged files of every kind: one sentence and exit 2, or read as they are; no traceback, no half output, no hang.

A seeded part of what ``benchmarks/damaged_files.py`` tries.
"""

import random
import re
import shutil
from pathlib import Path

import pytest

import damage
from orbitrec.cryoem.config import FEWEST_PARTICLES


def test_damaged_files_are_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    good, folder = damage.write_whole(tmp_path / "whole"), tmp_path / "tried"
    folder.mkdir()
    damage.finished_run(folder)
    refused, told = 0, set()
    for case in damage.cases(good, 300, seed=20):
        answers, wrong = damage.tried(case, good, folder)
        assert wrong == []
        refused += any(answer.code for answer in answers)
        told |= {re.sub(r"/\S+|[\d.]+", "", answer.err)[:60] for answer in answers if answer.code}
    assert refused >= 150
    assert len(told) > 20  # damage of many kinds is told apart


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole files of as few particles as a run takes."""
    folder = tmp_path_factory.mktemp("whole")
    damage.write_whole(folder, FEWEST_PARTICLES)
    return folder


def test_truncated_files_of_a_run_are_refused(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "read"
    shutil.copytree(whole, folder)
    draw, refused, tried = random.Random(3), 0, 0
    with damage.short_runs():
        for name, command in damage.read_files(folder).items():
            for _ in range(2):
                answer, wrong = damage.truncation_tried(folder / name.split()[0], command, folder, draw)
                assert wrong is None
                shutil.rmtree(folder / "out", ignore_errors=True)
                refused, tried = refused + (answer.code == 2), tried + 1
    assert refused >= 0.9 * tried


def test_truncated_records_are_refused_at_once_and_nothing_is_lost(whole: Path, tmp_path: Path) -> None:
    folder, draw = tmp_path / "resumed", random.Random(4)
    shutil.copytree(whole, folder)
    command = damage.run_command(folder, "p.star")
    with damage.short_runs():
        damage.interrupted(folder, command)
        records = sorted((folder / "out" / "checkpoint").iterdir())
        assert len(records) > 5
        for path in records:
            for _ in range(2):
                answer, wrong = damage.truncation_tried(path, [*command, "--resume"], folder, draw)
                assert (answer.code, wrong) == (2, None)
        assert damage.said([*command, "--resume"], folder).code == 0
    assert (folder / "out" / "initial_model.mrc").is_file()

"""Half-sets that the input has already are kept: RELION's rlnRandomSubset, cryoSPARC's alignments3D/split."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from orbitrec.cli import main
from orbitrec.cryoem.preprocess import estimated_noise
from orbitrec.cryoem.reconstruct import half_map
from orbitrec.cryoem.result import half_sets
from orbitrec.io.cryosparc import CryosparcTable
from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import read_star, rewrite_columns

COUNT, N = 140, 24
UNEVEN = [1 if row % 7 in (0, 3, 4) else 2 for row in range(COUNT)]


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code if isinstance(exit_info.value.code, int) else 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves") / "data"
    options = ["--phantom", 40, "--box", N, "--pixel-size", 4, "--views", "uniform", "--snr", 2, "--shift-px", 1]
    assert _run("simulate", "cryoem", *options, "-n", COUNT, "-o", folder) == 0
    return folder


def _split(data: Path, name: str, halves: list[object]) -> Path:
    columns = {"rlnRandomSubset": [str(half) for half in halves]}
    rewrite_columns(data / "particles.star", data / name, "particles", columns)
    return data / name


def test_sets_of_both_programs_are_read(data, shared_data):
    alone = half_sets(ParticleStack.open(data / "particles.star"))
    assert alone.tolist() == [1, 2] * (COUNT // 2)
    assert half_sets(ParticleStack.open(_split(data, "uneven.star", [*UNEVEN]))).tolist() == UNEVEN
    path = shared_data / "particles" / "cryosparc_P12_J24_001_particles.cs"
    table = CryosparcTable(path, np.load(path))
    halves = table.halves()
    assert halves is not None
    np.testing.assert_array_equal(halves, table.records["alignments3D/split"] + 1)
    table.records["alignments3D/split"] = 0
    assert table.halves() is None


def test_refine_works_on_the_sets_that_are_given(data, capsys):
    """The first half-map is that of the first set's particles and of no others, at the poses that are written."""
    star, folder = _split(data, "given.star", [*UNEVEN]), data / "run"
    options = ["--resolution", 30, "--passes", 2, "-o", folder]
    assert _run("refine", star, "--init", data / "truth.mrc", *options) == 0
    assert "the input's own" in capsys.readouterr().out
    assert json.loads((folder / "summary.json").read_text())["half_sets_from"] == "the input's own"
    assert read_star(folder / "particles.star")["particles"]["rlnRandomSubset"].tolist() == UNEVEN
    stack, (first, _) = ParticleStack.open(folder / "particles.star"), read_map(folder / "half1.mrc")
    poses, halves = stack.poses(), torch.tensor(UNEVEN)
    assert poses is not None
    own, others = (
        half_map(stack, estimated_noise(stack), (halves == half).nonzero().flatten(), *poses) for half in (1, 2)
    )
    assert float((own - first).norm() / first.norm()) < 1e-3
    assert float((others - first).norm() / first.norm()) > 0.1


@pytest.mark.parametrize(
    ("halves", "said"),
    [
        ([1, 2] * 60 + [0] * 20, "row 121 is in half-set 0, neither 1 nor 2; correct it, or remove the column"),
        ([1.5] * COUNT, "row 1 is in half-set 1.5"),
        (["a"] * COUNT, "rlnRandomSubset of row 1 is a, not a number"),
        ([1] * (COUNT - 3) + [2] * 3, "leaves 3 of its 140 particles to half-set 2, too few for a map; remove"),
    ],
)
def test_sets_that_cannot_be_are_one_sentence_and_exit_2(halves, said, data, tmp_path, capsys):
    star = _split(data, "bad.star", halves)
    for command in (["abinitio", star], ["refine", star, "--init", data / "truth.mrc"]):
        assert _run(*command, "-o", tmp_path / "run") == 2
        printed = capsys.readouterr()
        assert said in printed.err
        assert len(printed.err.strip().splitlines()) == 1
        assert not (tmp_path / "run").exists()

"""Half-sets that the input has already are kept: RELION's rlnRandomSubset, cryoSPARC's alignments3D/split.

Copies of one image stay together in any case.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from orbitrec.cli import main
from orbitrec.cryoem.image_statistics import image_statistics
from orbitrec.cryoem.preprocess import estimated_noise
from orbitrec.cryoem.reconstruct import alternate_halves, half_map
from orbitrec.cryoem.result import half_sets, told_copies
from orbitrec.errors import InputError
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.geometry.rotations import random_rotations
from orbitrec.io.cryosparc.table import CryosparcTable
from orbitrec.io.mrc import StackWriter, read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import read_star, rewrite_loop, write_star

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
    rewrite_loop(data / "particles.star", data / name, "particles", columns)
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
    stack = image_statistics(stack).applied(stack)  # maps are in units of the noise
    own, others = (
        half_map(stack, estimated_noise(stack), (halves == half).nonzero().flatten(), *poses) for half in (1, 2)
    )
    assert float((own - first).norm() / first.norm()) < 1e-3
    assert float((others - first).norm() / first.norm()) > 0.1


@pytest.mark.parametrize(
    ("halves", "said"),
    [
        ([1, 2] * 60 + [0] * 20, "row 121 is in half-set 0, neither 1 nor 2; correct it, or remove the column"),
        ([1.5, 2] * (COUNT // 2), "row 1 is in half-set 1.5"),
        (["a"] * COUNT, "rlnRandomSubset of row 1 is a, not a number"),
        ([1] * (COUNT - 3) + [2] * 3, "leaves 3 of its 140 different images to half-set 2, too few for a map; remove"),
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


@pytest.mark.parametrize("value", [0, 1, 2])
def test_half_sets_of_one_value_are_no_split(data, value):
    """RELION writes such columns before it splits particles; a run then splits them itself."""
    stack = ParticleStack.open(_split(data, "one.star", [value] * COUNT))
    assert stack.table.halves() is None
    assert half_sets(stack).tolist() == [1, 2] * (COUNT // 2)


def _joined(data: Path, name: str, lines: Callable[[list[str]], list[str]]) -> Path:
    """The table with other rows in place of its own."""
    text = (data / "particles.star").read_text().splitlines()
    first = next(i for i, line in enumerate(text) if "@" in line)
    rows = [line for line in text[first:] if line.strip()]
    (data / name).write_text("\n".join([*text[:first], *lines(rows)]) + "\n")
    return data / name


def test_copies_of_an_image_are_in_one_half_set(data):
    """Symmetry expansion lists them together, joined tables apart and by another name of the same file."""
    expanded = ParticleStack.open(_joined(data, "expanded.star", lambda rows: [row for row in rows for _ in range(3)]))
    assert half_sets(expanded).tolist() == [1, 1, 1, 2, 2, 2] * (COUNT // 2)
    for link in (Path.symlink_to, Path.hardlink_to):
        (data / "link.mrcs").unlink(missing_ok=True)
        link(data / "link.mrcs", data / "particles.mrcs")
        lines = lambda rows: [*rows, *(row.replace("particles.m", "link.m") for row in rows[5:])]  # noqa: E731
        halves = half_sets(ParticleStack.open(_joined(data, "joined.star", lines)))
        assert halves.tolist() == [*[1, 2] * (COUNT // 2), *([1, 2] * COUNT)[5:COUNT]]
    assert told_copies(expanded, half_sets(expanded)) == [
        "280 of 420 rows repeat the image of another row; rows of one image are in one half-set."
    ]


def test_copies_follow_the_half_set_of_the_first(data):
    star = _joined(data, "doubled.star", lambda rows: rows + rows)
    given = [1, 2] * (COUNT // 2) + [1, 2] * (COUNT // 2 - 10) + [2, 1] * 10
    rewrite_loop(star, data / "split.star", "particles", {"rlnRandomSubset": [str(half) for half in given]})
    stack = ParticleStack.open(data / "split.star")
    halves = half_sets(stack)
    assert halves.tolist() == [1, 2] * COUNT
    assert told_copies(stack, halves) == [
        "140 of 280 rows repeat the image of another row; rows of one image are in one half-set, and 20 of them had to "
        "change theirs."
    ]


def test_half_maps_of_copied_noise_are_independent(tmp_path):
    """Pure noise in two rows each: half-maps do not correlate, though with copies in both halves they do fully."""
    generator = torch.Generator().manual_seed(1)
    with StackWriter(tmp_path / "p.mrcs", 150, N, 2.0) as stack:
        stack.write(torch.randn(150, N, N, generator=generator))
    names = [f"{i + 1}@p.mrcs" for i in range(150) for _ in range(2)]
    write_star(tmp_path / "p.star", {"": pd.DataFrame({"rlnImageName": names, "rlnImagePixelSize": 2.0})})
    particles = ParticleStack.open(tmp_path / "p.star", ctf=False)
    poses = random_rotations(150, generator).repeat_interleave(2, 0), torch.zeros(300, 2).double()
    noise = estimated_noise(particles)

    def correlation(halves: torch.Tensor) -> float:
        maps = [half_map(particles, noise, (halves == half).nonzero().flatten(), *poses) for half in (1, 2)]
        return float(fourier_shell_correlation(*maps).value[2:].abs().mean())

    assert correlation(half_sets(particles)) < 0.2
    assert correlation(alternate_halves(300)) > 0.99


def test_few_images_in_many_rows_are_refused(data):
    star = _joined(data, "few.star", lambda rows: rows[:15] * 16)
    with pytest.raises(InputError, match="lists 240 particles but only 15 different images, too few for a map"):
        half_sets(ParticleStack.open(star))


def test_a_run_says_that_rows_are_copies(data, tmp_path, capsys):
    star = _joined(data, "twice.star", lambda rows: rows + rows)
    options = ["--resolution", 30, "--passes", 2, "-o", tmp_path / "run"]
    assert _run("refine", star, "--init", data / "truth.mrc", *options) == 0
    assert "140 of 280 rows repeat the image of another row" in capsys.readouterr().out
    assert _run("info", star, "--json") == 0
    assert json.loads(capsys.readouterr().out)["different_images"] == COUNT

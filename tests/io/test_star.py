"""STAR files rewritten: every character stays but those of the columns that are set."""

import difflib
from pathlib import Path

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.rotations import random_rotations
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import read_star, rewrite_loop

STRANGE = """
# version 50001

data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
_myOwnColumn #3
1   1.500000   "two words"

data_notes

_note   'kept as it is'

# a comment
data_particles

loop_
_rlnImageName\t#1
_customLabel
_rlnAnglePsi #3
 1@a.mrcs\t007   12.500000

 "2@b c.mrcs"   1e-05 +3.0
# the end
data_after
_last 1
"""


def _write(folder: Path, text: str, newline: str = "\n") -> Path:
    path = folder / "in.star"
    path.write_bytes(text.replace("\n", newline).encode())
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_the_columns_set_are_touched(tmp_path: Path, newline: str) -> None:
    source = _write(tmp_path, STRANGE, newline)
    columns = {"rlnAnglePsi": ["1.0", "2.0"], "rlnNew": ["x y", "z"], "rlnImageName": ["1@/p/a.mrcs", "2@/p/b c.mrcs"]}
    rewrite_loop(source, tmp_path / "out.star", "particles", columns)
    expected = (
        STRANGE.replace("_rlnAnglePsi #3\n", "_rlnAnglePsi #3\n_rlnNew #4\n")
        .replace("1@a.mrcs\t007   12.500000", '1@/p/a.mrcs\t007   1.0 "x y"')
        .replace('"2@b c.mrcs"   1e-05 +3.0', '"2@/p/b c.mrcs"   1e-05 2.0 z')
    )
    found = (tmp_path / "out.star").read_bytes().decode()
    assert found.replace("\r\n", "\n") == expected
    assert (found.count("\r\n") >= STRANGE.count("\n")) == (newline == "\r\n")
    assert list(read_star(tmp_path / "out.star")["particles"]["rlnNew"]) == ["x y", "z"]


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "in.star"
    source.write_bytes(STRANGE.encode().replace(b"a comment", b"caf\xe9"))
    rewrite_loop(source, tmp_path / "out.star", "particles", {"rlnAnglePsi": ["1", "2"]})
    assert b"caf\xe9" in (tmp_path / "out.star").read_bytes()


@pytest.mark.parametrize("rows", [1, 3])
def test_a_file_that_changed_meanwhile_is_refused(tmp_path: Path, rows: int) -> None:
    source = _write(tmp_path, STRANGE)
    with pytest.raises(InputError):
        rewrite_loop(source, tmp_path / "out.star", "particles", {"rlnAnglePsi": ["1"] * rows})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.star"]


@pytest.mark.parametrize(("name", "added"), [("relion31", 0), ("empiar_10076_7", 5)])
def test_real_files_differ_in_poses_and_names_only(shared_data: Path, tmp_path: Path, name: str, added: int) -> None:
    stack = ParticleStack.open(shared_data / "particles" / f"{name}.star")
    count = len(stack)
    stack.write_posed(
        tmp_path / "posed.star", random_rotations(count, torch.Generator().manual_seed(0)), torch.zeros(count, 2)
    )
    old = (shared_data / "particles" / f"{name}.star").read_text().splitlines()
    new = (tmp_path / "posed.star").read_text().splitlines()
    differing = [line for line in difflib.ndiff(old, new) if line[0] in "+-"]
    assert len([line for line in differing if line.startswith("+ _rln")]) == added
    before, after = ([line[2:].split() for line in differing if line[0] == sign and "@" in line] for sign in "-+")
    assert len(before) == len(after) == count
    assert len(differing) == 2 * count + added
    columns = list(stack.table.particles)
    changed = {name for name, old_value, new_value in zip(columns, before[0], after[0]) if old_value != new_value}  # noqa: B905
    poses = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"}
    assert changed == ({"rlnImageName"} | poses if added == 0 else {"rlnImageName"})


def test_blocks_and_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two blocks named data_optics"):
        read_star(_write(tmp_path, STRANGE + STRANGE[STRANGE.index("data_optics") :]))
    with pytest.raises(InputError, match="two columns of one name"):
        read_star(_write(tmp_path, STRANGE.replace("_customLabel", "_rlnAnglePsi")))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_rows_that_stay_keep_every_character(tmp_path: Path, newline: str) -> None:
    source = _write(tmp_path, STRANGE, newline)
    rewrite_loop(source, tmp_path / "out.star", "particles", {}, [False, True])
    expected = STRANGE.replace(" 1@a.mrcs\t007   12.500000\n", "")
    assert (tmp_path / "out.star").read_bytes().decode() == expected.replace("\n", newline)
    rewrite_loop(source, tmp_path / "all.star", "particles", {}, [True, True])
    assert (tmp_path / "all.star").read_bytes() == source.read_bytes()

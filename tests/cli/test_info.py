"""``orbitrec info`` and the frame of the command line: what it prints, and how it refuses bad input."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from orbitrec.cli import main
from orbitrec.io.mrc import StackWriter
from orbitrec.io.star import read_star, write_star

STAR = """data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnImagePixelSize #5
1 300 2.7 0.1 1.5
2 300 2.7 0.1 1.5

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
1@a.mrcs 1 10000 9000 30
2@a.mrcs 1 10000 9000 30
1@b.mrcs 2 12000 9000 30
"""


def _stack(path: Path, count: int, n: int = 4) -> None:
    with StackWriter(path, count, n, 1.5) as stack:
        stack.write(torch.randn(count, n, n, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def star(tmp_path: Path) -> Path:
    """Three particles in two stacks and two optics groups."""
    _stack(tmp_path / "a.mrcs", 2)
    _stack(tmp_path / "b.mrcs", 1)
    path = tmp_path / "p.star"
    path.write_text(STAR)
    return path


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code if isinstance(exit_info.value.code, int) else 0


def test_says_what_particles_are(star: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("info", star, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    expected = {"kind": "particles", "particles": 3, "stacks": 2, "optics_groups": 2, "box_px": 4, "pixel_size_A": 1.5}
    expected |= {"ctf": True, "poses": False, "defocus_A": [9000, 12000], "voltage_kV": [300, 300]}
    assert facts | expected == facts
    assert _run("info", star) == 0
    assert "9000 – 12000" in capsys.readouterr().out


def test_brackets_of_a_name_are_printed(
    star: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be taken for colours."""
    monkeypatch.chdir(star.parent)
    star.rename("[red]p.star")
    assert _run("info", "[red]p.star") == 0
    assert "[red]p.star" in capsys.readouterr().out


def test_says_what_maps_and_stacks_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).normal(5, 2, (6, 6, 6)).astype(np.float32)
    for name, kind in (("map.mrc", "map"), ("stack.mrcs", "stack")):
        with mrcfile.new(tmp_path / name, data=values):
            pass
        assert _run("info", tmp_path / name, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["kind"], facts["mode"], facts["voxel_size_A"]) == (kind, 2, None)
        assert facts["mean"] == pytest.approx(values.mean(dtype=np.float64))
        assert facts["std"] == pytest.approx(values.std(dtype=np.float64))
        assert _run("info", tmp_path / name) == 0
        assert "float32" in capsys.readouterr().out


def test_real_files(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("info", shared_data / "particles" / "relion31.star", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["dialect"], facts["poses"], facts["cs_mm"]) == ("RELION 3.1 or later", True, [0.01, 0.01])
    assert _run("info", shared_data / "reference" / "rln_proj" / "rln_proj_65_centered.star", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ctf"] is False


def _replace(old: str, new: str) -> Callable[[Path], None]:
    def damage(star: Path) -> None:
        text = star.read_text()
        assert old in text
        star.write_text(text.replace(old, new))

    return damage


def _truncate(star: Path) -> None:
    stack = star.parent / "a.mrcs"
    stack.write_bytes(stack.read_bytes()[:-100])


def _empty(star: Path) -> None:
    blocks = read_star(star)
    blocks["particles"] = blocks["particles"].iloc[:0]
    write_star(star, blocks)


def _oblong(star: Path) -> None:
    (star.parent / "b.mrcs").unlink()
    with mrcfile.new(star.parent / "b.mrcs", data=np.ones((1, 4, 6), np.float32)):
        pass


BAD = {
    "no such file": (lambda star: star.unlink(), "no such file"),
    "truncated stack": (_truncate, "a.mrcs is truncated"),
    "short stack": (_replace("2@a.mrcs", "9@a.mrcs"), "row 2 asks for image 9 of"),
    "image zero": (
        _replace("2@a.mrcs", "0@a.mrcs"),
        "row 2 names image 0@a.mrcs, but RELION counts the images of a stack from 1",
    ),
    "oblong images": (_oblong, "6 × 4 pixels; they must be square"),
    "no pixel size": (_replace("_rlnImagePixelSize", "_rlnSomething"), "gives no pixel size"),
    "wild pixel size": (_replace("2 300 2.7 0.1 1.5", "2 300 2.7 0.1 15"), "images of 0 px are too small"),
    "pixel size 0": (
        _replace("2.7 0.1 1.5", "2.7 0.1 0"),
        "row 1 has a pixel size of 0 Å (rlnImagePixelSize), which cannot be",
    ),
    "empty table": (_empty, "lists no particles"),
    "no image names": (_replace("_rlnImageName", "_rlnOther"), "has no rlnImageName column"),
    "bad index": (_replace("2@a.mrcs", "-2@a.mrcs"), "rlnImageName of row 2 is -2@a.mrcs, not of the form"),
    "unknown optics group": (_replace("1@b.mrcs 2", "1@b.mrcs 7"), "row 3 is in optics group 7"),
    "not a number": (_replace("12000", "twelve"), "rlnDefocusU of row 3 is twelve, not a number"),
    "short row": (_replace("12000 9000 30", "12000 9000"), "has 5 columns but 4 values in line 22"),
    "long row": (
        _replace("12000 9000 30", "12000 9000 30 1 2"),
        "block data_particles has 5 columns but 7 values in line 22; correct it",
    ),
    "not a star file": (lambda star: star.write_text("hello\n"), "is not a STAR file"),
    "binary": (lambda star: star.write_bytes(bytes(range(256)) * 9), "STAR file"),
    "impossible voltage": (
        _replace("1 300", "1 0"),
        "rlnVoltage of row 1 is 0, which cannot be: it is from 20 to 1500 kV",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_2(star: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, message = BAD[name]
    damage(star)
    before = sorted(star.parent.iterdir())
    assert _run("info", star) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("orbitrec: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert sorted(star.parent.iterdir()) == before


def test_a_packed_table_is_called_no_map(star: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = star.with_suffix(".star.gz")
    packed.write_bytes(gzip.compress(star.read_bytes()))
    assert _run("info", packed) == 2
    assert capsys.readouterr().err == f"orbitrec: {packed} is compressed with gzip: unpack it first\n"


def test_a_table_whose_stacks_are_elsewhere_says_what_it_can(star: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("info", star, "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    (star.parent / "b.mrcs").unlink()
    assert _run("info", star, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert whole.pop("different_images") == 3
    assert facts == whole | {"box_px": None, "missing_stacks": ["b.mrcs"]}
    assert _run("info", star, "--images") == 2
    assert "the stack b.mrcs of row 3 is not found" in capsys.readouterr().err


def test_of_many_missing_stacks_some_are_printed_and_all_are_in_json(
    star: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"1@gone{index}.mrcs 1 10000 9000 30\n" for index in range(25))
    star.write_text(STAR + rows)
    assert _run("info", star, "--json") == 0
    assert json.loads(capsys.readouterr().out)["missing_stacks"] == [f"gone{index}.mrcs" for index in range(25)]
    assert _run("info", star) == 0
    printed = capsys.readouterr().out
    assert "gone9.mrcs" in printed
    assert "gone10.mrcs" not in printed
    assert "and 15 more" in re.sub(r"[\s│]+", " ", printed)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        main.run(["info", str(tmp_path / "a.star"), "--debug"])


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("bogus") == 2
    assert _run("info") == 2
    assert _run("info", "a.star", "--bogus") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_interrupt_exits_130(star: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orbitrec.io.mrc.existing_file", interrupt)
    assert _run("info", star) == 130


def test_help_names_an_example_and_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("info", "--help") == 0
    assert "orbitrec info particles.star" in capsys.readouterr().out
    assert _run("--version") == 0
    assert capsys.readouterr().out.startswith("orbitrec 0.")

"""Files that may not be read, and disks that fail: one sentence, exit 2, and nothing in the way of the next try."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from orbitrec import api
from orbitrec.cli import main
from orbitrec.io.mrc import StackWriter, read_header

STAR = """data_
loop_
_rlnImageName
_rlnDetectorPixelSize
_rlnMagnification
1@a.mrcs 3 10000
1@b.mrcs 3 10000
"""


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code if isinstance(exit_info.value.code, int) else 0


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Takes the permission to read a file away, from the superuser too, whom the mode of a file does not stop."""
    plain, forbidden = Path.open, set()

    def opened(path: Path, *arguments: object, **options: object) -> object:
        if path.name in forbidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path, *arguments, **options)

    def forbid(path: Path) -> None:
        path.chmod(0)
        forbidden.add(path.name)
        monkeypatch.setattr(Path, "open", opened)

    return forbid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A STAR file and a cryoSPARC job with its passthrough file, of two stacks."""
    for name in "ab":
        with StackWriter(tmp_path / f"{name}.mrcs", 1, 8, 3.0) as stack:
            stack.write(torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)))
    (tmp_path / "p.star").write_text(STAR)
    records = np.zeros(2, [("uid", "<u8"), ("blob/path", "S6"), ("blob/idx", "<u4"), ("blob/psize_A", "<f4")])
    records["uid"], records["blob/path"], records["blob/psize_A"] = [1, 2], [b"a.mrcs", b"b.mrcs"], 3.0
    for name, fields in (
        ("P1_J2_particles.cs", ["uid"]),
        ("P1_J2_passthrough_particles.cs", list(records.dtype.names)),
    ):
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.array(records[fields]))
    return tmp_path


@pytest.mark.parametrize(
    ("table", "forbidden"),
    [
        ("p.star", "p.star"),
        ("p.star", "b.mrcs"),
        ("P1_J2_particles.cs", "P1_J2_particles.cs"),
        ("P1_J2_particles.cs", "P1_J2_passthrough_particles.cs"),
        ("a.mrcs", "a.mrcs"),
    ],
)
def test_a_file_that_may_not_be_read(folder, table, forbidden, forbid, capsys):
    forbid(folder / forbidden)
    assert _run("abinitio", folder / table, "-o", folder / "run", "--no-ctf") == 2
    told = capsys.readouterr().err
    assert told == f"orbitrec: cannot read {folder / forbidden}: Permission denied; check its permissions, or copy it\n"
    assert not (folder / "run").exists()


def test_a_disk_that_fails_during_a_run(folder, monkeypatch, capsys):
    """What was computed is kept."""

    def compute(stack: object, *arguments: object) -> None:
        (folder / "b.mrcs").write_bytes((folder / "b.mrcs").read_bytes()[:-100])
        stack.images([1])

    monkeypatch.setattr(api, "initial_model", compute)
    arguments = ["abinitio", folder / "p.star", "-o", folder / "run", "--no-ctf"]
    assert _run(*arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"orbitrec: cannot read or write {folder / 'b.mrcs'}: it has become shorter than it was; ")
    assert told.endswith("goes on with --resume\n")
    with StackWriter(folder / "b.mrcs", 1, 8, 3.0) as stack:
        stack.write(torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)))
    seen = []
    monkeypatch.setattr(api, "initial_model", lambda stack, *arguments: seen.append(stack.images([1])) or 1 / 0)
    with pytest.raises(ZeroDivisionError):  # an error of the program is not dressed up
        main.run([str(argument) for argument in [*arguments, "--resume"]])
    assert len(seen) == 1


def test_an_unreadable_folder(tmp_path, monkeypatch, capsys):
    def refused(path: Path, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refused)  # what a folder without the right to enter it answers
    assert _run("info", tmp_path / "p.star") == 2
    assert f"cannot read {tmp_path / 'p.star'}: Permission denied" in capsys.readouterr().err


def test_sections_are_read_whole_or_not_at_all(folder):
    header = read_header(folder / "a.mrcs")
    header.path.write_bytes(header.path.read_bytes()[:-4])
    with header.path.open("rb", buffering=0) as file, pytest.raises(OSError, match="shorter than it was"):
        header.read_sections(file, 0, 1)

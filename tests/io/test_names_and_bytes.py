"""Names of stacks as people have them: suffixes, quotes, blanks, foreign bytes, and one name in two folders."""

import gzip
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import read_star, rewrite_loop, write_star
from orbitrec.io.tables import read_table

COUNT, BOX = 2, 6
NAMES = [
    "it's.mrcs", "'quoted'.mrcs", 'a "b" c.mrcs', "a@b.mrcs", "#1.mrcs", "a#b.mrcs", "my stack.mrcs", " x .mrcs",
    "[abc].mrcs", "a;b,c.mrcs", "data_1.mrcs", "_x.mrcs", "a:b.mrcs", "naïve.mrcs", "no\u00a0break.mrcs", "x=1%.mrcs",
    "*?.mrcs", "nan.mrcs", "a\\b.mrcs", "$HOME.mrcs",
]  # fmt: skip


def _images(seed: int) -> torch.Tensor:
    return torch.randn(COUNT, BOX, BOX, generator=torch.Generator().manual_seed(seed))


def _stack(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with StackWriter(path, COUNT, BOX, 1.5) as stack:
        stack.write(_images(seed))
    return path


def _table(path: Path, names: list[str]) -> Path:
    write_star(path, {"": pd.DataFrame({"rlnImageName": names, "rlnImagePixelSize": 1.5, "rlnCoordinateX": 7})})
    return path


def _posed(stack: ParticleStack, path: Path) -> ParticleStack:
    stack.write_posed(path, torch.eye(3).expand(len(stack), 3, 3), torch.zeros(len(stack), 2))
    return ParticleStack.open(path, ctf=False)


@pytest.mark.parametrize("name", NAMES)
def test_signs_in_a_path_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    """Of the stack and of its folder; and written so that they are read again."""
    for file in (tmp_path / name, tmp_path / "folder of" / name.removesuffix(".mrcs") / "p.mrcs"):
        star = _table(tmp_path / "p.star", [f"{i + 1}@{file.relative_to(tmp_path)}" for i in range(COUNT)])
        _stack(file)
        stack = ParticleStack.open(star, ctf=False)
        assert os.path.samefile(stack.stacks[0].path, file)
        again = _posed(stack, file.with_suffix(".star"))
        assert torch.equal(again.images(slice(None)), _images(0))
        assert list(again.table.blocks[""]["rlnCoordinateX"]) == [7, 7]


@pytest.mark.parametrize("line", ["1@it's.mrcs 5", '"1@it\'s.mrcs" 5', "'1@it's.mrcs' 5 # who's", "1@it's.mrcs\t5 #"])
def test_quotes_within_a_value_belong_to_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.star").write_text(f"data_\nloop_\n_rlnImageName\n_rlnClassNumber\n{line}\n2@b.mrcs 6\n")
    block = read_star(tmp_path / "p.star")[""]
    assert list(block["rlnImageName"]) == ["1@it's.mrcs", "2@b.mrcs"]
    assert list(block["rlnClassNumber"]) == [5, 6]
    rewrite_loop(tmp_path / "p.star", tmp_path / "q.star", "", {"rlnNew": ["8", "9"], "rlnClassNumber": ["0", "1"]})
    block = read_star(tmp_path / "q.star")[""]
    assert list(block["rlnImageName"]) == ["1@it's.mrcs", "2@b.mrcs"]
    assert block[["rlnClassNumber", "rlnNew"]].to_numpy().tolist() == [[0, 8], [1, 9]]


def test_a_row_may_begin_as_a_block_does(tmp_path: Path) -> None:
    """A micrograph in a folder named data_1."""
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnMicrographName\n_rlnImageName\ndata_1/m.mrc 1@a.mrcs\n")
    assert read_star(tmp_path / "p.star")[""].to_numpy().tolist() == [["data_1/m.mrc", "1@a.mrcs"]]


@pytest.mark.parametrize("suffix", [":mrcs", ":mrc", ""])
def test_the_formats_suffix_is_understood_and_kept(tmp_path: Path, suffix: str) -> None:
    """RELION needs it to see a stack in a file named .mrc."""
    _stack(tmp_path / "s" / "p.mrc")
    stack = ParticleStack.open(
        _table(tmp_path / "p.star", [f"000002@s/p.mrc{suffix}", f"1@s/p.mrc{suffix}"]), ctf=False
    )
    assert torch.equal(stack.images(slice(None)), _images(0).flip(0))
    (tmp_path / "run").mkdir()
    again = _posed(stack, tmp_path / "run" / "posed.star")
    assert torch.equal(again.images(slice(None)), _images(0).flip(0))
    assert list(again.table.blocks[""]["rlnImageName"]) == [
        f"00000{i}@{tmp_path / 's' / 'p.mrc'}{suffix}" for i in (2, 1)
    ]


def test_a_stack_of_another_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p\.hdf:hdf is no MRC stack; convert it"):
        ParticleStack.open(_table(tmp_path / "p.star", ["1@p.hdf:hdf"]), ctf=False)


def test_stacks_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    star = _table(tmp_path / "in" / "p.star", ["1@old/a/p.mrcs", "1@old/b/p.mrcs"])
    for seed, folder in enumerate("ab"):
        _stack(tmp_path / "moved" / folder / "p.mrcs", seed)
    images = ParticleStack.open(star, datadir=tmp_path / "moved", ctf=False).images([0, 1])
    assert torch.equal(images, torch.stack([_images(0)[0], _images(1)[0]]))


def test_stacks_of_one_name_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    _stack(tmp_path / "flat" / "p.mrcs")
    star = _table(tmp_path / "in" / "p.star", ["1@old/a/p.mrcs", "1@old/b/p.mrcs"])
    with pytest.raises(InputError, match=r"the stacks old/\w/p.mrcs and old/\w/p.mrcs would both be .*flat/p.mrcs"):
        ParticleStack.open(star, datadir=tmp_path / "flat", ctf=False)
    # Tables that were joined name one file with more and with fewer folders.
    star = _table(tmp_path / "in" / "p.star", ["1@/disk/old/a/p.mrcs", "1@a/p.mrcs", "2@./a/p.mrcs"])
    assert len(ParticleStack.open(star, datadir=tmp_path / "flat", ctf=False)) == 3


@pytest.mark.parametrize("names", [["p", "a/p", "b/p"], ["a/p", "b/p", "p"], ["a/p", "p"], ["p", "a/p"]])
def test_a_bare_name_does_not_stand_for_one_in_a_folder(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "in").mkdir()
    _stack(tmp_path / "flat" / "p.mrcs")
    star = _table(tmp_path / "in" / "p.star", [f"1@{name}.mrcs" for name in names])
    with pytest.raises(InputError, match="would both be"):
        ParticleStack.open(star, datadir=tmp_path / "flat", ctf=False)


LATIN = b"data_\r\nloop_\r\n_rlnImageName #1\r\n_rlnMicrographName #2\r\n_rlnImagePixelSize #3\r\n"
ROWS = b"1@p.mrcs caf\xe9.mrc 1.5\r\n2@p.mrcs caf\xc3\xa9.mrc 1.5 # \xff\r\n"


@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b"# \xe9\r\n"])
def test_foreign_bytes_are_read_and_written_back_unchanged(tmp_path: Path, begin: bytes) -> None:
    """A byte that is not UTF-8, and the mark that editors on Windows put before UTF-8."""
    _stack(tmp_path / "p.mrcs")
    (tmp_path / "p.star").write_bytes(begin + LATIN + ROWS)
    again = _posed(ParticleStack.open(tmp_path / "p.star", ctf=False), tmp_path / "q.star")
    assert again.poses() is not None
    written = (tmp_path / "q.star").read_bytes()
    assert written.startswith(begin + LATIN)
    assert b" caf\xe9.mrc 1.5 " in written
    assert b" caf\xc3\xa9.mrc 1.5 " in written
    assert written.endswith(b" # \xff\r\n")


def test_a_foreign_byte_in_a_number_is_told_of(tmp_path: Path) -> None:
    _stack(tmp_path / "p.mrcs")
    (tmp_path / "p.star").write_bytes(LATIN + ROWS.replace(b"mrc 1.5\r\n2", b"mrc 1.\xe95\r\n2"))
    with pytest.raises(InputError, match=r"rlnImagePixelSize of row 1 is 1\.\udce95, not a number"):
        ParticleStack.open(tmp_path / "p.star", ctf=False)


def test_a_stack_whose_name_is_not_utf8_is_found(tmp_path: Path) -> None:
    name = b"caf\xe9.mrcs"
    os.rename(_stack(tmp_path / "p.mrcs"), os.path.join(os.fsencode(tmp_path), name))
    (tmp_path / "p.star").write_bytes(b"data_\nloop_\n_rlnImageName\n_rlnImagePixelSize\n2@" + name + b" 1.5\n")
    again = _posed(ParticleStack.open(tmp_path / "p.star", ctf=False), tmp_path / "q.star")
    assert torch.equal(again.images([0]), _images(0)[1:])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.star.gz", gzip.compress(b"data_\n", mtime=0), "is not a STAR file but compressed with gzip: unpack it"),
        ("p.star", b"\xff\xfed\0a\0", "is not a STAR file but text in UTF-16: save it as UTF-8"),
        ("p.star", b"\x93NUMPY\1\0", "is not a STAR file but an array of numpy: a cryoSPARC table is one"),
        ("p.star", b"", "is not a STAR file: it is empty; copy it again"),
        ("p.cs", b"data_\nloop_\n", r"is not a cryoSPARC table \(.cs\) but a STAR file: its name must end in .star"),
        ("p.cs", b"\x80\x04\x95", "but a Python pickle, which is never read"),
        ("p.mrcs", b"data_\nloop_\n", "is not an MRC file but a STAR file"),
        ("p.mrcs", b"\x89HDF\r\n\x1a\n", "is not an MRC file but an HDF5 file: convert it"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_table(tmp_path / name)


def test_a_stray_row_is_named_with_its_line(tmp_path: Path) -> None:
    for stray, found in (("2@p.mrcs", "1 value "), ("2@p.mrcs 1.5 3", "3 values"), ("2@my p.mrcs 1.5", "3 values")):
        (tmp_path / "p.star").write_text(f"data_\nloop_\n_rlnImageName\n_rlnImagePixelSize\n1@p.mrcs 1.5\n\n{stray}\n")
        with pytest.raises(InputError, match=f"has 2 columns but {found}.*in line 7; correct it"):
            read_star(tmp_path / "p.star")


def test_capital_suffixes_are_no_other_format(tmp_path: Path) -> None:
    _stack(tmp_path / "P.MRCS")
    stack = ParticleStack.open(_table(tmp_path / "P.STAR", ["1@P.MRCS"]), ctf=False)
    assert torch.equal(stack.images([0]), _images(0)[:1])
    with StackWriter(tmp_path / "CUBE.MRCS", BOX, BOX, 1.5) as cube:
        cube.write(torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(3)))
    assert len(read_table(tmp_path / "CUBE.MRCS")) == BOX

"""Terminals that have no Å, and paths that are no ASCII or no text at all."""

import io
import json
import locale
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from orbitrec.cli import main
from orbitrec.io.files import printable, to_json, write_json
from orbitrec.io.mrc import StackWriter
from orbitrec.runtime.runs import resumable_run

NO_TEXT = os.fsdecode(b"caf\xe9.star")
"""A name that was written where the encoding was another."""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("command", ["info", "--help", "refine --help", "info nothing.mrc"])
def test_a_terminal_without_the_characters(tmp_path, monkeypatch, encoding, command):
    with StackWriter(tmp_path / "é.mrcs", 3, 8, 1.5) as stack:
        stack.write(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)))
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    with pytest.raises(SystemExit) as exit_info:
        main.run([command, str(tmp_path / "é.mrcs")] if command == "info" else command.split())
    printed = {}
    for name, stream in streams.items():
        stream.flush()
        printed[name] = stream.buffer.getvalue().decode(encoding)
    if command == "info nothing.mrc":
        assert exit_info.value.code == 2
        assert printed["stderr"] == "orbitrec: nothing.mrc: no such file\n"
        return
    assert (exit_info.value.code or 0, printed["stderr"]) == (0, "")
    expected = {"info": "8 ? 8" if encoding == "ascii" else "8 × 8", "--help": "abinitio", "refine --help": "--init"}
    assert expected[command] in printed["stdout"]


@pytest.fixture
def plain_locale() -> Iterator[None]:
    """Files are read as ASCII wherever no encoding is named."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.mark.parametrize("name", ["é.star", NO_TEXT])
def test_a_run_on_such_a_path_is_resumed(tmp_path, plain_locale, name):
    settings = {"particles": Path("data") / name}
    with pytest.raises(KeyboardInterrupt), resumable_run(tmp_path / "run", settings, resume=False):
        raise KeyboardInterrupt
    with resumable_run(tmp_path / "run", settings, resume=True) as (run, _):
        assert run.checkpoint.is_dir()


def test_json_holds_any_path(tmp_path):
    assert to_json({"é": "Å"}) == '{\n  "é": "Å"\n}'
    write_json(tmp_path / "any.json", {"é": NO_TEXT})
    assert json.loads((tmp_path / "any.json").read_text(encoding="utf-8")) == {"é": NO_TEXT}
    assert (printable(NO_TEXT), printable("é")) == ("caf?.star", "é")

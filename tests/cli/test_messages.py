"""Sentences of the library name parameters; the command line names its options."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from typer.main import get_command

import orbitrec
from orbitrec.cli.main import app
from orbitrec.cli.messages import OPTIONS, for_command_line

ROOMS = ["io", "report", "runtime"]


def _commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _commands(inner)


def _refusals(room: str) -> Iterator[str]:
    """Everything that an InputError of a room says, with ∗ for what is filled in."""
    for path in (Path(orbitrec.__file__).parent / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
                parts = [part for argument in node.args for part in ast.walk(argument)]
                yield "∗".join(str(part.value) for part in parts if isinstance(part, ast.Constant))


def test_every_option_exists():
    known = {
        name
        for command in _commands(get_command(app))
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    assert len(known) > 30
    assert {name for names in OPTIONS.values() for name in names.split(" or ")} <= known


@pytest.mark.parametrize("room", ROOMS)
def test_the_library_names_parameters_that_have_an_option(room):
    said = "\n".join(_refusals(room))
    assert said
    assert set(re.findall("`([^`]+)`", said)) <= set(OPTIONS)
    assert re.findall(r"(?<![-\w])--[a-z][a-z-]+", said) == []


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("give it in Å as `pixel_size_A`", "give it in Å as --pixel-size"),
        ("or `ctf=False`, `passthrough`", "or --no-ctf, --passthrough"),
        ("`some_name` and a lone ` stay", "`some_name` and a lone ` stay"),
    ],
)
def test_parameters_become_options(said, printed):
    assert for_command_line(said) == printed

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

ROOMS = [
    "api.py", "cryoem", "densities", "evaluation", "geometry", "inference", "io", "models", "moments", "mra",
    "networks", "optim", "report", "runtime", "thesis", "volumes",
]  # fmt: skip


def _commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _commands(inner)


def _sentences(room: str) -> Iterator[str]:
    """Every string of a room that is no docstring."""
    place = Path(orbitrec.__file__).parent / room
    for path in [place] if place.is_file() else place.rglob("*.py"):
        if path.name == "next_steps.py":  # commands of other programs
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        loose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in loose:
                yield node.value


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
    said = "\n".join(_sentences(room))
    assert said
    named = [name for name in re.findall("`([^`\n]+)`", said) if not name.startswith("orbitrec ")]
    assert set(named) <= set(OPTIONS)
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

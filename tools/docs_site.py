"""Pages of the documentation site that are made, not written: commands, API reference, outputs of tutorials, sizes.

mkdocs calls the functions that begin with ``on_`` by their names (``hooks`` in ``mkdocs.yml``). CONTRIBUTING.md becomes
a page too, and every page of ``docs/thesis`` gets into the menu.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.testing import CliRunner

from orbitrec.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks" / "panel")]  # mkdocs runs this file by its path

import api_reference  # noqa: E402
import confidence  # noqa: E402
import rates  # noqa: E402
import run_tutorials  # noqa: E402
import thesis_tables  # noqa: E402

COMMANDS = "commands.md"
CONTRIBUTING = "contributing.md"
SIZES = "<!-- rooms -->"
"""Stands in a page where the table that ``tools/house_report.py`` wrote is to be."""
PANEL = re.compile("<!-- panel (\\w+) -->")
"""Stands in a page where the success rates that ``benchmarks/panel`` wrote to a file of ``results`` are to be."""
CONFIDENCE = "<!-- confidence -->"
"""Stands in a page where the test that ``benchmarks/panel/confidence.py`` wrote is to be."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the made pages into the menu, and every page of ``docs/thesis``."""
    commands = [{" ".join(words): _page(words)} for words, _ in _commands()]
    rooms = [{f"orbitrec.{room}": api_reference.room_page(room)} for room in api_reference.rooms()]
    thesis = sorted(Path(config.docs_dir).glob("thesis/*.md"), key=lambda page: (page.name != "index.md", page.name))
    sections = {title: pages for entry in config.nav or [] if isinstance(entry, dict) for title, pages in entry.items()}
    sections["Reference"] += [
        {"Commands": [{"Overview": COMMANDS}, *commands]},
        {"Python": [{"Overview": api_reference.OVERVIEW}, *rooms]},
    ]
    sections["For developers"].append({"Contributing": CONTRIBUTING})
    placed = str(config.nav)
    sections["The thesis, reproduced"] += [
        f"thesis/{page.name}" for page in thesis if f"thesis/{page.name}" not in placed
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the pages."""
    for words, _ in _commands():
        files.append(File.generated(config, _page(words), content=_help_page(words)))
    files.append(File.generated(config, COMMANDS, content=_overview()))
    for address, text in api_reference.pages():
        files.append(File.generated(config, address, content=text))
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, CONTRIBUTING, content=contributing.replace("](docs/", "](")))
    return files


def _result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A tutorial with what its code printed below each block; the sizes of rooms and results where asked for."""
    address = Path(page.file.src_uri)
    if address.parent.name == "tutorials":
        return run_tutorials.with_outputs(markdown, address.stem)
    markdown = thesis_tables.with_tables(markdown, Path(config.docs_dir) / address.parent)
    markdown = PANEL.sub(lambda found: rates.as_markdown(_result(found[1])), markdown)
    if CONFIDENCE in markdown:
        markdown = markdown.replace(CONFIDENCE, confidence.as_markdown(_result("confidence")))
    by_rooms_of_now, _, _ = (ROOT / "docs" / "results" / "rooms.txt").read_text(encoding="utf-8").partition("By the")
    return markdown.replace(SIZES, by_rooms_of_now)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Short code stays on one line: a browser would break an option after its first hyphen."""
    return re.sub(r"(?<!<pre>)<code>(?=[^<\n]{1,28}</code>)", '<code class="short">', html)


def _commands() -> Iterator[tuple[list[str], object]]:
    """Every command that does something, as the words that call it; a group's own commands follow one another."""

    def below(words: list[str], command: object) -> Iterator[tuple[list[str], object]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield words, command
            return
        for name, child in children.items():
            yield from below([*words, name], child)

    return below([], typer.main.get_command(app))


def _page(words: list[str]) -> str:
    return f"commands/{'-'.join(words)}.md"


def _overview() -> str:
    rows = [
        f"| [`orbitrec {' '.join(words)}`]({_page(words)}) | {_first_sentence(command)} |"
        for words, command in _commands()
    ]
    return "# Commands\n\n| command | does |\n|---|---|\n" + "\n".join(rows) + "\n"


def _first_sentence(command: object) -> str:
    text = " ".join(inspect.cleandoc(getattr(command, "help", None) or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")


def _help_page(words: list[str]) -> str:
    shown = CliRunner(env={"COLUMNS": "124", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, [*words, "--help"])
    usage = re.sub(r"Usage: root ", "Usage: orbitrec ", shown.output).rstrip()
    lines = "\n".join(line.rstrip() for line in usage.strip("\n").splitlines())
    return f"# orbitrec {' '.join(words)}\n\n```text\n{lines}\n```\n"

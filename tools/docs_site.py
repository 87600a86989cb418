"""Pages of the documentation site that are made, not written: one for each command, and CONTRIBUTING.md.

mkdocs calls these functions by their names (``hooks`` in ``mkdocs.yml``).
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.testing import CliRunner

from orbitrec.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
OVERVIEW = "commands.md"
CONTRIBUTING = "contributing.md"
EXPERIMENTS = "experiments.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the made pages into the menu, and under “Method” every page that stands nowhere in it."""
    assert config.nav is not None
    placed = set(re.findall(r"[\w-]+\.md", str(config.nav)))
    method = next(entry for entry in config.nav if "Method" in entry)["Method"]
    method += sorted(page.name for page in Path(config.docs_dir).glob("*.md") if page.name not in placed)
    pages = [{" ".join(words): _page(words)} for words, _ in _commands()]
    developers = next(i for i, entry in enumerate(config.nav) if "For developers" in entry)
    config.nav.insert(developers, {"Commands": [{"Overview": OVERVIEW}, *pages]})
    config.nav[-1]["For developers"].append({"Contributing": CONTRIBUTING})
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Every experiment there is, below those that are shown with a picture."""
    if page.file.src_uri != EXPERIMENTS:
        return markdown
    rows = [
        f"| [`orbitrec {' '.join(words)}`]({_page(words)}) | {_first_sentence(command)} |"
        for words, command in _commands()
        if words[0] == "reproduce"
    ]
    return markdown + "\n## All of them\n\n| command | shows |\n|---|---|\n" + "\n".join(rows) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the pages."""
    rows = [
        f"| [`orbitrec {' '.join(words)}`]({_page(words)}) | {_first_sentence(command)} |"
        for words, command in _commands()
    ]
    overview = "# Commands\n\n| command | does |\n|---|---|\n" + "\n".join(rows) + "\n"
    files.append(File.generated(config, OVERVIEW, content=overview))
    for words, _ in _commands():
        files.append(File.generated(config, _page(words), content=_help_page(words)))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, CONTRIBUTING, content=re.sub(r"\]\(docs/", "](", text)))
    return files


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


def _first_sentence(command: object) -> str:
    text = " ".join(inspect.cleandoc(getattr(command, "help", None) or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")


def _help_page(words: list[str]) -> str:
    shown = CliRunner(env={"COLUMNS": "124", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, [*words, "--help"])
    usage = shown.output.replace("Usage: root ", "Usage: orbitrec ").rstrip()
    lines = "\n".join(line.rstrip() for line in usage.strip("\n").splitlines())
    return f"# orbitrec {' '.join(words)}\n\n```text\n{lines}\n```\n"

"""Modules, lines and words of every room, at a git revision and now, as Markdown tables.

    python tools/house_report.py REVISION

A room is a folder of ``src/orbitrec``; tests, benchmarks, tools and documents follow. Lines are those of Python files,
words those of docstrings and comments, or of Markdown pages. A module of before is counted in the room where git's
renames lead since then; the second table counts it where it was.
"""

import argparse
import ast
import io
import subprocess
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
COUNTED = ("src", "tests", "benchmarks", "tools", "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")


@dataclass
class Size:
    """How much there is in a room; ``folders``: modules by folder."""

    files: int = 0
    lines: int = 0
    words: int = 0
    folders: Counter[str] = field(default_factory=Counter)

    def add(self, path: str, text: str) -> None:
        """Count one file."""
        python = path.endswith(".py")
        self.files += 1
        self.lines += len(text.splitlines()) if python else 0
        self.words += len((_prose(text) if python else text).split())
        if PurePosixPath(path).name != "__init__.py":
            self.folders[str(PurePosixPath(path).parent)] += 1

    @property
    def fullest(self) -> int:
        """Modules in the room's fullest folder."""
        return max(self.folders.values(), default=0)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _prose(source: str) -> str:
    """Docstrings and comments of a module."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    said = [ast.get_docstring(node) or "" for node in nodes]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(said + [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT])


def _room(path: str) -> str:
    parts = PurePosixPath(path).parts
    if parts[0] == "src":
        return parts[2] if len(parts) > 3 else "orbitrec itself"
    return parts[0] + "/" if len(parts) > 1 else "pages beside docs/"


def _wanted(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if path.endswith((".py", ".md")) and path.split("/")[0] in COUNTED]


def _at(revision: str) -> dict[str, str]:
    """The text of every counted file at a revision."""
    paths = _wanted(_git("ls-tree", "-r", "--name-only", revision).splitlines())
    return {path: _git("show", f"{revision}:{path}") for path in paths}


def _now() -> dict[str, str]:
    """The text of every counted file in the work tree, those that git does not know yet included."""
    listed = _git("ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    paths = [path for path in _wanted(listed) if (ROOT / path).exists()]
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}


def _last_names(revision: str, paths: Iterable[str]) -> dict[str, str]:
    """The last name that each file had since a revision, as git's renames say."""
    names = {path: path for path in paths}
    log = _git("log", "--reverse", "--no-merges", "--topo-order", "--diff-filter=R", "-M", "--name-status", "--format=",
               f"{revision}..HEAD")  # fmt: skip
    for line in filter(None, log.splitlines()):
        _, old, new = line.split("\t")
        names.update({first: new for first, last in names.items() if last == old})
    return names


def _sizes(files: Mapping[str, str], room: Callable[[str], str]) -> dict[str, Size]:
    sizes: dict[str, Size] = defaultdict(Size)
    for path, text in files.items():
        sizes[room(path)].add(path, text)
        sizes["**src**" if path.startswith("src/") else "**the rest**"].add(path, text)
    return sizes


def _order(room: str) -> tuple[bool, bool, str]:
    outside = "/" in room or room == "**the rest**"
    return outside, room.startswith("**"), room


def _print(before: Mapping[str, Size], after: Mapping[str, Size]) -> None:
    print("| room | files | | lines | | words | | modules in the fullest folder | |\n|---|" + "--:|" * 8)
    print("| | before | now | before | now | before | now | before | now |")
    for room in sorted(before.keys() | after.keys(), key=_order):
        was, now = before.get(room, Size()), after.get(room, Size())
        pairs = [(was.files, now.files), (was.lines, now.lines), (was.words, now.words), (was.fullest, now.fullest)]
        print(f"| {room} | " + " | ".join(f"{number:,}" for pair in pairs for number in pair) + " |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="what to compare with, e.g. a tag")
    revision = parser.parse_args().revision
    old, new = _at(revision), _now()
    names = _last_names(revision, old)
    print(f"Since {revision}, by the rooms of now:\n")
    _print(_sizes(old, lambda path: _room(names[path])), _sizes(new, _room))
    print("\nBy the rooms as they were, and as they are:\n")
    _print(_sizes(old, _room), _sizes(new, _room))


if __name__ == "__main__":
    main()

"""Run the Python of the tutorials, and keep pictures and what is printed for the site.

``python tools/run_tutorials.py [NAMES]`` runs the pages that are named, or all of ``docs/tutorials``.
Blocks of a page run one after the other in one namespace and one empty folder. PNG files that they write go to
``docs/images/tutorials``; what each block prints goes to ``docs/tutorials/outputs``, from where the site shows it below
the block.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "tutorials"
OUTPUTS = PAGES / "outputs"
PICTURES = ROOT / "docs" / "images" / "tutorials"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def tutorials() -> list[Path]:
    """Every tutorial's page."""
    return sorted(PAGES.glob("*.md"))


def run(page: Path, folder: Path, smaller: Mapping[str, str] | None = None) -> list[str]:
    """What each block of a page prints.

    Args:
        page: a tutorial.
        folder: an empty folder, in which the blocks run.
        smaller: lines of the page and what to run in their place, for a quick test.

    Raises:
        ValueError: if a line to replace is not in the page.
    """
    text = page.read_text(encoding="utf-8")
    for line, other in (smaller or {}).items():
        if line not in text:
            raise ValueError(f"{page.name} has no line “{line}”")
        text = text.replace(line, other)
    namespace: dict[str, object] = {"__name__": f"tutorial_{page.stem}"}
    printed = []
    with contextlib.chdir(folder):
        for block in BLOCK.findall(text):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block, page.name, "exec"), namespace)
            printed.append(out.getvalue())
    return printed


def with_outputs(markdown: str, name: str) -> str:
    """A page with what its blocks printed when it was last run below each of them."""
    file = OUTPUTS / f"{name}.json"
    if not file.exists():
        return markdown
    printed = iter(json.loads(file.read_text(encoding="utf-8")))

    def shown(match: re.Match[str]) -> str:
        out = next(printed, "")
        return match[0] + (f"\n\n```text\n{out.rstrip()}\n```\n" if out.strip() else "")

    return BLOCK.sub(shown, markdown)


def main() -> None:
    """Run the pages that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="names of pages without suffix")
    names = parser.parse_args().names
    os.environ.setdefault("MPLBACKEND", "agg")
    OUTPUTS.mkdir(exist_ok=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for page in tutorials():
        if names and page.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            printed = run(page, Path(folder))
            for picture in sorted(Path(folder).glob("*.png")):
                shutil.copy(picture, PICTURES / picture.name)
        text = json.dumps(printed, indent=1, ensure_ascii=False) + "\n"
        (OUTPUTS / f"{page.stem}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

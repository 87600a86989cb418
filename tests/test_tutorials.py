"""The tutorials run, on less data than their pages show, and write the pictures that their pages have."""

import json
import re
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

import orbitrec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import run_tutorials  # noqa: E402

SMALLER = {
    "moments": {"count = 1_000_000": "count = 20_000"},
    "map": {},
    "solver": {},
}
LANDED = hasattr(orbitrec, "abinitio")


def test_every_tutorial_is_tested():
    assert {page.stem for page in run_tutorials.tutorials()} == SMALLER.keys()


@pytest.mark.parametrize("name", SMALLER)
def test_tutorial_runs(name, tmp_path):
    if name != "moments" and not LANDED:
        pytest.skip("orbitrec.abinitio is not there yet")
    mpl.use("agg")
    page = run_tutorials.PAGES / f"{name}.md"
    printed = run_tutorials.run(page, tmp_path, SMALLER[name])
    assert any(printed)
    shown = re.findall(r"images/tutorials/([\w-]+\.png)", page.read_text(encoding="utf-8"))
    assert shown
    assert {file.name for file in tmp_path.glob("*.png")} == set(shown)


@pytest.mark.parametrize("name", SMALLER)
def test_what_is_shown_is_of_this_page(name):
    """Pictures and outputs are there, an output for each block: ``python tools/run_tutorials.py`` was run."""
    page = run_tutorials.PAGES / f"{name}.md"
    if name != "moments" and not LANDED:
        pytest.skip("orbitrec.abinitio is not there yet")
    text = page.read_text(encoding="utf-8")
    printed = json.loads((run_tutorials.OUTPUTS / f"{name}.json").read_text(encoding="utf-8"))
    assert len(printed) == len(run_tutorials.BLOCK.findall(text))
    assert run_tutorials.with_outputs(text, name).count("```text") == sum(bool(out.strip()) for out in printed)

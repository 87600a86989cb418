"""The tutorials run, on less data than their pages show, and write the pictures that their pages have."""

import json
import re
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import run_tutorials  # noqa: E402

SMALLER = {
    "moments": {"count = 1_000_000": "count = 20_000"},
    "map": {
        "count = 1500": "count = 300",
        "config = orbitrec.AbInitioConfig(diameter_A=90.0, matched=1, random=3)": """
from orbitrec.cryoem.config import Schedule
schedule = Schedule(start_bandwidth=8.0, start_steps=20, settle_steps=2, select_bandwidth=8.0, select_steps=5,
                    bandwidths=(8.0, 12.0), passes=1)
config = orbitrec.AbInitioConfig(diameter_A=90.0, matched=0, random=2, schedule=schedule)
""",
    },
    "solver": {},
}


def test_every_tutorial_is_tested():
    assert {page.stem for page in run_tutorials.tutorials()} == SMALLER.keys()


@pytest.mark.parametrize("name", SMALLER)
def test_tutorial_runs(name, tmp_path):
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
    text = page.read_text(encoding="utf-8")
    printed = json.loads((run_tutorials.OUTPUTS / f"{name}.json").read_text(encoding="utf-8"))
    assert len(printed) == len(run_tutorials.BLOCK.findall(text))
    assert run_tutorials.with_outputs(text, name).count("```text") == sum(bool(out.strip()) for out in printed)

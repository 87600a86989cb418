"""The summary: what is written is what is read, wrong facts are refused, and runs of orbitrec 0.1 are understood."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orbitrec.cli.main import app
from orbitrec.errors import InputError
from orbitrec.io.mrc import read_map, write_map
from orbitrec.report.history import read_history
from orbitrec.report.run_files import RunFiles
from orbitrec.report.summary import (
    FORMAT,
    Confidence,
    Contrast,
    Directions,
    HalfMaps,
    HalfSetKind,
    HalfSetOrigin,
    Handedness,
    StartSource,
    StartSummary,
    Summary,
    TruthComparison,
)
from orbitrec.runtime.progress import HistoryRow, Stage

FORMER = Path(__file__).parent / "version_0_1"
"""The folder of a run of orbitrec 0.1, with fewer steps, fewer particles and a coarser map than it had."""


@pytest.fixture
def summary():
    return Summary(
        orbitrec="0", input="p.star", particles=500, box_px=32, pixel_size_A=3.0, dialect="cryoSPARC",
        posed="particles.cs", ctf=False, checks=("one", "two"), seed=4, threads=2, device="cuda:0", diameter_A=60.0,
        search_resolution_A=12.0, half_maps=HalfMaps(HalfSetKind.INDEPENDENT, HalfSetOrigin.INPUT, 8.0, math.inf),
        directions=Directions(0.8, 0.01, 0.4, 7.0, math.inf), confidence=Confidence(0.7, 12.0, 0.1, 0.9),
        shift_spread_px=1.5, contrast=Contrast.DARK, contrast_of_images=Contrast.UNCLEAR,
        handedness=Handedness.MIRRORED, symmetry="D2", symmetry_score=0.9, symmetry_kept=0.98,
        starts=(StartSummary(StartSource.MOMNET, 3.0, 0.5, True), StartSummary(StartSource.RANDOM, 2.0, None, False)),
        truth=TruthComparison("truth.mrc", 9.0, math.inf, 0.8, True), seconds={"read": 1.0, "total": 2.0},
        peak_memory_GiB=0.5,
    )  # fmt: skip


def test_what_is_written_is_what_is_read(summary):
    text = summary.to_json()
    assert Summary.from_json(text) == summary
    without = replace(
        summary, truth=None, directions=None, confidence=None, symmetry_score=None, symmetry_kept=None, starts=(),
        checks=(),
    )  # fmt: skip
    assert Summary.from_json(without.to_json()) == without
    assert not {"truth", "scf_star", "probability_right"} & json.loads(without.to_json()).keys()


def test_scripts_find_the_numbers_where_they_were(summary):
    """Flat, by the keys of the version before."""
    data = json.loads(summary.to_json())
    expected = {
        "fsc05_A": 9.0, "fsc0143_A": None, "correlation": 0.8, "mirrored": True, "truth": "truth.mrc",
        "half_maps_fsc0143_A": 8.0, "half_maps_unmasked_fsc0143_A": None, "half_sets": "independent",
        "probability_right": 0.7, "particle_log_likelihood": 12.0, "correlation_beyond_search": 0.1,
        "starts_agreement": 0.9,
        "scf_star": 0.8, "unsampled": 0.01, "cfar": 0.4, "finest_direction_A": 7.0, "coarsest_direction_A": None,
        "diameter_A": 60.0, "search_resolution_A": 12.0, "seconds": {"read": 1.0, "total": 2.0},
        "peak_memory_GiB": 0.5, "particles": 500, "checks": ["one", "two"], "format": FORMAT,
    }  # fmt: skip
    assert {key: data[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("particles", 1.5, "particles is 1.5"),
        ("particles", True, "particles is True"),
        ("ctf", 1, "ctf is 1"),
        ("pixel_size_A", "3", "pixel_size_A is '3'"),
        ("pixel_size_A", None, "pixel_size_A is None"),
        ("contrast", "dark", "contrast is 'dark'"),
        ("checks", "one", "checks is 'one'"),
        ("checks", [1], r"checks\[0\] is 1"),
        ("starts", [{"source": "map", "log_likelihood": None, "agreement": None, "chosen": 1}], r"starts\[0\].chosen"),
        ("seconds", {"total": "x"}, "seconds.total is 'x'"),
        ("cfar", None, "directions.cfar is None"),
        ("half_maps_fsc0143_A", "x", "half_maps.fsc0143_A is 'x'"),
        ("format", FORMAT + 1, "does not know"),
    ],
)
def test_facts_of_another_type_are_refused(summary, tmp_path, key, value, said):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({**summary.to_dict(), "pixel_size_A": 3.0, key: value}))
    with pytest.raises(InputError, match=f"summary.json cannot be used: its .*{said}"):
        Summary.read(path)


@pytest.mark.parametrize("key", ["particles", "half_maps_fsc0143_A", "checks", "seconds"])
def test_missing_facts_are_named(summary, key):
    data = summary.to_dict()
    del data[key]
    with pytest.raises(InputError, match=f"it lacks {key}; run it again"):
        Summary.from_dict(data)


@pytest.mark.parametrize("text", ["", "[1]", "{", "{}", '{"format": 2}'])
def test_other_files_are_no_summaries(text):
    with pytest.raises(InputError, match="run it again"):
        Summary.from_json(text)


def test_a_run_of_the_version_before_is_read():
    run = RunFiles.read(FORMER)
    old = json.loads((FORMER / "summary.json").read_text())
    found = run.summary
    assert found.half_maps == HalfMaps(
        HalfSetKind.ONE_REFERENCE, HalfSetOrigin.EVERY_OTHER,
        old["half_maps_fsc0143_A"], old["half_maps_unmasked_fsc0143_A"],
    )  # fmt: skip
    assert found.truth == TruthComparison(
        "demo/data/truth.mrc", old["fsc05_A"], old["fsc0143_A"], old["correlation"], False
    )
    assert (found.handedness, found.contrast, found.checks) == (Handedness.AS_FOUND, Contrast.BRIGHT, ())
    assert [start.log_likelihood for start in found.starts] == old["start_log_likelihoods"]
    assert [start.source for start in found.starts] == [StartSource.MOMENTS] * 2 + [StartSource.RANDOM] * 6
    followed = {index: start.agreement for index, start in enumerate(found.starts, 1) if start.agreement is not None}
    assert {str(index): value for index, value in followed.items()} == old["start_agreements"]
    assert (found.chosen_start, found.total_seconds) == (1, old["seconds"]["total"])
    assert Summary.from_json(found.to_json()) == found


def test_a_history_of_the_version_before_is_read():
    rows = read_history(FORMER / "history.csv")
    assert [row.stage for row in rows[:: len(rows) - 1]] == [Stage.STARTS, Stage.MARCHING]
    assert {row.alternative for row in rows if row.stage is Stage.STARTS} == set("12345678")
    assert {row.alternative for row in rows if row.stage is Stage.SELECTION} == set("1568")
    assert {row.alternative for row in rows if row.stage is Stage.MARCHING} == {""}


def test_a_refinements_history_of_the_version_before_is_read(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("stage,step,resolution_A,log_likelihood,seconds\nrefine half 2 to bandwidth 19,3,20.5,88.25,7.5\n")
    assert read_history(path) == [HistoryRow(Stage.REFINEMENT, "half 2", 3, 20.5, 88.25, 7.5)]


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,2\n",
        "stage,step,resolution_A,log_likelihood,seconds\nstart 1,x,1,1,1\n",
        "stage,step,resolution_A,log_likelihood,seconds\nnone,1,1,1,1\n",
    ],
)
def test_other_tables_are_no_histories(tmp_path, content):
    (tmp_path / "history.csv").write_text(content)
    with pytest.raises(InputError, match=r"history\.csv is not the history of a run"):
        read_history(tmp_path / "history.csv")


def test_the_commands_read_a_run_of_the_version_before(tmp_path):
    """report makes its page anew; evaluate compares its map, with a rotated and shifted copy of itself."""
    run = tmp_path / "run"
    shutil.copytree(FORMER, run)
    made = CliRunner().invoke(app, ["report", str(run)])
    assert (made.exit_code, made.output.strip()) == (0, str(run / "report.html"))
    page = (run / "report.html").read_text()
    for words in ("Initial model of particles.star", "Quality checks passed", "1 – became the map", "9.6 Å"):
        assert words in page
    grid, voxel_A = read_map(run / "initial_model.mrc")
    write_map(tmp_path / "truth.mrc", grid.rot90(1, (1, 2)), voxel_A)
    judged = CliRunner().invoke(
        app, ["evaluate", str(run / "initial_model.mrc"), str(tmp_path / "truth.mrc"), "--json"]
    )
    assert judged.exit_code == 0
    assert json.loads(judged.output)["correlation"] > 0.95

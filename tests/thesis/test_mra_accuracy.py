"""The accuracy table: medians of what the methods return, and the files that the command writes."""

import json

import pytest
import torch
from typer.testing import CliRunner

from orbitrec.cli.main import app
from orbitrec.errors import InputError
from orbitrec.moments.losses import orbit_error
from orbitrec.mra.families import LENGTH, default_law
from orbitrec.mra.problem import MRAEstimate, MRAProblem
from orbitrec.thesis import mra_accuracy

SETTINGS = mra_accuracy.AccuracySettings(counts=(1000, 4000), sigmas=(0.5,), problems=3)


def guess(problem: MRAProblem, generator: torch.Generator) -> MRAEstimate:
    """The same answer always."""
    one = torch.ones(problem.model.n, dtype=torch.float64)
    return MRAEstimate(one, one / len(one), passes=2.0)


def test_rows_are_medians_over_fresh_problems():
    heard = []
    rows = mra_accuracy.table(SETTINGS, {"guess": guess}, heard.append).rows
    assert heard == list(rows)
    generator = torch.Generator().manual_seed(mra_accuracy._SEED)
    signals, _ = default_law(2).pairs(3, LENGTH, generator, torch.float32)
    expected = orbit_error(torch.ones(3, LENGTH).double(), signals.double()).median()
    assert [(row.count, row.signal_error) for row in rows] == [
        (n, pytest.approx(float(expected))) for n in (1000, 4000)
    ]
    assert all((row.passes, row.method) == (2.0, "guess") for row in rows)


def test_the_command_prints_and_writes_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(mra_accuracy, "QUICK", SETTINGS)
    monkeypatch.setattr(mra_accuracy, "METHODS", {"guess": guess, "other": guess})
    command = ["reproduce", "mra-accuracy", "--method", "guess", "-o", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["count"] for row in printed["rows"]] == [1000, 4000]
    assert (tmp_path / "out" / "table.csv").read_text().count("guess") == 2
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "guess" in CliRunner().invoke(app, [*command[:4], "-o", str(tmp_path / "text")]).stdout


def test_an_unknown_method_is_named():
    with pytest.raises(InputError, match=r"there is no `method` magic; choose from .*spectral, "):
        mra_accuracy.chosen(["magic"])
    assert mra_accuracy.chosen(None) is mra_accuracy.METHODS

"""Tables 3.1, 3.2 and Figure 3.7 at a tiny size: what they tell, draw, and go on from."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from orbitrec.cli.main import app
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.io.mrc import write_map
from orbitrec.io.runs import new_run
from orbitrec.networks.momnet import MomNetEstimate, MomNetSetting
from orbitrec.networks.pretrained import load_network, load_provenance
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.thesis import figure_3_7, table_3_1, table_3_2
from orbitrec.thesis.encoders import ReferenceMomNet
from orbitrec.thesis.records import Made
from orbitrec.thesis.results import read_result
from orbitrec.volumes.phantoms import protein_phantom

MADE = Made("a command", "a commit", "a device", "a note")
TINY = table_3_2.ShiftTableSize(
    bandwidth=table_3_2.QUICK.bandwidth, view_degree=9, iterations=6, refining=1, count=10_000, as_seen=True
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("map") / "emd_0409.mrc"
    volume = protein_phantom(20, 7.0, torch.Generator().manual_seed(1))
    write_map(found, volume.to_grid(32).float(), 4.0)
    return found


def test_table_3_1_has_families_and_maps_and_draws_the_first_problem_of_each(path, tmp_path):
    heard: list[int] = []
    tested = table_3_1.families(10, heard.append)
    cases = table_3_1.maps([path], 1, 3)
    assert heard == [10, 10]
    assert [row.samples for row in tested] == [10, 10]
    row = cases[0].row
    assert (row.map, row.problem) == ("emd_0409", 0)
    assert row.matched_kam_loss < row.kam_loss < 2
    assert row.fsc05_A > 8
    result = table_3_1.TrainedMomNetTable.of(tested, cases)
    with new_run(tmp_path / "run") as run:
        result.write(run, MADE, [asdict(case.row) for case in cases])
        table_3_1.draw(run, cases)
    files = {file.name for file in (tmp_path / "run").iterdir()}
    assert files == {"table.json", "table.csv", "volumes-emd_0409.png", "views-emd_0409.png"}
    assert json.loads((tmp_path / "run" / "table.json").read_text())["rows"][0]["map"] == "emd_0409"
    assert read_result(tmp_path / "run" / "table.json") == (result, MADE)
    families, maps = result.tables()
    assert (len(families.rows), len(maps.rows)) == (3, 2)
    assert maps.rows[0][0] == "emd_0409, reported"


@pytest.mark.parametrize("mirror", [(1, 1, 1), (-1, -1, -1), (1, 1, -1), (-1, 1, 1), (-1, -1, 1)])
def test_views_rotate_with_the_volume_of_either_handedness(mirror):
    """A reflected volume with the views it must have for the same moments: aligned, they are the first one's views."""
    moved, volume = torch.tensor(mirror).double(), protein_phantom(12, 6.0, torch.Generator().manual_seed(3))
    truth = volume.to_grid(24)
    reflected = replace(volume, centers=volume.centers * moved).to_grid(24)
    directions = spherical_design(7)
    turn = moved * moved.prod()  # the reflection, or what it is beside one in the origin, which leaves views alone
    found = align(reflected, truth).rotated(directions * turn)
    torch.testing.assert_close(found, directions, atol=0.01, rtol=0)


def test_a_true_estimate_has_the_band_s_resolution_and_its_own_views(path):
    truth, voxel_A = table_3_1.compact_map(path)
    setting, n = MomNetSetting(), len(truth)
    radius = table_3_1.RADIUS_SHARE * n
    axis = torch.arange(n, dtype=torch.float64) - n // 2
    points = torch.cartesian_prod(axis, axis, axis).flip(-1)
    inside = points.norm(dim=1) < radius
    basis = replace(setting.basis, radius=radius, k_max=setting.bandwidth / radius)
    w = truth.flatten()[inside] @ basis.values(points[inside])
    density = torch.randn(1, (setting.density_degree + 1) ** 2 - 1, generator=torch.Generator().manual_seed(1)) / 4
    estimate = MomNetEstimate(w[None] * math.sqrt(radius / setting.radius), density.double(), torch.zeros(1).double())
    found = table_3_1.aligned(setting, estimate, truth, voxel_A)
    assert found.fsc05_A < 2 * n * voxel_A / 15
    expected = estimate.density(setting.harmonics(found.views[0]))[0]
    assert torch.corrcoef(torch.stack([found.views[1], expected]))[0, 1] > 0.99


def test_table_3_2_goes_on_where_it_was_and_draws_each_spread(path, tmp_path, monkeypatch):
    monkeypatch.setattr(table_3_2, "REPORTED", {2.0: table_3_2.REPORTED[2.0]})
    kept = Checkpoints(tmp_path / "kept")

    def interrupt(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table_3_2.table(path, TINY, interrupt, kept)
    heard: list[table_3_2.ShiftRow] = []
    found = table_3_2.table(path, TINY, heard.append, kept)
    rows = [case.row for case in found.cases]
    assert rows == heard
    assert [row.method for row in rows] == ["MoM-net", "chapter 2"]
    monkeypatch.setattr(table_3_2, "_case", None)  # all that is left is read
    again = table_3_2.table(path, TINY, checkpoints=kept)
    assert [case.row for case in again.cases] == rows
    assert torch.equal(again.cases[0].volume, found.cases[0].volume)
    known, ignorant = rows
    assert known.shift_estimate_px > 0 == ignorant.shift_estimate_px
    assert known.kam_loss < known.start_kam_loss
    with new_run(tmp_path / "run") as run:
        result = table_3_2.ShiftTable.of(found, TINY)
        result.write(run, MADE, [asdict(row) for row in rows])
        table_3_2.draw(run, found)
    files = {file.name for file in (tmp_path / "run").iterdir()}
    assert files == {"table.json", "table.csv", "volumes-2-px.png", "views-2-px.png"}
    assert read_result(tmp_path / "run" / "table.json") == (result, MADE)
    assert [cells[2] for cells in result.tables()[0].rows] == ["0.0080", "0.0140"]


def test_table_3_2_takes_the_steps_of_fouriernet_that_are_given(path, monkeypatch):
    monkeypatch.setattr(table_3_2, "REPORTED", {})
    command = ["reproduce", "table-3.2", "--map", str(path), "--json"]
    for options, steps in (
        ([], 10),
        (["--scale", "full"], 300),
        (["--scale", "full", "--refining", "4"], 4),
    ):
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["size"]["refining"] == steps
    assert CliRunner().invoke(app, [*command, "--refining", "-1"]).exit_code == 2


def test_the_thesis_s_encoder_is_trained_by_its_own_command_which_is_recorded(tmp_path):
    folder = tmp_path / "encoder"
    command = ["reproduce", "momnet-encoder", "--steps", "2", "--batch", "2", "-o"]
    result = CliRunner().invoke(app, [*command, str(folder)])
    assert result.exit_code == 0, result.output
    assert "held-out kam loss" in result.output
    net = load_network(ReferenceMomNet, folder / "encoder.safetensors")
    made = load_provenance(folder / "encoder.safetensors")
    assert (
        made.command == "orbitrec reproduce momnet-encoder --atoms 20 --steps 2 --batch 2 --rate 0.001 --seed 1 -o DIR"
    )
    again = CliRunner().invoke(app, [*command[:2], "--resume", "-o", str(folder)])
    assert again.exit_code == 0, again.output
    resumed = load_network(ReferenceMomNet, folder / "encoder.safetensors").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in net.state_dict().items())


def test_figure_3_7_has_four_runs_whose_losses_fall(path, tmp_path, monkeypatch):
    monkeypatch.setattr(figure_3_7, "_PIECE", 5)
    done: list[None] = []
    found = figure_3_7.runs(path, 10, lambda: done.append(None))
    assert len(done) == len(found.runs) == 4
    runs = found.runs
    assert all(run.losses[-1] < run.losses[0] for run in runs[2:])
    assert runs[0].losses[0] < runs[1].losses[0]
    assert runs[0].iterations == [0, 10]
    assert runs[2].iterations == [0, 5, 10]
    with new_run(tmp_path / "run") as run:
        found.write(run, MADE)
        figure_3_7.draw(run, found)
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"figure.png", "curves.csv", "summary.json"}
    assert read_result(tmp_path / "run" / "summary.json") == (found, MADE)
    assert len(found.tables()[0].rows) == 4

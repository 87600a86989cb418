"""``orbitrec expand``: RELION's symmetry expansion of a run's table, and how it refuses bad input."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from orbitrec.cli import main
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import euler_to_matrix
from orbitrec.io.star import read_star

FORMER = Path(__file__).parents[1] / "report" / "version_0_1"
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code or 0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A real run's folder, to which a symmetry is ascribed."""
    shutil.copytree(FORMER, tmp_path / "run")
    _ascribe(tmp_path / "run", "D3")
    return tmp_path / "run"


def _ascribe(run: Path, name: str) -> None:
    facts = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(facts | {"symmetry": name}))


def _rotations(path: Path) -> torch.Tensor:
    particles = read_star(path)["particles"]
    return euler_to_matrix(torch.tensor(particles[ANGLES].to_numpy(float), dtype=torch.float64))


def test_every_row_is_repeated_at_its_equivalent_poses(run, tmp_path, capsys):
    assert _run("expand", run, "-o", tmp_path / "all.star", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    before, after = (read_star(path)["particles"] for path in (run / "particles.star", tmp_path / "all.star"))
    assert facts == {"particles": len(before), "rows": 6 * len(before), "symmetry": "D3"}
    others = [name for name in before.columns if name not in ANGLES]
    repeated = before.loc[before.index.repeat(6), others].reset_index(drop=True)
    for name in others:
        assert (after[name] == repeated[name]).all() or name.startswith("rlnOrigin")
    poses, all_poses = (_rotations(path) for path in (run / "particles.star", tmp_path / "all.star"))
    elements = all_poses.reshape(-1, 6, 3, 3) @ poses[:, None].mT
    assert torch.allclose(elements, PointGroup.named("D3").matrices().expand_as(elements), atol=1e-5)


@pytest.mark.skipif(shutil.which("relion_particle_symmetry_expand") is None, reason="RELION is not installed")
@pytest.mark.parametrize("name", ["D3", "T"])
def test_relion_expands_to_the_same_poses(run, tmp_path, name):
    _ascribe(run, name)
    assert _run("expand", run, "-o", tmp_path / "ours.star") == 0
    command = ["relion_particle_symmetry_expand", "--i", run / "particles.star", "--o", "theirs.star", "--sym", name]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    order = PointGroup.named(name).order
    ours, theirs = (_rotations(tmp_path / f"{who}.star").reshape(-1, order, 3, 3) for who in ("ours", "theirs"))
    assert ours.shape == theirs.shape
    nearest = (ours[:, :, None] - theirs[:, None]).abs().amax((3, 4)).amin(2)
    assert float(nearest.max()) < 1e-4  # RELION knows its axes to six digits


@pytest.mark.parametrize(
    ("name", "output", "said"),
    [
        ("C1", "all.star", "had no symmetry"),
        ("D3", "all.cs", "name it all.star"),
        ("D3", "run/particles.star", "exists already"),
    ],
)
def test_what_cannot_be_expanded_is_refused(run, tmp_path, capsys, name, output, said):
    _ascribe(run, name)
    assert _run("expand", run, "-o", tmp_path / output) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "all.star").exists()
    assert _run("expand", tmp_path, "-o", tmp_path / output) == 2
    assert "holds no finished run" in capsys.readouterr().err

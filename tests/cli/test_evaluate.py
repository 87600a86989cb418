"""``orbitrec evaluate``: moved copies of a phantom on the truth's grid and on others, and how it refuses bad input."""

import json
import math
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

from orbitrec.cli import main
from orbitrec.evaluation.alignment import Alignment, resampled
from orbitrec.evaluation.symmetry import symmetrised
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import euler_to_matrix, matrix_to_euler, random_rotations
from orbitrec.io.mrc import read_map, write_map
from orbitrec.io.star import write_star
from orbitrec.volumes.phantoms import protein_phantom

N, VOXEL_A = 32, 3.0
EULER_DEG = [40.0, 65.0, -110.0]
SHIFT_PX = [1.0, -1.5, 0.5]


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code if isinstance(exit_info.value.code, int) else 0


@pytest.fixture
def moving() -> torch.Tensor:
    return protein_phantom(60, 8.0, torch.Generator().manual_seed(3)).to_grid(N).float()


@pytest.fixture
def truth(tmp_path: Path, moving: torch.Tensor) -> Path:
    """The map mirrored, rotated and shifted."""
    rotation = euler_to_matrix(torch.tensor(EULER_DEG, dtype=torch.float64))
    move = Alignment(rotation, torch.tensor(SHIFT_PX, dtype=torch.float64), True, 1.0)
    write_map(tmp_path / "truth.mrc", move.apply(moving), VOXEL_A)
    return tmp_path / "truth.mrc"


def test_finds_the_move_and_writes_map_and_curve(
    tmp_path: Path, moving: torch.Tensor, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    map_file, aligned, curve = tmp_path / "map.mrc", tmp_path / "aligned.mrc", tmp_path / "fsc.png"
    write_map(map_file, moving, VOXEL_A)
    assert _run("evaluate", map_file, truth, "--json", "-o", aligned, "--plot", curve) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["fsc05_A"] == facts["fsc0143_A"] == 2 * VOXEL_A
    assert facts["hand"] == "mirrored"
    assert facts["correlation"] > 0.999
    assert facts["euler_deg"] == pytest.approx(EULER_DEG, abs=0.1)
    assert facts["shift_A"] == pytest.approx([VOXEL_A * s for s in SHIFT_PX], abs=0.05)
    assert len(facts["fsc"]["value"]) == len(facts["fsc"]["resolution_A"]) == N // 2 + 1
    written, size = read_map(aligned)
    assert size == VOXEL_A
    assert np.corrcoef(written.flatten(), read_map(truth)[0].flatten())[0, 1] > 0.999
    assert curve.read_bytes().startswith(b"\x89PNG")


def test_maps_on_other_grids_are_brought_to_the_truths(
    tmp_path: Path, moving: torch.Tensor, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Voxels twice as large in another field of view: the coarse map ends at its Nyquist cube of half-width a = 1/12 Å.

    The part 1 − 3(1 − a/r) of a shell r > a lies in the cube and agrees; the FSC is its root, so 0.5 is at r = 4a/3.
    """
    write_map(tmp_path / "coarse.mrc", resampled(moving, VOXEL_A, 18, 2 * VOXEL_A), 2 * VOXEL_A)
    assert _run("evaluate", tmp_path / "coarse.mrc", truth, "--json", "--mask-radius-A", 40) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["hand"] == "mirrored"
    assert facts["fsc05_A"] == pytest.approx(9.0, abs=0.5)


def test_a_map_of_noise_has_no_resolution(tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = torch.randn(N, N, N, generator=torch.Generator().manual_seed(0))
    write_map(tmp_path / "noise.mrc", noise, VOXEL_A)
    assert _run("evaluate", tmp_path / "noise.mrc", truth, "--no-hand") == 0
    printed = capsys.readouterr().out
    assert "FSC 0.5 (Å)" in printed
    assert "same" in printed


def _bad(tmp_path: Path, name: str) -> Path:
    path = tmp_path / "bad.mrc"
    values = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    if name == "oblong":
        values = values[:6]
    if name == "nan":
        values[0, 0, 0] = math.nan
    if name == "constant":
        values[:] = 1
    if name != "missing":
        with mrcfile.new(path, data=values) as file:
            file.voxel_size = 0 if name == "no voxel size" else 2
    return path


BAD = {
    "missing": "no such file",
    "oblong": "not a cubic map",
    "nan": "NaN",
    "constant": "is constant",
    "no voxel size": "gives no voxel size",
}


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize("name", BAD)
def test_bad_maps_are_one_sentence_and_exit_2(
    tmp_path: Path, truth: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _bad(tmp_path, name)
    before = sorted(tmp_path.iterdir())
    assert _run("evaluate", path, truth, "-o", tmp_path / "aligned.mrc") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert BAD[name] in printed.err
    assert str(path) in printed.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_picture_needs_a_known_ending(truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("evaluate", truth, truth, "--plot", "fsc.doc") == 2
    assert "--plot fsc.doc" in capsys.readouterr().err


def _table(path: Path, rotations: torch.Tensor, names: list[int]) -> Path:
    rot, tilt, psi = matrix_to_euler(rotations).mT.tolist()
    rows = {"rlnImageName": [f"{i:06d}@p.mrcs" for i in names], "rlnAngleRot": rot, "rlnAngleTilt": tilt}
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [VOXEL_A], "rlnImageSize": [N]}
    particles = pd.DataFrame({**rows, "rlnAnglePsi": psi, "rlnOpticsGroup": 1})
    write_star(path, {"optics": pd.DataFrame(optics), "particles": particles})
    return path


@pytest.mark.parametrize("name", ["C3", "O"])
def test_under_a_symmetry_equivalent_poses_are_the_same_and_the_map_is_compared_with_its_average(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Poses of equivalent copies in another frame, rows in another order; a map with a little that has no symmetry."""
    group, generator = PointGroup.named(name), torch.Generator().manual_seed(5)
    plain = protein_phantom(12, 8.0, generator).to_grid(N).double()
    average = symmetrised(plain, group)
    maps = [tmp_path / "map.mrc", tmp_path / "odd.mrc", tmp_path / "truth.mrc"]
    write_map(maps[0], average.float(), VOXEL_A)
    write_map(maps[1], plain.float(), VOXEL_A)
    write_map(maps[2], average.float(), VOXEL_A)
    true = random_rotations(40, generator)
    order = torch.randperm(40, generator=generator)
    copies = group.matrices()[torch.randint(group.order, (40,), generator=generator)] @ true
    found = random_rotations(1, generator)[0] @ copies
    found[order[:4]] = random_rotations(4, generator)
    tables = (
        _table(tmp_path / "truth.star", true, list(range(1, 41))),
        _table(tmp_path / "found.star", found[order], (order + 1).tolist()),
    )
    options = ("--symmetry", name, "--poses", tables[1], "--true-poses", tables[0], "--json")
    assert _run("evaluate", maps[0], maps[2], *options) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["poses"]["particles"] == 40
    assert 0.9 <= facts["poses"]["share_within_5_deg"] <= 0.95
    assert facts["poses"]["median_deg"] < 0.1
    assert facts["symmetry"]["fsc05_A"] == 2 * VOXEL_A
    assert min(facts["symmetry"]["fsc"]["value"][1:8]) > 0.99
    assert _run("evaluate", maps[1], maps[2], *options) == 0
    odd = json.loads(capsys.readouterr().out)
    assert odd["symmetry"]["score"] < facts["symmetry"]["score"] - 0.1
    assert min(odd["symmetry"]["fsc"]["value"][1:8]) < 0.9


def test_poses_alone_have_nothing_to_be_compared_with(
    tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posed = _table(tmp_path / "found.star", random_rotations(10, torch.Generator().manual_seed(1)), list(range(10)))
    assert _run("evaluate", truth, truth, "--poses", posed) == 2
    assert "--poses and --true-poses together" in capsys.readouterr().err

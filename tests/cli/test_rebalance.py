"""``orbitrec rebalance``: a table in the input's dialect with fewer rows, and how it refuses bad input."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from orbitrec.cli import main
from orbitrec.geometry.rotations import random_rotations
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import read_star, write_star

COUNT = 600


def _run(*arguments):
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code or 0


@pytest.fixture
def rotations():
    """A third of the particles seen along z."""
    found = random_rotations(COUNT, torch.Generator().manual_seed(1))
    found[::3] = torch.eye(3, dtype=torch.float64)
    return found


@pytest.fixture
def star(tmp_path, rotations):
    tables = particle_tables("a.mrcs", COUNT, 16, 2.0, rotations=rotations)
    tables["particles"]["rlnMyOwnName"] = [f"n{row}" for row in range(COUNT)]
    write_star(tmp_path / "p.star", tables)
    return tmp_path / "p.star"


def test_a_star_file_loses_rows_and_nothing_else(star, tmp_path, capsys):
    assert _run("rebalance", star, "-o", tmp_path / "out.star", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["particles"] == COUNT
    assert 0.55 * COUNT <= facts["kept"] < 0.7 * COUNT
    assert facts["scf_star"] > facts["scf_star_before"] + 0.05
    lines, kept = star.read_text().splitlines(), (tmp_path / "out.star").read_text().splitlines()
    assert len(kept) == len(lines) - (COUNT - facts["kept"])
    left = iter(lines)
    assert all(line in left for line in kept)  # in their order
    rows = read_star(tmp_path / "out.star")["particles"]["rlnMyOwnName"].str[1:].astype(int)
    assert (rows % 3 == 0).mean() < 0.1
    assert _run("rebalance", star, "-o", tmp_path / "again.star") == 0
    assert "of 600" in capsys.readouterr().out


def test_a_cryosparc_table_keeps_its_fields_and_uids(rotations, tmp_path, capsys):
    records = np.zeros(COUNT, [("uid", "<u8"), ("alignments3D/pose", "<f4", 3), ("mine", "<f8", (2, 2))])
    records["uid"] = 1000 + np.arange(COUNT)
    records["mine"] = np.random.default_rng(1).normal(size=(COUNT, 2, 2))
    records["alignments3D/pose"] = Rotation.from_matrix(rotations.numpy()).as_rotvec()
    with (tmp_path / "p.cs").open("wb") as file:
        np.save(file, records)
    assert _run("rebalance", tmp_path / "p.cs", "-o", tmp_path / "out.cs", "--json") == 0
    kept = np.load(tmp_path / "out.cs")
    assert len(kept) == json.loads(capsys.readouterr().out)["kept"] < COUNT
    np.testing.assert_array_equal(kept, records[kept["uid"].astype(int) - 1000])


@pytest.mark.parametrize(
    ("output", "options", "said"),
    [
        ("p.star", [], "p.star exists already; choose another --output"),
        ("out.cs", [], "name it"),
        ("out.star", ["--symmetry", "K9"], "no point group"),
    ],
)
def test_bad_requests_are_one_sentence(star, tmp_path, output, options, said, capsys):
    before = star.read_bytes()
    assert _run("rebalance", star, "-o", tmp_path / output, *options) == 2
    assert said in capsys.readouterr().err
    assert star.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["p.star"]


def test_particles_without_poses_are_refused(shared_data, tmp_path, capsys):
    shutil.copy(shared_data / "particles" / "empiar_10076_7.star", tmp_path)
    assert _run("rebalance", tmp_path / "empiar_10076_7.star", "-o", tmp_path / "out.star") == 2
    assert "has no poses" in capsys.readouterr().err

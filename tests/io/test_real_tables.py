"""Real tables of many programs and versions, given made-up stacks: what is written differs in what it should, only."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from orbitrec.geometry.rotations import geodesic_distance, random_rotations
from orbitrec.io.mrc import StackWriter, read_header
from orbitrec.io.particles import ParticleStack
from orbitrec.io.tables import read_table

POSES = {"rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"}
ORIGINS = {"rlnOriginX", "rlnOriginY", "rlnOriginXAngst", "rlnOriginYAngst"}


def _with_stacks(source: Path, folder: Path, box: int | None = None) -> ParticleStack:
    """The table in a folder of its own, where every stack is a file of the right size with nothing in it.

    With another ``box`` the table is made to state that.
    """
    table = Path(shutil.copy(source, folder))
    if box is not None and read_table(table).stated_boxes() is not None:
        stated = f"{read_table(table).stated_boxes()[0]:.0f}"
        table.chmod(0o644)
        text = table.read_bytes()
        head, mark, rows = text.partition(b"data_particles")
        table.write_bytes(re.sub(rb"(?<=\s)%s(?=\s)" % stated.encode(), b"%d" % box, head) + mark + rows)
    sources, boxes = read_table(table).sources(), read_table(table).stated_boxes()
    for at, name in enumerate(sources.names):
        rows = sources.stack == at
        count, edge = int(sources.section[rows].max()) + 1, box or (64 if boxes is None else int(boxes[rows][0]))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with StackWriter(folder / name, 1, edge, 1.5) as stack:
            stack.write(torch.zeros(1, edge, edge))
        with (folder / name).open("r+b") as file:
            file.seek(8)
            file.write(count.to_bytes(4, "little"))
            file.truncate(1024 + 4 * count * edge * edge)
    return ParticleStack.open(table, ctf=None)


def _posed(stack: ParticleStack, path: Path) -> ParticleStack:
    path.parent.mkdir()
    rotations = random_rotations(len(stack), torch.Generator().manual_seed(0))
    stack.write_posed(path, rotations, torch.full((len(stack), 2), 1.25))
    again = ParticleStack.open(path, ctf=None)
    poses = again.poses()
    assert poses is not None
    assert float(geodesic_distance(poses[0], rotations).max()) < 1e-5
    assert float((poses[1] - 1.25).abs().max()) < 1e-5
    assert [each.path.resolve() for each in again.stacks] == [each.path.resolve() for each in stack.stacks]
    np.testing.assert_array_equal(again.sources.section, stack.sources.section)
    return again


@pytest.mark.parametrize(
    ("name", "count", "ctf"),
    [
        ("tables/cryodrgn_relion31_6opticsgroups.star", 139, True),
        ("tables/cryodrgn_relion5.star", 17, True),
        ("tables/localrec_particles.star", 99, True),
        ("tables/prior_values_data_test_prior.star", 274, True),
        ("tables/isecc_test.star", 1, True),
        ("particles/relion31.star", 5, True),
    ],
)
def test_star_files_of_every_version(shared_data: Path, tmp_path: Path, name: str, count: int, ctf: bool) -> None:
    source = shared_data / name
    if not source.is_file():
        pytest.skip(f"no {source}")
    stack = _with_stacks(source, tmp_path)
    assert (len(stack), stack.ctf is not None) == (count, ctf)
    again = _posed(stack, tmp_path / "run" / "posed.star")
    old, new = (path.read_text().splitlines() for path in (source, again.table.path))
    rows = [[line.split() for line in lines if "@" in line] for lines in (old, new)]
    columns = list(stack.table.particles)
    added = [f"_{label} #{at}" for at, label in enumerate(again.table.particles, 1) if label not in columns]
    assert [line for line in new if "@" not in line and line not in added] == [line for line in old if "@" not in line]
    assert set(again.table.particles) - set(columns) <= ORIGINS | POSES
    kept = [at for at, label in enumerate(columns) if label not in POSES | ORIGINS]
    assert [[row[at] for at in kept] for row in rows[0]] == [[row[at] for at in kept] for row in rows[1]]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("tables/cryodrgn_cryosparc_J2_particles_exported.cs", 22),
        ("particles/cryosparc_P12_J24_001_particles.cs", 2019),
    ],
)
def test_cryosparc_tables_of_every_version(shared_data: Path, tmp_path: Path, name: str, count: int) -> None:
    source = shared_data / name
    if not source.is_file():
        pytest.skip(f"no {source}")
    stack = _with_stacks(source, tmp_path)
    assert (len(stack), stack.ctf is not None) == (count, True)
    again = _posed(stack, tmp_path / "run" / "posed.cs")
    old, new = np.load(source), np.load(again.table.path)
    differing = {field for field in old.dtype.names if not np.array_equal(old[field], new[field], equal_nan=False)}
    exported = {"blob/path"} if old["blob/path"][0].startswith(b">") else set()  # relative to the file
    assert differing <= {"alignments3D/pose", "alignments3D/shift"} | exported
    assert differing >= exported
    assert set(old.dtype.names) <= set(new.dtype.names)


def _ran(*command: str | Path, folder: Path) -> str:
    ended = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.skipif(shutil.which("relion_star_handler") is None, reason="RELION's programs are not installed")
@pytest.mark.parametrize(
    "name",
    [
        "cryodrgn_relion31_6opticsgroups.star",
        "cryodrgn_relion5.star",
        "localrec_particles.star",
        "prior_values_data_test_prior.star",
        "isecc_test.star",
    ],
)
def test_relions_programs_take_what_is_written(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Its table is read with all its rows, its images are found from any folder, and it is put into a map."""
    source = shared_data / "tables" / name
    if not source.is_file():
        pytest.skip(f"no {source}")
    (tmp_path / "here").mkdir()
    stack = _with_stacks(source, tmp_path / "here", box=16)
    posed = _posed(stack, tmp_path / "run" / "posed.star").table.path
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    select = ["--select", "rlnAngleTilt", "--minval", "-1000", "--maxval", "1000"]
    _ran("relion_star_handler", "--i", posed, "--o", "again.star", *select, folder=elsewhere)
    again = read_table(elsewhere / "again.star")
    assert len(again) == len(stack)
    poses, theirs = read_table(posed).poses(), again.poses()
    assert poses is not None
    assert theirs is not None
    assert float(geodesic_distance(poses[0], theirs[0]).max()) < 1e-5
    assert float((poses[1] - theirs[1]).abs().max()) < 1e-4
    _ran("relion_stack_create", "--i", posed, "--o", "stack", folder=elsewhere)
    assert read_header(elsewhere / "stack.mrcs").shape == (len(stack), 16, 16)
    _ran("relion_reconstruct", "--i", posed, "--o", "map.mrc", "--ctf", folder=elsewhere)
    assert read_header(elsewhere / "map.mrc").shape == (16, 16, 16)

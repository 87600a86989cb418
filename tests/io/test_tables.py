"""The list of readers: which file goes to which, and one way to read what any of them reads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from orbitrec.errors import InputError
from orbitrec.io.cryosparc.table import CryosparcTable
from orbitrec.io.particle_table import Dialect, ParticleTable
from orbitrec.io.relion import RelionTable
from orbitrec.io.tables import CRYOSPARC, MRC_STACK, READERS, RELION, read_table, table_reader
from orbitrec.report.run_files import posed_table


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("p.star", RELION),
        ("p.STAR", RELION),
        ("p.cs", CRYOSPARC),
        ("p.csg", CRYOSPARC),
        ("p.mrcs", MRC_STACK),
        ("p.mrc", MRC_STACK),
    ],
)
def test_the_suffix_decides(name, reader):
    assert table_reader(name) is reader
    assert [each for each in READERS if each.accepts(Path(name))] == [reader]


def test_other_names_are_read_as_star_files(tmp_path):
    assert table_reader("p.txt") is None
    (tmp_path / "p.txt").write_text("data_\nloop_\n_rlnImageName\n1@a.mrcs\n2@a.mrcs\n")
    table = read_table(tmp_path / "p.txt", pixel_size_A=2.0)
    assert (len(table), table.dialect) == (2, Dialect.RELION_3_0)
    assert table.pixel_sizes_A().tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("name", "dialect", "count"),
    [
        ("relion31.star", Dialect.RELION_3_1, 5),
        ("empiar_10076_7.star", Dialect.RELION_3_0, 7),
        ("empiar_10076_7.cs", Dialect.CRYOSPARC, 7),
        ("relion31.mrcs", Dialect.MRC_STACK, 5),
    ],
)
def test_every_table_answers_alike(shared_data, name, dialect, count):
    table = read_table(shared_data / "particles" / name, pixel_size_A=1.5)
    assert isinstance(table, ParticleTable)
    assert (len(table), table.dialect) == (count, dialect)
    sources = table.sources()
    for column in (sources.stack, sources.section, table.pixel_sizes_A(), table.groups(), table.signs()):
        assert column.shape == (count,)
    assert set(table.pixel_sizes_A()) == {1.5}
    assert table.premultiplied().dtype == bool


def test_poses_are_read_where_a_table_does_not_name_its_images(tmp_path):
    """As a posed table of a run does whose images are named in the passthrough file."""
    rotations = Rotation.random(4, random_state=1)
    kinds = [("uid", "<u8"), ("alignments3D/pose", "<f4", 3), ("alignments3D/shift", "<f4", 2)]
    records = np.zeros(4, [*kinds, ("alignments3D/psize_A", "<f4")])
    records["alignments3D/pose"], records["alignments3D/psize_A"] = rotations.as_rotvec(), 2.0
    records["alignments3D/shift"] = 1.5
    with (tmp_path / "p.cs").open("wb") as file:
        np.save(file, records)
    table = read_table(tmp_path / "p.cs")
    found, shifts_A = table.poses()
    np.testing.assert_allclose(found.numpy(), rotations.as_matrix(), atol=1e-6)
    assert torch.equal(shifts_A, torch.full((4, 2), -3.0, dtype=torch.float64))
    with pytest.raises(
        InputError, match="has no blob/path, only alignments3D; give the job's passthrough file as `passthrough`"
    ):
        table.sources()


@pytest.mark.parametrize("name", ["relion31.star", "empiar_10076_7.star", "empiar_10076_7.cs", "relion31.mrcs"])
def test_some_rows_are_written_as_they_are(shared_data, tmp_path, name):
    """A subset says of each particle what the whole table says of it, in the same dialect."""
    table = read_table(shared_data / "particles" / name, pixel_size_A=1.5)
    rows = torch.tensor([0, 2, 4])
    table.write_rows(tmp_path / f"some{table.suffix}", rows)
    some = read_table(tmp_path / f"some{table.suffix}", pixel_size_A=1.5)
    assert len(some) == 3
    where, all_of_them = some.sources(), table.sources()
    assert where.section.tolist() == all_of_them.section[rows].tolist()
    names = [Path(where.names[i]).name for i in where.stack]
    assert names == [Path(all_of_them.names[i]).name for i in all_of_them.stack[rows]]
    if isinstance(table, CryosparcTable):
        np.testing.assert_array_equal(some.records, table.records[rows.numpy()])
    elif isinstance(table, RelionTable):
        assert some.particles.equals(table.particles.iloc[rows.tolist()].reset_index(drop=True))
        assert some.dialect is table.dialect


STAR = """data_optics

loop_
_rlnOpticsGroup
_rlnImagePixelSize
1 {0}

data_particles

loop_
_rlnImageName
_rlnOpticsGroup
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
1@a.mrcs 1 0 0 0 3.0 -1.5
2@a.mrcs 1 0 0 0 0.0 6.0
"""


def _cryosparc(path: Path, pixel_A: float) -> None:
    fields = [("uid", "<u8"), ("blob/path", "S6"), ("blob/idx", "<u4"), ("blob/psize_A", "<f4")]
    fields += [("alignments3D/pose", "<f4", 3), ("alignments3D/shift", "<f4", 2), ("alignments3D/psize_A", "<f4")]
    records = np.zeros(2, fields)
    records["blob/path"], records["blob/psize_A"], records["alignments3D/psize_A"] = b"a.mrcs", pixel_A, 3.0
    records["alignments3D/shift"] = [[1.0, -0.5], [0.0, 2.0]]  # in pixels of 3 Å
    with path.open("wb") as file:
        np.save(file, records)


@pytest.mark.parametrize("name", ["p.star", "p.cs"])
def test_another_pixel_size_moves_no_particle(tmp_path, name):
    """Origins of 3 Å in a file of 1.5 Å are 2 pixels, whatever is given; written, they are in the file's Å again."""
    path = tmp_path / name
    (tmp_path / "p.star").write_text(STAR.format(1.5))
    _cryosparc(tmp_path / "p.cs", 1.5)
    expected_px = torch.tensor([[-2.0, 1.0], [0.0, -4.0]], dtype=torch.float64)
    for pixel_A in (1.5, 1.2):
        rotations, shifts_A = read_table(path, pixel_A).poses()
        torch.testing.assert_close(shifts_A / pixel_A, expected_px, rtol=1e-6, atol=1e-6)
    read_table(path, 1.2).write_posed(tmp_path / f"out{path.suffix}", rotations, 2 * shifts_A, [Path("a.mrcs")], None)
    again = read_table(tmp_path / f"out{path.suffix}")
    assert again.pixel_sizes_A().tolist() == pytest.approx([1.5, 1.5])
    torch.testing.assert_close(again.poses()[1], 3.0 * expected_px, rtol=1e-6, atol=1e-6)
    # As a run's report reads it, which knows the pixel size of the run.
    for pixel_A in (1.5, 1.2):
        shifts_px = posed_table(tmp_path / f"out{path.suffix}", pixel_A).poses()[1] / pixel_A
        torch.testing.assert_close(shifts_px, 2.0 * expected_px, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pixel", ["0", "x"])
def test_a_pixel_size_that_cannot_be_does_not_keep_poses_from_being_written(tmp_path, pixel):
    (tmp_path / "p.star").write_text(STAR.format(pixel))
    table = read_table(tmp_path / "p.star", 1.2)
    rotations, shifts_A = table.poses()
    table.write_posed(tmp_path / "out.star", rotations, shifts_A, [Path("a.mrcs")], None)
    assert torch.equal(posed_table(tmp_path / "out.star", 1.2).poses()[1], shifts_A)
    with pytest.raises(InputError, match="correct it"):
        read_table(tmp_path / "out.star").pixel_sizes_A()

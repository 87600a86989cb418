"""cryoSPARC tables: real ones, and what the same particles say in RELION's words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from orbitrec.errors import InputError
from orbitrec.geometry.rotations import geodesic_distance, matrix_to_euler, random_rotations
from orbitrec.io.cryosparc.table import CryosparcTable
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack

JOB = "cryosparc_P12_J24_001_particles.cs"


def test_the_same_particles_in_both_dialects(shared_data: Path) -> None:
    folder = shared_data / "particles"
    theirs, star = (ParticleStack.open(folder / f"empiar_10076_7.{suffix}") for suffix in ("cs", "star"))
    assert (len(theirs), theirs.n, theirs.table.dialect) == (7, 320, "cryoSPARC")
    assert theirs.pixel_size_A == pytest.approx(star.pixel_size_A, abs=1e-5)
    assert theirs.ctf is not None
    assert star.ctf is not None
    for name, tolerance in (("defocus_u_A", 1e-2), ("defocus_v_A", 1e-2), ("defocus_angle_deg", 1e-4), ("cs_mm", 1e-6)):
        torch.testing.assert_close(getattr(theirs.ctf, name), getattr(star.ctf, name), rtol=0, atol=tolerance)
    # blob/sign is −1: dense is dark in the file, and is rotated.
    torch.testing.assert_close(theirs.images(slice(None)), -star.images(slice(None)), rtol=0, atol=0)
    assert theirs.poses() is None


def test_poses_of_a_real_job(shared_data: Path) -> None:
    """Against pyem's reading: RELION's matrix is the transpose of the rotation by the vector, origins are shifts."""
    table = CryosparcTable.read(shared_data / "particles" / JOB)
    poses = table.poses()
    assert poses is not None
    assert (len(table), table.pixel_sizes_A()[0], len(set(table.groups()))) == (2019, 2.95, 1)
    vector = table.records["alignments3D/pose"][0].astype(np.float64)
    angle = np.linalg.norm(vector)
    x, y, z = vector / angle
    k = np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]])
    relion = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    np.testing.assert_allclose(poses[0][0].numpy(), relion.T, atol=1e-12)
    shift = table.records["alignments3D/shift"].astype(np.float64)
    np.testing.assert_allclose(poses[1].numpy(), -2.95 * shift, rtol=1e-6)


def _records(count: int, n: int, **fields: object) -> np.ndarray:
    known = {
        "uid": np.arange(10, 10 + count, dtype=np.uint64),
        "blob/path": np.array([b">J1/p.mrcs"] * count, dtype="S40"),
        "blob/idx": np.arange(count, dtype=np.uint32),
        "blob/shape": np.full((count, 2), n, dtype=np.uint32),
        "blob/psize_A": np.full(count, 1.5, dtype=np.float32),
        "blob/sign": np.full(count, -1, dtype=np.float32),
    } | fields
    arrays = {name: np.asarray(values) for name, values in known.items() if values is not None}
    out = np.zeros(count, dtype=[(name, values.dtype, values.shape[1:]) for name, values in arrays.items()])
    for name, values in arrays.items():
        out[name] = values
    return out


def _save(path: Path, records: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.save(file, records)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with a stack in J1 and room for the tables of J2."""
    (tmp_path / "J1").mkdir()
    (tmp_path / "J2").mkdir()
    with StackWriter(tmp_path / "J1" / "p.mrcs", 5, 8, 1.5) as stack:
        stack.write(torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0)))
    return tmp_path


CTF = {
    "ctf/df1_A": [2e4] * 5, "ctf/df2_A": [1.9e4] * 5, "ctf/df_angle_rad": [0.5] * 5, "ctf/accel_kv": [300.0] * 5,
    "ctf/cs_mm": [2.7] * 5, "ctf/amp_contrast": [0.1] * 5, "ctf/phase_shift_rad": [np.pi / 2] * 5,
}  # fmt: skip


@pytest.mark.parametrize("given", [True, False])
def test_passthrough_files_are_joined_by_uid(project: Path, given: bool) -> None:
    fields = dict.fromkeys([name for name in _records(1, 8).dtype.names or () if name.startswith("blob/")])
    main = _records(5, 8, **fields, **{"alignments3D/pose": np.zeros((5, 3), np.float32)})
    order = [3, 1, 4, 0, 2]
    other = _records(5, 8, **CTF)[order]
    star = _save(project / "J2" / "cryosparc_P1_J2_003_particles.cs", main)
    name = project / "J2" / ("P1_J2_passthrough_particles.cs" if not given else "other.cs")
    if given:
        with pytest.raises(
            InputError, match=r"has no blob/path, only alignments3D; give the job's passthrough file as `passthrough`"
        ):
            ParticleStack.open(star)
    _save(name, other)
    stack = ParticleStack.open(star, passthrough=name if given else None)
    assert stack.sources.section.tolist() == [0, 1, 2, 3, 4]
    assert stack.ctf is not None
    assert stack.ctf.phase_shift_deg.tolist() == pytest.approx([90.0] * 5)
    assert stack.ctf.defocus_angle_deg.tolist() == pytest.approx([np.rad2deg(0.5)] * 5)
    _save(name, other[:4])
    with pytest.raises(
        InputError, match=r"lacks 1 of the 5 particles of .*, which has no blob/idx; give the passthrough"
    ):
        ParticleStack.open(star, passthrough=name)


def test_posed_tables_are_what_cryosparc_reads(project: Path) -> None:
    """A table without alignments gets a whole group of them, in pixels of blob/psize_A; everything else is kept."""
    records = _records(5, 8, **CTF, **{"location/exp_group_id": np.arange(5)})
    stack = ParticleStack.open(_save(project / "J2" / "particles.cs", records))
    rotations = random_rotations(5, torch.Generator().manual_seed(1))
    shifts_px = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    stack.write_posed(project / "J2" / "posed.cs", rotations, shifts_px, torch.tensor([1, 2, 2, 1, 2]))
    found = np.load(project / "J2" / "posed.cs")
    for name in records.dtype.names or ():
        np.testing.assert_array_equal(found[name], records[name])
    np.testing.assert_allclose(
        Rotation.from_rotvec(found["alignments3D/pose"]).as_matrix(), rotations.numpy(), atol=1e-6
    )
    np.testing.assert_allclose(found["alignments3D/shift"], -shifts_px.numpy(), atol=1e-6)
    assert found["alignments3D/split"].tolist() == [0, 1, 1, 0, 1]
    assert found["alignments3D/class_posterior"].tolist() == [1.0] * 5
    again = ParticleStack.open(project / "J2" / "posed.cs").poses()
    assert again is not None
    assert float(geodesic_distance(again[0], rotations).max()) < 1e-6
    torch.testing.assert_close(again[1], shifts_px, rtol=0, atol=1e-6)


def test_rewritten_jobs_differ_in_their_poses_only(shared_data: Path, tmp_path: Path) -> None:
    table = CryosparcTable.read(shared_data / "particles" / JOB)
    poses = table.poses()
    assert poses is not None
    table.write_posed(tmp_path / "same.cs", *poses, [])
    old, new = np.load(table.path), np.load(tmp_path / "same.cs")
    assert old.dtype == new.dtype
    for name in old.dtype.names:
        np.testing.assert_array_equal(old[name], new[name]) if name not in (
            "alignments3D/pose", "alignments3D/shift"
        ) else np.testing.assert_allclose(old["alignments3D/shift"], new["alignments3D/shift"], atol=1e-5)  # fmt: skip
    rotated = [Rotation.from_rotvec(x["alignments3D/pose"].astype(np.float64)) for x in (old, new)]
    assert float((rotated[0].inv() * rotated[1]).magnitude().max()) < 1e-6
    rotations = random_rotations(len(table), torch.Generator().manual_seed(1))
    table.write_posed(tmp_path / "other.cs", rotations, torch.zeros(len(table), 2), [])
    changed = [name for name in old.dtype.names if not np.array_equal(np.load(tmp_path / "other.cs")[name], old[name])]
    assert changed == ["alignments3D/shift", "alignments3D/pose"]


def _assert_consistent(records: np.ndarray) -> None:
    """What fields of an alignment have to do with each other."""
    group, names = "alignments3D/", records.dtype.names or ()
    of = {name.removeprefix(group): records[name].astype(np.float64) for name in names if name.startswith(group)}
    error = of["image_pow"] + of["slice_pow"] - of["cross_cor"]
    np.testing.assert_allclose(of["error"], error, rtol=1e-5)
    np.testing.assert_allclose(of["resid_pow"], error, rtol=1e-5)
    np.testing.assert_allclose(of["alpha"], of["cross_cor"] / (2 * of["slice_pow"]), rtol=1e-5)
    scaled = of["image_pow"] + of["alpha"] ** 2 * of["slice_pow"] - of["alpha"] * of["cross_cor"]
    np.testing.assert_allclose(of["error_min"], scaled, rtol=1e-5)


def test_statistics_are_written_as_cryosparc_means_them(shared_data: Path, project: Path, made_statistics) -> None:
    _assert_consistent(np.load(shared_data / "particles" / JOB))  # a refinement of cryoSPARC's own
    stack = ParticleStack.open(_save(project / "J2" / "particles.cs", _records(5, 8, **CTF)))
    statistics = made_statistics(5)
    stack.write_posed(
        project / "J2" / "posed.cs", torch.eye(3).expand(5, 3, 3), torch.zeros(5, 2), statistics=statistics
    )
    found = np.load(project / "J2" / "posed.cs")
    _assert_consistent(found)
    assert found["alignments3D/cross_cor"].tolist() == statistics.cross_correlation.tolist()
    assert found["alignments3D/slice_pow"].tolist() == statistics.slice_power.tolist()
    assert found["alignments3D/class_posterior"].tolist() == statistics.inlier_probability.tolist()


def test_what_is_not_modelled_is_named(project: Path) -> None:
    fields = {"ctf/tilt_A": np.full((5, 2), 0.1), "ctf/anisomag": np.zeros((5, 4)), "ctf/scale": np.ones(5)}
    path = _save(project / "J2" / "p.cs", _records(5, 8, **CTF, **fields))
    assert ParticleStack.open(path).table.ignored_columns() == ["ctf/tilt_A"]


def test_angles_are_relions(project: Path) -> None:
    """psi turns the image in its plane: the rotation by a vector along z is RELION's psi of the same sign."""
    pose = np.tile([0.0, 0.0, np.deg2rad(25.0)], (5, 1)).astype(np.float32)
    path = _save(project / "J2" / "p.cs", _records(5, 8, **{"alignments3D/pose": pose}))
    poses = ParticleStack.open(path, ctf=False).poses()
    assert poses is not None
    torch.testing.assert_close(matrix_to_euler(poses[0])[0], torch.tensor([0.0, 0.0, 25.0]).double(), rtol=0, atol=1e-5)


BAD = {
    "sign": ({**CTF, "blob/sign": np.zeros(5)}, "blob/sign is neither 1"),
    "no pixel size": ({**CTF, "blob/psize_A": None}, "gives no pixel size"),
    "pixel size": ({**CTF, "blob/psize_A": np.zeros(5)}, r"row 1 has a pixel size of 0 Å \(blob/psize_A\)"),
    "index": ({**CTF, "blob/idx": np.array([0, 1, 2, 3, 9])}, "row 5 asks for image 10"),
    "NaN": ({**CTF, "ctf/df1_A": [2e4, np.nan, 2e4, 2e4, 2e4]}, "ctf/df1_A of particle 2 is not a finite number"),
    "no CTF": ({}, "has no ctf/df1_A"),
    "box": ({**CTF, "blob/shape": np.full((5, 2), 16)}, "states images of 16 px"),
    "text": ({**CTF, "ctf/df1_A": np.array(["x"] * 5)}, "ctf/df1_A does not hold 1 number for a particle"),
    "path": ({**CTF, "blob/path": np.arange(5)}, "blob/path and blob/idx are not text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused(project: Path, name: str) -> None:
    fields, message = BAD[name]
    with pytest.raises(InputError, match=message):
        ParticleStack.open(_save(project / "J2" / "p.cs", _records(5, 8, **fields)))


def test_other_formats_are_told_apart(project: Path) -> None:
    path = project / "J2" / "p.cs"
    for content, message in (
        (b"\x94CSDAT....", "damaged cryoSPARC table or is truncated"),
        (b"hello", "is not a cryoSPARC table"),
        (b"", "is not a cryoSPARC table"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            ParticleStack.open(path)
    _save(path, np.zeros(3))
    with pytest.raises(InputError, match="is a plain array"):
        ParticleStack.open(path)
    _save(path, _records(5, 8))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged cryoSPARC table or is truncated"):
        ParticleStack.open(path)

"""Files of a cryoSPARC job that belong together: passthrough files, result groups, compressed tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from oracles import compressed_table
from orbitrec.errors import InputError
from orbitrec.io.cryosparc.job import read_records
from orbitrec.io.cryosparc.stream import _lz4_block, _snappy
from orbitrec.io.cryosparc.table import CryosparcTable
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack

COUNT = 6


def _records(**columns: object) -> np.ndarray:
    arrays = {name.replace("__", "/"): np.asarray(values) for name, values in columns.items()}
    out = np.zeros(COUNT, dtype=[(name, array.dtype, array.shape[1:]) for name, array in arrays.items()])
    for name, array in arrays.items():
        out[name] = array
    return out


UIDS = np.arange(100, 100 + COUNT, dtype=np.uint64)
POSES = _records(uid=UIDS, alignments3D__pose=np.zeros((COUNT, 3), np.float32))
IMAGES = _records(
    uid=UIDS, blob__path=np.array([b"J1/p.mrcs"] * COUNT), blob__idx=np.arange(COUNT, dtype=np.uint32),
    blob__psize_A=np.full(COUNT, 1.5, np.float32), blob__shape=np.full((COUNT, 2), 8, np.uint32),
)  # fmt: skip
CTF = _records(
    uid=UIDS, ctf__df1_A=[2e4] * COUNT, ctf__df2_A=[1.9e4] * COUNT, ctf__df_angle_rad=[0.5] * COUNT,
    ctf__accel_kv=[300.0] * COUNT, ctf__cs_mm=[2.7] * COUNT, ctf__amp_contrast=[0.1] * COUNT,
    ctf__phase_shift_rad=[0.0] * COUNT, location__micrograph_uid=UIDS + 7,
)  # fmt: skip


def _together(*tables: np.ndarray) -> np.ndarray:
    columns = {name.replace("/", "__"): table[name] for table in tables for name in table.dtype.names or ()}
    return _records(**columns)


def _save(path: Path, records: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        np.save(file, records, allow_pickle=False)
    return path


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The folder of job J2 of a project whose images are in J1."""
    for name in ("J1", "J2"):
        (tmp_path / name).mkdir()
    with StackWriter(tmp_path / "J1" / "p.mrcs", COUNT, 8, 1.5) as stack:
        stack.write(torch.randn(COUNT, 8, 8, generator=torch.Generator().manual_seed(0)))
    return tmp_path / "J2"


PAIRS = [
    ("particles_selected.cs", "J2_passthrough_particles_selected.cs"),
    ("J2_020_particles.cs", "J2_passthrough_particles.cs"),
    ("J2_particles.cs", "J2_passthrough_particles.cs"),
    ("extracted_particles.cs", "J2_passthrough_particles.cs"),
    ("J2_class_00_final_particles.cs", "J2_passthrough_particles_class_0.cs"),
    ("split_0.cs", "J2_passthrough_split_0.cs"),
    ("cryosparc_P1_J2_003_particles.cs", "P1_J2_passthrough_particles.cs"),
    ("cryosparc_P1_J2_class_01_00042_particles.cs", "P1_J2_passthrough_particles_class_1.cs"),
    ("particles_selected.cs", "P1_J2_passthrough_particles_selected.cs"),
]


@pytest.mark.parametrize(("table", "passthrough"), PAIRS)
def test_passthrough_files_of_every_version_are_joined(job: Path, table: str, passthrough: str) -> None:
    _save(job / table, POSES)
    _save(job / passthrough, _together(CTF, IMAGES)[::-1])
    # Of other outputs of the job, first in the alphabet, with other values.
    for other in ("J2_passthrough_a_particles_excluded.cs", "J2_passthrough_particles_class_7.cs"):
        wrong = _together(CTF, IMAGES)
        wrong["ctf/df1_A"] = 1.0
        _save(job / other, wrong)
    stack = ParticleStack.open(job / table)
    assert stack.ctf is not None
    assert stack.ctf.defocus_u_A.tolist() == [2e4] * COUNT
    assert stack.sources.section.tolist() == list(range(COUNT))


def test_passthrough_files_of_another_job_are_left_alone(job: Path) -> None:
    _save(job / "J2_020_particles.cs", POSES)
    _save(job / "J3_passthrough_particles.cs", _together(CTF, IMAGES))
    with pytest.raises(InputError, match="has no blob/path, only alignments3D; give the job's passthrough file"):
        ParticleStack.open(job / "J2_020_particles.cs")


def test_several_passthrough_files_are_joined_as_far_as_they_are_needed(job: Path) -> None:
    """CTF and images in two files, of which one has more particles, and one of the same output that lacks some."""
    table = _save(job / "J2_020_particles.cs", POSES)
    _save(job / "J2_passthrough_particles.cs", CTF[:3])
    _save(job / "J2_passthrough_particles_all.cs", np.concatenate([CTF[::-1], CTF[:0]]))
    _save(job / "J2_passthrough_particles_images.cs", IMAGES)
    stack = ParticleStack.open(table)
    assert stack.ctf is not None
    assert "location/micrograph_uid" in CryosparcTable.read(table).records.dtype.names
    _save(job / "J2_passthrough_particles_images.cs", IMAGES[1:])
    with pytest.raises(
        InputError, match=r"lacks \d of the 6 particles of .*J2_020_particles.cs, which has no blob/idx"
    ):
        ParticleStack.open(table)


def test_of_the_files_of_several_jobs_none_is_guessed(job: Path) -> None:
    table = _save(job / "particles.cs", _together(POSES, IMAGES))
    _save(job / "J2_passthrough_particles.cs", CTF)
    assert ParticleStack.open(table).ctf is not None
    _save(job / "J10_passthrough_particles.cs", CTF)
    with pytest.raises(InputError, match="passthrough"):
        ParticleStack.open(table)
    assert ParticleStack.open(table, passthrough=job / "J10_passthrough_particles.cs").ctf is not None


def test_a_damaged_file_of_no_known_output_is_passed_over(job: Path) -> None:
    table = _save(job / "J2_020_particles.cs", _together(POSES, IMAGES))
    (job / "other_passthrough_x.cs").write_bytes(b"\x93NUMPY\1\0damaged")
    assert len(ParticleStack.open(table, ctf=False)) == COUNT
    (job / "J2_passthrough_particles.cs").write_bytes(b"\x93NUMPY\1\0damaged")
    with pytest.raises(InputError, match=r"J2_passthrough_particles\.cs"):
        ParticleStack.open(table)


@pytest.mark.parametrize("given", [True, False])
def test_a_passthrough_file_that_is_not_needed_is_not_complained_of(job: Path, given: bool) -> None:
    table = _save(job / "J2_020_particles.cs", _together(POSES, IMAGES, CTF))
    other = _save(job / "J2_passthrough_particles.cs", CTF[:2])
    assert len(ParticleStack.open(table, passthrough=other if given else None)) == COUNT
    if not given:
        other.write_bytes(b"\x93NUMPY\1\0damaged")
        assert len(ParticleStack.open(table)) == COUNT


def test_a_passthrough_file_by_itself_is_named_with_its_table(job: Path) -> None:
    for iteration in ("000", "020"):
        _save(job / f"J2_{iteration}_particles.cs", _together(POSES, IMAGES))
    other = _save(job / "J2_passthrough_particles.cs", CTF)
    with pytest.raises(InputError, match=r"is a passthrough file.* the table that the job wrote, J2_020_particles.cs"):
        ParticleStack.open(other)


GROUP = """created: 2024-05-01 10:11:12.131415
group:
  description: All particles that were processed, including
    their alignments
  name: particles
  title: 'All: particles'
  type: particle
results:
  alignments3D:
    metafile: '>it''s.cs'
    num_items: 6
    type: particle.alignments3D
  blob:
    metafile: '>b.cs'
    num_items: 6
    type: particle.blob
  ctf:
    metafile: J2/c.cs
    num_items: 6
    type: particle.ctf
version: v4.4.1
"""


def test_a_result_group_is_read_as_the_files_it_lists(job: Path) -> None:
    (job / "particles.csg").write_text(GROUP)
    for name, records in (("it's.cs", POSES), ("b.cs", IMAGES[::-1]), ("c.cs", CTF)):
        _save(job / name, records)
    stack = ParticleStack.open(job / "particles.csg")
    assert stack.ctf is not None
    assert stack.poses() is not None
    assert stack.sources.section.tolist() == list(range(COUNT))[::-1]
    _save(job / "c.cs", CTF[1:])
    with pytest.raises(InputError, match=r"c\.cs lacks 1 of the 6 particles of .*b.cs"):
        ParticleStack.open(job / "particles.csg")
    (job / "c.cs").unlink()
    with pytest.raises(InputError, match=r"c\.cs: no such file"):
        ParticleStack.open(job / "particles.csg")


def test_a_group_of_fields_is_of_the_file_that_its_result_group_says(job: Path) -> None:
    """Also where the images' file, as a job's input, has older ones; what is missing may be in a passthrough file."""
    (job / "particles.csg").write_text(GROUP)
    older = POSES.copy()
    older["alignments3D/pose"] = 1.0
    for name, records in (("it's.cs", POSES), ("b.cs", _together(IMAGES, older)), ("c.cs", POSES[["uid"]])):
        _save(job / name, records)
    table = CryosparcTable.read(job / "particles.csg")
    assert not table.records["alignments3D/pose"].any()
    assert table.missing_ctf_columns()
    given = _save(job / "elsewhere.cs", CTF)
    assert not CryosparcTable.read(job / "particles.csg", passthrough=given).missing_ctf_columns()


def test_a_result_group_beside_a_table_says_what_belongs_to_it(job: Path) -> None:
    """Names that tell nothing, and groups of other things beside it."""
    table = _save(job / "x.cs", _together(POSES, IMAGES))
    _save(job / "y_passthrough.cs", CTF)
    (job / "exposures.csg").write_text(GROUP.replace("type: particle\n", "type: exposure\n"))
    group = GROUP.replace(">it''s.cs", ">x.cs").replace(">b.cs", ">x.cs").replace("J2/c.cs", "'>y_passthrough.cs'")
    (job / "x.csg").write_text(group)
    assert ParticleStack.open(table).ctf is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GROUP.replace("type: particle\n", "type: exposure\n"), "of the type exposure; give one of particles"),
        ("hello", "is no cryoSPARC result group: it lists no metafile"),
        ("\0\xff", "is no cryoSPARC result group"),
    ],
)
def test_what_is_no_group_of_particles_is_named(job: Path, text: str, said: str) -> None:
    (job / "p.csg").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=said):
        ParticleStack.open(job / "p.csg")


def test_posed_particles_are_a_group_to_import(job: Path) -> None:
    """One file with everything, uids and all columns of both files kept; a group of it with cryoSPARC's types."""
    _save(job / "J2_020_particles.cs", _together(POSES, _records(uid=UIDS, alignments_class_0__class=np.ones(COUNT))))
    _save(job / "J2_passthrough_particles.cs", _together(IMAGES, CTF))
    stack, run = ParticleStack.open(job / "J2_020_particles.cs"), job.parent / "run"
    run.mkdir()
    stack.write_posed(run / "posed.cs", torch.eye(3).expand(COUNT, 3, 3), torch.ones(COUNT, 2))
    written = np.load(run / "posed.cs")
    for name in CTF.dtype.names + IMAGES.dtype.names:
        np.testing.assert_array_equal(written[name], _together(IMAGES, CTF)[name])
    yaml = pytest.importorskip("yaml", reason="an independent reader of YAML")
    group = yaml.safe_load((run / "posed.csg").read_text())
    assert group["group"]["type"] == "particle"
    assert set(group["results"]) == {"alignments3D", "alignments_class_0", "blob", "ctf", "location"}
    assert {result["metafile"] for result in group["results"].values()} == {">posed.cs"}
    assert {result["num_items"] for result in group["results"].values()} == {COUNT}
    assert group["results"]["alignments_class_0"]["type"] == "particle.alignments3D"
    assert group["results"]["location"]["type"] == "particle.location"
    assert stack.table.companions == (".csg",)
    again = ParticleStack.open(run / "posed.csg")
    assert torch.equal(again.images(slice(None)), stack.images(slice(None)))


def test_paths_beside_a_group_follow_it_to_another_folder(job: Path) -> None:
    """``>`` begins a path that is relative to the file that holds it, as in exported groups."""
    images = _together(IMAGES, _records(blob__path=np.array([b">sub/p.mrcs"] * COUNT)))
    (job / "sub").mkdir()
    (job.parent / "J1" / "p.mrcs").rename(job / "sub" / "p.mrcs")
    stack, run = ParticleStack.open(_save(job / "p.cs", images), ctf=False), job.parent / "out" / "run"
    run.mkdir(parents=True)
    stack.write_posed(run / "posed.cs", torch.eye(3).expand(COUNT, 3, 3), torch.zeros(COUNT, 2))
    assert set(np.load(run / "posed.cs")["blob/path"]) == {b">../../J2/sub/p.mrcs"}
    assert torch.equal(ParticleStack.open(run / "posed.cs", ctf=False).images([4]), stack.images([4]))


def test_blocks_of_both_compressions_are_unpacked() -> None:
    """By hand from their descriptions: literals, a copy that overlaps what it appends, long counts."""
    assert _lz4_block(b"\x31abc\x03\x00\x50defgh", 13) == b"abc" + b"abcab" + b"defgh"
    assert _lz4_block(b"\x1fa\x01\x00\xff\x02\x00", 277) == b"a" * 277
    assert _snappy(b"\x0b\x08abc\x11\x03") == b"abc" + b"abcabcab"
    assert _snappy(b"\x46\xf0\x3c" + bytes(range(61)) + b"\x22\x3d\x00") == bytes(range(61)) + bytes(range(9))


@pytest.mark.parametrize(("codec", "ours"), [("lz4_raw", _lz4_block), ("snappy", None)])
def test_blocks_are_unpacked_as_arrow_packs_them(codec: str, ours: Callable[[bytes, int], bytes] | None) -> None:
    codec = pytest.importorskip("pyarrow", reason="an independent packer").Codec(codec)
    draw = np.random.default_rng(0)
    for data in (
        draw.integers(0, 256, 5000, dtype=np.uint8).tobytes(), bytes(70000), np.arange(9000, dtype="<u4").tobytes(),
        np.repeat(draw.integers(0, 99, 300), 40).tobytes(), b"x", draw.integers(0, 3, 100000, dtype=np.uint8).tobytes(),
    ):  # fmt: skip
        packed = bytes(codec.compress(data))
        assert (ours(packed, len(data)) if ours else _snappy(packed)) == data


@pytest.mark.parametrize("lz4", [True, False])
def test_compressed_tables_are_read_as_plain_ones(job: Path, lz4: bool) -> None:
    records = _together(POSES, IMAGES, CTF)
    records["blob/path"][3:] = b""
    (job / "p.cs").write_bytes(compressed_table(records, lz4))
    found = read_records(job / "p.cs")
    assert found.dtype.names == records.dtype.names
    for name in records.dtype.names:
        np.testing.assert_array_equal(found[name], records[name])
    records["blob/path"] = b"J1/p.mrcs"
    (job / "p.cs").write_bytes(compressed_table(records, lz4))
    stack = ParticleStack.open(job / "p.cs")
    stack.write_posed(job / "q.cs", torch.eye(3).expand(COUNT, 3, 3), torch.zeros(COUNT, 2))
    assert np.load(job / "q.cs")["uid"].tolist() == UIDS.tolist()


def _refusal(path: Path) -> str:
    try:
        assert len(read_records(path)) == COUNT
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("lz4", [True, False])
def test_damaged_compressed_tables_are_refused(job: Path, lz4: bool) -> None:
    """Cut anywhere, or with a byte changed: read or refused in a sentence, and never with too few particles."""
    whole, draw, said = compressed_table(_together(POSES, IMAGES, CTF), lz4), np.random.default_rng(1), []
    for at in range(0, len(whole) - 1, 7):
        (job / "p.cs").write_bytes(whole[:at])
        with pytest.raises(InputError, match=r"is not a cryoSPARC table|damaged cryoSPARC table or is truncated"):
            read_records(job / "p.cs")
    for at in draw.integers(6, len(whole), 150):
        (job / "p.cs").write_bytes(whole[:at] + bytes([draw.integers(256)]) + whole[at + 1 :])
        said.append(_refusal(job / "p.cs"))
        assert said[-1] == "" or "damaged cryoSPARC table" in said[-1]
    assert 20 < said.count("") < 149


def test_an_empty_compressed_table_lists_nothing(job: Path) -> None:
    (job / "p.cs").write_bytes(compressed_table(_together(POSES, IMAGES)[:0], True).split(b"}")[0] + b"}\0")
    with pytest.raises(InputError, match="lists no particles: its table is empty"):
        CryosparcTable.read(job / "p.cs")


def test_tables_of_python_objects_are_never_unpickled(job: Path) -> None:
    records = np.zeros(2, dtype=[("uid", "<u8"), ("blob/path", object)])
    with (job / "p.cs").open("wb") as file:
        np.save(file, records, allow_pickle=True)
    with pytest.raises(InputError, match="stores Python objects, which are never read"):
        read_records(job / "p.cs")

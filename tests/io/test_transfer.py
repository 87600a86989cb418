"""Poses on another table of the same particles: right rows, right origins, everything else as it was."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.transform import Rotation

from orbitrec.cli import main
from orbitrec.errors import InputError
from orbitrec.io.star import read_star
from orbitrec.io.tables import read_table
from orbitrec.io.transfer import transfer_poses

OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n1 {pixel}\n\ndata_particles\n\nloop_\n"
# Of the particles a, b, c, d: place in the micrograph, rot, tilt, psi, origins in Å, half-set.
PLACES = {
    "a": ("m1.mrc", 100.5, 20.25),
    "b": ("m1.mrc", 300.0, 40.0),
    "c": ("m2.mrc", 100.5, 20.25),
    "d": ("m2.mrc", 7, 8),
}
ANGLES = ("AngleRot", "AngleTilt", "AnglePsi")
POSES = {"a": "10 20 30 1.5 -3 1", "b": "40 50 60 0 6 2", "c": "70 80 -90 -4.5 0.75 1"}
POSED = OPTICS.format(pixel=3.0) + "".join(
    f"_rln{name}\n"
    for name in (
        "ImageName", "OpticsGroup", "MicrographName", "CoordinateX", "CoordinateY", "AngleRot", "AngleTilt", "AnglePsi",
        "OriginXAngst", "OriginYAngst", "RandomSubset",
    )
)  # fmt: skip
ORIGINAL = OPTICS.format(pixel=1.5) + (
    "_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnImageName\n_rlnOpticsGroup\n_myOwn\n"
)


def _place(name: str) -> str:
    return " ".join(map(str, PLACES[name]))


def _posed(folder: Path) -> Path:
    """Three particles of 3 Å, posed; the table names a micrograph in its own folder."""
    path = folder / "posed.star"
    rows = (f"00000{i + 1}@binned.mrcs 1 MotionCorr/job2/{_place(p)} {POSES[p]}\n" for i, p in enumerate("abc"))
    path.write_text(POSED + "".join(rows))
    return path


def _original(folder: Path, order: str, images: str = "whole.mrcs") -> Path:
    """Particles of 1.5 Å in another order: by their images' numbers alone they would be others."""
    path = folder / "original.star"
    rows = (f"Micrographs/{_place(p)}   000{i + 1}@Extract/{images} 1   own_{p}\n" for i, p in enumerate(order))
    path.write_text(ORIGINAL + "".join(rows))
    return path


def test_unbinned_particles_are_found_by_their_coordinates(tmp_path):
    """Also where images have the same names and are others, as after extracting again."""
    source, target = read_table(_posed(tmp_path)), read_table(_original(tmp_path, "cdba", images="binned.mrcs"))
    found = transfer_poses(source, target, tmp_path / "out.star")
    assert (found.by, found.rows.tolist()) == ("micrograph and coordinates", [0, 2, 3])
    old, new = (tmp_path / name for name in ("original.star", "out.star"))
    written = new.read_text().splitlines()
    values = [
        "70.000000 80.000000 -90.000000 -4.500000 0.750000 1",
        "40.000000 50.000000 60.000000 0.000000 6.000000 2",
    ]
    values.append("10.000000 20.000000 30.000000 1.500000 -3.000000 1")
    kept = old.read_text().splitlines()
    assert written[-3:] == [f"{kept[row]} {pose}" for row, pose in zip((-4, -2, -1), values, strict=True)]
    labels = ["AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "RandomSubset"]
    assert written[:-3] == [*kept[:-4], *(f"_rln{name} #{i + 7}" for i, name in enumerate(labels))]
    poses = read_table(new).poses()
    expected = Rotation.from_euler("ZYZ", [[70, 80, -90], [40, 50, 60], [10, 20, 30]], degrees=True).as_matrix()
    np.testing.assert_allclose(poses[0].numpy(), expected, atol=1e-6)
    assert poses[1].tolist() == [[4.5, -0.75], [0.0, -6.0], [-1.5, 3.0]]


def test_uids_and_names_across_dialects(tmp_path):
    """A cryoSPARC table has pixels of its own; one without uids is told by the images' names."""
    source = read_table(_posed(tmp_path))
    kinds = [("uid", "<u8"), ("blob/path", "S20"), ("blob/idx", "<u4"), ("blob/psize_A", "<f4"), ("my/own", "<i4")]
    records = np.zeros(4, kinds)
    records["uid"], records["my/own"], records["blob/psize_A"] = [9, 8, 7, 6], [1, 2, 3, 4], 1.5
    records["blob/path"], records["blob/idx"] = b"J5/binned.mrcs", [3, 2, 1, 0]

    def saved(name: str, content: np.ndarray) -> Path:
        with (tmp_path / name).open("wb") as file:
            np.save(file, content)
        return tmp_path / name

    target = read_table(saved("t.cs", records))
    found = transfer_poses(source, target, tmp_path / "first.cs")
    assert (found.by, found.rows.tolist(), found.source.tolist()) == ("image name", [1, 2, 3], [2, 1, 0])
    written = np.load(tmp_path / "first.cs")
    assert written["my/own"].tolist() == [2, 3, 4]
    assert written["alignments3D/shift"].tolist() == [[-3.0, 0.5], [0.0, 4.0], [1.0, -2.0]]
    assert written["alignments3D/split"].tolist() == [0, 1, 0]
    # The same by uid, onto other images in another order.
    records["blob/path"], records["uid"], records["blob/psize_A"] = b"J7/whole.mrcs", [6, 7, 8, 5], 0.75
    found = transfer_poses(
        read_table(tmp_path / "first.cs"), read_table(saved("u.cs", records)), tmp_path / "second.cs"
    )
    assert (found.by, found.rows.tolist(), found.source.tolist()) == ("uid", [0, 1, 2], [2, 1, 0])
    again = np.load(tmp_path / "second.cs")
    assert again["alignments3D/shift"].tolist() == [[2.0, -4.0], [0.0, 8.0], [-6.0, 1.0]]
    assert torch.equal(
        read_table(tmp_path / "second.cs").poses()[1], read_table(tmp_path / "first.cs").poses()[1].flip(0)
    )


def test_copies_belong_together_in_their_order(tmp_path):
    """Of a table with every particle in two rows, as after symmetry expansion, the second is the second."""
    source = _posed(tmp_path)
    rows = source.read_text().splitlines(keepends=True)
    source.write_text("".join([*rows, *(row.replace("40 50 60", "41 51 61") for row in rows[-3:])]))
    found = transfer_poses(read_table(source), read_table(_original(tmp_path, "bcadacb")), tmp_path / "out.star")
    assert found.rows.tolist() == [0, 1, 2, 4, 5, 6]
    assert found.source.tolist() == [1, 2, 0, 3, 5, 4]
    assert read_star(tmp_path / "out.star")["particles"]["rlnAngleRot"].tolist() == [40, 70, 10, 10, 70, 41]


def test_stacks_of_one_name_are_told_by_their_folders(tmp_path):
    def table(name: str, images: list[str]) -> Path:
        path = tmp_path / name
        columns = "".join(f"_rln{column}\n" for column in ("ImageName", "OpticsGroup", *ANGLES))
        rows = "".join(f"{image} 1 {10 * i} 20 30\n" for i, image in enumerate(images))
        path.write_text(OPTICS.format(pixel=1.5) + columns + rows)
        return path

    posed = table("posed.star", ["1@/a/Extract/m1/p.mrcs", "1@/a/Extract/m2/p.mrcs"])
    original = table("original.star", ["1@Extract/m2/p.mrcs", "2@Extract/m2/p.mrcs", "1@Extract/m1/p.mrcs"])
    found = transfer_poses(read_table(posed), read_table(original), tmp_path / "out.star")
    assert (found.by, found.rows.tolist(), found.source.tolist()) == ("image name", [0, 2], [1, 0])


def test_what_cannot_be_told_is_refused(tmp_path):
    posed = read_table(_posed(tmp_path))
    with pytest.raises(InputError, match=r"original.star has no particle of .*, going by micrograph and coordinates"):
        transfer_poses(posed, read_table(_original(tmp_path, "d")), tmp_path / "out.star")
    sentence = r"original.star has 2 rows of one micrograph and coordinates, that of row 1, and .*posed.star has 1, so"
    with pytest.raises(InputError, match=sentence):
        transfer_poses(posed, read_table(_original(tmp_path, "aba")), tmp_path / "out.star")
    original = read_table(_original(tmp_path, "ab"))
    with pytest.raises(InputError, match=r"original.star has no poses to transfer"):
        transfer_poses(original, posed, tmp_path / "out.star")
    assert not (tmp_path / "out.star").exists()


def test_the_command(tmp_path, capsys, monkeypatch):
    """On a real run's folder: 18 of its particles, at a pixel size of 1.5 Å instead of 3."""
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[1] / "report" / "version_0_1", run)
    posed = read_star(run / "particles.star")["particles"]
    count, kept = len(posed), list(range(0, len(posed), 2))
    names = posed["rlnImageName"].iloc[kept]
    text = OPTICS.format(pixel=1.5) + "_rlnImageName\n_rlnOpticsGroup\n" + "".join(f"{name} 1\n" for name in names)
    (tmp_path / "half.star").write_text(text + "000077@other.mrcs 1\n")

    def transferred(*options: object) -> int:
        with pytest.raises(SystemExit) as exit_info:
            main.run(["transfer", str(run), "--onto", str(tmp_path / "half.star"), *map(str, options)])
        return exit_info.value.code or 0

    assert transferred() == 0
    said = capsys.readouterr().out.replace("\n", "")
    assert said.startswith(f"{len(kept)} of {len(kept) + 1} rows of {tmp_path / 'half.star'} have poses of {run}")
    assert said.endswith(
        f"told by image name: {run / 'half_posed.star'}; {count - len(kept)} particles of the run are not in it"
    )
    written = read_star(run / "half_posed.star")["particles"]
    for column in (
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnAnglePsi",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnRandomSubset",
    ):
        np.testing.assert_allclose(written[column], posed[column].iloc[kept], atol=2e-6)
    assert transferred() == 2
    assert "exists already; choose another --output" in capsys.readouterr().err

    statistics = pd.DataFrame(
        {
            "log_likelihood": np.linspace(1.0, 9.0, count),
            "inlier_probability": 1.0,
            "max_probability": np.linspace(0.2, 0.8, count),
            "significant_samples": np.arange(count) + 1,
            "cross_correlation": 6.0,
            "slice_power": 2.0,
        }
    )
    statistics.to_csv(run / "particle_statistics.csv", index=False)
    assert transferred("-o", tmp_path / "known.star") == 0
    known = read_star(tmp_path / "known.star")["particles"]
    for column, name in (
        ("rlnMaxValueProbDistribution", "max_probability"),
        ("rlnLogLikeliContribution", "log_likelihood"),
        ("rlnNrOfSignificantSamples", "significant_samples"),
    ):
        np.testing.assert_allclose(known[column], statistics[name].iloc[kept], atol=1e-5)
    statistics.iloc[1:].to_csv(run / "particle_statistics.csv", index=False)
    assert transferred("-o", tmp_path / "fewer.star") == 2
    assert f"lists {count - 1} particles and the run's table {count}" in capsys.readouterr().err
    assert not (tmp_path / "fewer.star").exists()

    (run / "summary.json").unlink()
    assert transferred("-o", tmp_path / "x.star") == 2
    assert "holds no finished run" in capsys.readouterr().err

"""Particle stacks: real files of both RELION dialects, and sets written here and read back."""

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from orbitrec.cryoem.preprocess import preprocess
from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.rotations import geodesic_distance, random_rotations
from orbitrec.io.mrc import StackWriter, read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import read_star, write_star


def _noise(count: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, n, n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile misses the "MAP" mark in this file
def test_relion31_file(shared_data: Path) -> None:
    stack = ParticleStack.open(shared_data / "particles" / "relion31.star")
    assert (len(stack), stack.n, stack.pixel_size_A) == (5, 256, 2.806)
    assert stack.ctf is not None
    assert stack.ctf.defocus_u_A[0] == 13108.082418
    assert stack.ctf.voltage_kV.tolist() == [300.0] * 5
    assert stack.ctf.amplitude_contrast.tolist() == [0.1] * 5
    poses = stack.poses()
    assert poses is not None
    torch.testing.assert_close(poses[1][0], -torch.tensor([0.019324, -0.64686], dtype=torch.float64) / 2.806)
    with mrcfile.open(shared_data / "particles" / "relion31.mrcs", permissive=True) as mrc:
        np.testing.assert_array_equal(stack.images([3, 0]).numpy(), mrc.data[[3, 0]])
    assert "rlnLogLikeliContribution" in stack.table.particles
    assert stack.table.optics is not None


def test_relion30_file(shared_data: Path) -> None:
    stack = ParticleStack.open(shared_data / "particles" / "empiar_10076_7.star")
    assert (len(stack), stack.n) == (7, 320)
    assert stack.pixel_size_A == pytest.approx(5e4 / 38168, abs=1e-6)
    assert stack.table.optics is None
    assert stack.poses() is None
    assert stack.ctf is not None
    assert stack.ctf.cs_mm.tolist() == [2.7] * 7
    assert stack.images(slice(None)).shape == (7, 320, 320)


def test_images_in_any_order_across_stacks(tmp_path: Path) -> None:
    images = _noise(6, 5)
    with mrcfile.new(tmp_path / "a.mrcs", data=images[:4].numpy()) as mrc:
        mrc.set_image_stack()
    with mrcfile.new(tmp_path / "b.mrcs", data=(100 * images[4:]).numpy().astype(np.int16)) as mrc:
        mrc.set_image_stack()
    images[4:] = (100 * images[4:]).to(torch.int16)
    names = ["2@b.mrcs", "000001@a.mrcs", "4@a.mrcs", "3@a.mrcs", "1@b.mrcs", "2@a.mrcs"]
    order = [5, 0, 3, 2, 4, 1]
    write_star(tmp_path / "p.star", {"": pd.DataFrame({"rlnImageName": names, "rlnImagePixelSize": 1.0})})
    stack = ParticleStack.open(tmp_path / "p.star", ctf=False)
    assert stack.ctf is None
    torch.testing.assert_close(stack.images(slice(None)), images[order], rtol=0, atol=0)
    for rows in ([4, 1, 1, 5], range(1, 5), np.array([0]), torch.tensor([5, 3]), slice(4, 0, -2), []):
        picked = list(range(6))[rows] if isinstance(rows, slice) else [int(row) for row in rows]
        torch.testing.assert_close(stack.images(rows), images[order][picked], rtol=0, atol=0)
    with pytest.raises(IndexError):
        stack.images([6])


def test_stacks_are_found_in_datadir(tmp_path: Path, write_particles) -> None:
    star = write_particles(_noise(3, 4))
    other = tmp_path / "elsewhere"
    other.mkdir()
    (tmp_path / "particles.mrcs").rename(other / "particles.mrcs")
    with pytest.raises(InputError, match=r"stack particles.mrcs of row 1 is not found .* as `datadir`"):
        ParticleStack.open(star)
    torch.testing.assert_close(ParticleStack.open(star, datadir=other).images([1]), _noise(3, 4)[1:2])
    with pytest.raises(InputError, match=r"^`datadir`: .*nowhere is not a folder"):
        ParticleStack.open(star, datadir=tmp_path / "nowhere")


@pytest.mark.parametrize("n", [6, 7])
def test_written_sets_come_back(tmp_path: Path, write_particles, n: int) -> None:
    stack = ParticleStack.open(write_particles(_noise(4, n)))
    assert (stack.n, stack.pixel_size_A, stack.poses()) == (n, 1.5, None)
    assert stack.ctf is not None
    assert stack.ctf.defocus_u_A.tolist() == [10000.0, 10001.0, 10002.0, 10003.0]
    assert stack.ctf.defocus_angle_deg.tolist() == [30.0] * 4
    torch.testing.assert_close(stack.images(range(4)), _noise(4, n), rtol=0, atol=0)
    rotations, shifts = random_rotations(4, torch.Generator().manual_seed(1)), torch.randn(4, 2, dtype=torch.float64)
    tables = particle_tables("particles.mrcs", 4, n, 1.5, ctf=stack.ctf, rotations=rotations, shifts_px=shifts)
    write_star(tmp_path / "truth.star", tables)
    poses = ParticleStack.open(tmp_path / "truth.star").poses()
    assert poses is not None
    assert geodesic_distance(poses[0], rotations).max() < 1e-7
    torch.testing.assert_close(poses[1], shifts, rtol=0, atol=1e-6)


def test_optics_groups_follow_the_microscope(tmp_path: Path, write_particles) -> None:
    stack = ParticleStack.open(write_particles(_noise(3, 4)))
    assert stack.ctf is not None
    stack.ctf.voltage_kV[1] = 200.0
    write_star(tmp_path / "two.star", particle_tables("particles.mrcs", 3, 4, 1.5, ctf=stack.ctf))
    again = ParticleStack.open(tmp_path / "two.star")
    assert again.ctf is not None
    assert again.ctf.voltage_kV.tolist() == [300.0, 200.0, 300.0]
    assert again.table.optics is not None
    assert len(again.table.optics) == 2


@pytest.mark.parametrize("name", ["relion31", "empiar_10076_7"])
def test_posed_star_keeps_everything_else(shared_data: Path, tmp_path: Path, name: str) -> None:
    stack = ParticleStack.open(shared_data / "particles" / f"{name}.star")
    count = len(stack)
    rotations = random_rotations(count, torch.Generator().manual_seed(2)).float()
    shifts = torch.randn(count, 2, generator=torch.Generator().manual_seed(3))
    folder = tmp_path / "run"
    folder.mkdir()
    stack.write_posed(folder / "particles.star", rotations, shifts)
    again = ParticleStack.open(folder / "particles.star")
    poses = again.poses()
    assert poses is not None
    assert geodesic_distance(poses[0], rotations.double()).max() < 2e-3  # float32 near its own resolution
    torch.testing.assert_close(poses[1], shifts.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(again.images(slice(None)), stack.images(slice(None)), rtol=0, atol=0)
    changed = {"rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"}
    changed |= {"rlnOriginXAngst", "rlnOriginYAngst"}
    kept = [column for column in stack.table.particles if column not in changed]
    pd.testing.assert_frame_equal(again.table.particles[kept], stack.table.particles[kept], check_dtype=False)
    assert ("rlnOriginX" in again.table.particles) == (stack.table.optics is None)
    if stack.table.optics is not None:
        pd.testing.assert_frame_equal(again.table.optics, stack.table.optics, check_dtype=False)


@pytest.mark.parametrize("dialect", ["3.1", "3.0"])
def test_relion_reconstructs_from_a_posed_star(shared_data: Path, tmp_path: Path, dialect: str) -> None:
    """RELION's map from our file is its map from its own file, started in another folder than either."""
    program = shutil.which("relion_reconstruct")
    if program is None:
        pytest.skip("RELION is not installed")
    source = shared_data / "reference" / "relion" / "emd_0409_ctf_shifted.star"
    stack = ParticleStack.open(source)
    if dialect == "3.0":
        stack = ParticleStack.open(_as_relion30(source, tmp_path / "old.star"), datadir=source.parent)
    poses = ParticleStack.open(source).poses()
    assert poses is not None
    (tmp_path / "run").mkdir()
    stack.write_posed(tmp_path / "run" / "particles.star", *poses)
    for star, out, folder in ((source.name, "theirs", source.parent), ("run/particles.star", "ours", tmp_path)):
        command = [program, "--i", star, "--o", str(tmp_path / f"{out}.mrc"), "--ctf", "--pad", "1"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    theirs, ours = (read_map(tmp_path / f"{out}.mrc", 2.234)[0].flatten() for out in ("theirs", "ours"))
    assert torch.corrcoef(torch.stack([theirs, ours]))[0, 1] > 0.9999


@pytest.mark.parametrize("name", ["relion31", "empiar_10076_7"])
def test_statistics_have_relions_columns(shared_data: Path, tmp_path: Path, made_statistics, name: str) -> None:
    """RELION reads them as the numbers that they are: it selects by each of them."""
    stack = ParticleStack.open(shared_data / "particles" / f"{name}.star")
    count = len(stack)
    statistics, posed = made_statistics(count), tmp_path / "posed.star"
    poses = random_rotations(count, torch.Generator().manual_seed(1)), torch.zeros(count, 2)
    stack.write_posed(posed, *poses, statistics=statistics)
    columns = {
        "rlnLogLikeliContribution": statistics.log_likelihood,
        "rlnMaxValueProbDistribution": statistics.max_probability,
        "rlnNrOfSignificantSamples": statistics.significant_samples,
        "rlnParticleFigureOfMerit": statistics.inlier_probability,
        "rlnGroupScaleCorrection": statistics.cross_correlation / (2 * statistics.slice_power),
    }
    found = ParticleStack.open(posed).table.particles
    for column, values in columns.items():
        np.testing.assert_allclose(found[column].astype(float), values.numpy(), atol=1e-6)
    program = shutil.which("relion_star_handler")
    if program is None:
        pytest.skip("RELION is not installed")
    for column, values in columns.items():
        middle = float(values.double().median())
        # The file has six digits, so that the limit must not be a value.
        limits = ["--minval", str(middle + 1e-5), "--maxval", "1e9"]
        command = [program, "--i", "posed.star", "--o", "kept.star", "--select", column, *limits]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        assert "unknown label" not in done.stderr + done.stdout
        kept = ParticleStack.open(tmp_path / "kept.star").table.particles["rlnImageName"]
        assert kept.tolist() == found["rlnImageName"][(values.double() > middle + 1e-5).tolist()].tolist()


def _as_relion30(source: Path, target: Path) -> Path:
    blocks = starfile.read(source)
    table = blocks["particles"].drop(columns=["rlnOpticsGroup", "rlnOriginXAngst", "rlnOriginYAngst"])
    table["rlnVoltage"], table["rlnSphericalAberration"], table["rlnAmplitudeContrast"] = 300.0, 2.0, 0.1
    table["rlnMagnification"], table["rlnDetectorPixelSize"] = 10000.0, 2.234
    starfile.write({"": table}, target)
    return target


def test_names_that_look_like_numbers_are_kept(tmp_path: Path) -> None:
    table = pd.DataFrame({"rlnMicrographName": ["0012", "7"], "rlnCoordinateX": [1e-7, 123456.789012]})
    write_star(tmp_path / "a.star", {"": table})
    pd.testing.assert_frame_equal(read_star(tmp_path / "a.star")[""], table, check_dtype=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_with_nan_name_their_row(write_particles, value: float) -> None:
    star = write_particles(_noise(4, 6))
    with mrcfile.mmap(star.with_suffix(".mrcs"), mode="r+") as mrc:
        mrc.data[2, 1, 3] = value
    stack = ParticleStack.open(star)
    assert stack.images([0, 1, 3]).isfinite().all()
    with pytest.raises(InputError, match=r"row 3 \(image 3 of .*particles.mrcs\) holds NaN or infinite"):
        stack.images([3, 2])


def test_constant_images_name_their_row(write_particles) -> None:
    images = _noise(4, 6)
    images[3] = 0
    stack = ParticleStack.open(write_particles(images))
    with pytest.raises(InputError, match=r"row 4 .*is constant"):
        stack.images(slice(2, 4))
    with pytest.raises(InputError, match=r"row 4 .*is constant"):
        stack.images([-1])


def test_a_set_without_ctf_needs_no_ctf(write_particles) -> None:
    star = write_particles(_noise(2, 4))
    blocks = read_star(star)
    blocks["particles"] = blocks["particles"].drop(columns="rlnDefocusV")
    write_star(star, blocks)
    with pytest.raises(InputError, match="no CTF columns rlnDefocusV; add them, or use `ctf=False`"):
        ParticleStack.open(star)
    assert ParticleStack.open(star, ctf=False).ctf is None


def test_names_with_spaces_come_back(write_particles) -> None:
    stack = ParticleStack.open(write_particles(_noise(2, 4), name="my particles"))
    torch.testing.assert_close(stack.images([1]), _noise(2, 4)[1:], rtol=0, atol=0)


def _flipped(star: Path, images: torch.Tensor) -> Path:
    """The set with its phases flipped at every second particle, each in an optics group that says so."""
    stack = ParticleStack.open(star)
    assert stack.ctf is not None
    signs = torch.where(stack.ctf.on_grid(images.shape[-1], 1.5)[::2] < 0, -1.0, 1.0)
    changed = images.clone()
    changed[::2] = centred_ifft(centred_fft(images[::2]) * signs).real
    blocks = read_star(star)
    optics = pd.concat([blocks["optics"]] * 2, ignore_index=True)
    blocks["optics"] = optics.assign(rlnOpticsGroup=[1, 2], rlnCtfDataArePhaseFlipped=[1, 0])
    blocks["particles"]["rlnOpticsGroup"] = [1 + i % 2 for i in range(len(images))]
    blocks["particles"]["rlnImageName"] = [f"{i + 1}@flipped.mrcs" for i in range(len(images))]
    with StackWriter(star.parent / "flipped.mrcs", len(images), images.shape[-1], 1.5) as out:
        out.write(changed)
    write_star(star.parent / "flipped.star", blocks)
    return star.parent / "flipped.star"


@pytest.mark.parametrize("n", [24, 25])
def test_phase_flipped_images_are_the_plain_ones(write_particles, n: int) -> None:
    """Multiplied by the sign of their CTF they are the images that were flipped, but for the last frequency."""
    images = _noise(6, n)
    stack = ParticleStack.open(_flipped(write_particles(images), images))
    assert stack.phase_flipped.tolist() == [True, False] * 3
    assert float((ParticleStack.open(stack.table.path, ctf=False).images([0]) - images[0]).norm()) > 5
    error = centred_fft(stack.images(slice(None)) - images)
    error = error[:, 1:, 1:] if n % 2 == 0 else error
    assert float(error.abs().max()) < 1e-5


def test_phase_flipped_and_plain_sets_are_filtered_alike(write_particles) -> None:
    """In an odd box: the last frequency of an even one does not come back."""
    images = _noise(6, 25)
    star = write_particles(images)
    plain, flipped = ParticleStack.open(star), ParticleStack.open(_flipped(star, images))
    modes = [preprocess(stack, 2.0, 10.0).modes for stack in (plain, flipped)]
    assert float((modes[0] - modes[1]).abs().max() / modes[0].abs().max()) < 1e-5


def test_flipped_images_that_were_then_multiplied_are_read_as_multiplied(write_particles) -> None:
    star = write_particles(_noise(2, 4))
    blocks = read_star(star)
    blocks["optics"] = blocks["optics"].assign(rlnCtfDataArePhaseFlipped=1, rlnCtfDataAreCtfPremultiplied=1)
    write_star(star, blocks)
    stack = ParticleStack.open(star)
    assert (stack.premultiplied.tolist(), stack.phase_flipped.tolist()) == ([True, True], [False, False])
    assert torch.equal(stack.images(slice(None)), _noise(2, 4))


TILTS = """data_general

_rlnTomoSubTomosAre2DStacks 1

data_optics

loop_
_rlnOpticsGroup
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
_rlnImageSize
_rlnImageDimensionality
1 300 2.7 0.1 1.5 4 2

data_particles

loop_
_rlnTomoName
_rlnImageName
_rlnOpticsGroup
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
TS_01 1@particles.mrcs 1 10000 9000 30
TS_01 2@particles.mrcs 1 10000 9000 30
"""


def test_tilt_images_are_particles_and_stacks_of_them_are_not(write_particles, shared_data: Path) -> None:
    """RELION 5's ``rlnTomo`` tables: rows of single tilt images are read, rows of whole series are refused."""
    star = write_particles(_noise(2, 4))
    star.write_text(TILTS)
    stack = ParticleStack.open(star)
    assert (len(stack), stack.ctf is not None) == (2, True)
    star.write_text(TILTS.replace("1@", "").replace("2@", ""))
    said = "lists stacks of the tilt images of 2 particles, whose tilts and defocus are in the table of tomograms"
    with pytest.raises(InputError, match=said):
        ParticleStack.open(star)
    star.write_text(TILTS.replace(" 4 2\n", " 4 3\n"))
    with pytest.raises(InputError, match="lists subtomograms"):
        ParticleStack.open(star)
    tables = shared_data / "tables"
    if tables.is_dir():
        with pytest.raises(InputError, match="lists stacks of the tilt images"):
            ParticleStack.open(tables / "cylindra_run_it025_data.star")


def test_unmodelled_columns_are_named(write_particles) -> None:
    star = write_particles(_noise(2, 4))
    blocks = read_star(star)
    blocks["optics"] = blocks["optics"].assign(rlnBeamTiltX=0.1, rlnBeamTiltY=0.0, rlnOddZernike="[0.1,0.2]")
    blocks["particles"]["rlnCtfScalefactor"] = 1.0
    write_star(star, blocks)
    assert ParticleStack.open(star).table.ignored_columns() == ["rlnBeamTiltX", "rlnOddZernike"]

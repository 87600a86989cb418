import math

import pandas as pd
import pytest
import torch

from orbitrec.cli.main import run
from orbitrec.io.mrc import read_map, write_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import read_star, write_star
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.phantoms import protein_phantom
from orbitrec.volumes.voxel import VoxelVolume


def simulate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        run(["simulate", "cryoem", *map(str, arguments)])
    return int(exit_.value.code or 0)


@pytest.fixture
def map_file(tmp_path):
    path = tmp_path / "map.mrc"
    write_map(path, protein_phantom(30, 0.3 * 25, torch.Generator().manual_seed(0)).to_grid(25), 4.0)
    return path


@pytest.fixture
def ctf_file(tmp_path):
    path = tmp_path / "ctf.star"
    rows = {"rlnDefocusU": [15000.0, 21000.0], "rlnDefocusV": [14500.0, 20500.0], "rlnDefocusAngle": [10.0, -35.0]}
    write_star(path, {"particles": pd.DataFrame(rows)})
    return path


def test_truth_explains_the_images_down_to_the_noise(tmp_path, map_file):
    out, count = tmp_path / "made" / "here", 150
    assert simulate("--map", map_file, "-n", count, "--snr", 0.2, "-o", out) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "particles.mrcs", "particles.star", "truth.mrc", "truth.star"
    ]  # fmt: skip
    truth = ParticleStack.open(out / "truth.star")
    grid, pixel_size_A = read_map(out / "truth.mrc")
    rotations, shifts_px = truth.poses()
    clean = ParticleSimulation(VoxelVolume(grid), 25, pixel_size_A, rotations, shifts_px, truth.ctf)
    rows = torch.arange(count)
    residual = (truth.images(rows) - clean.clean(rows)).double()
    # The noise has variance 1, whose estimate has the relative error √(2/pixels).
    assert abs(float(residual.var()) - 1) < 5 * math.sqrt(2 / residual.numel())
    assert clean.signal_variance() == pytest.approx(0.2, rel=1e-3)
    original, _ = read_map(map_file)
    assert torch.allclose(grid / grid.max(), original / original.max(), atol=1e-6)
    assert float(grid.max()) > 0


def test_particles_are_blind(tmp_path, map_file):
    out = tmp_path / "out"
    assert simulate("--map", map_file, "-n", 3, "-o", out) == 0
    blind = ParticleStack.open(out / "particles.star")
    truth = ParticleStack.open(out / "truth.star")
    assert not [column for column in blind.table.particles if "Angle" in column and "Defocus" not in column]
    assert not [column for column in blind.table.particles if "Origin" in column]
    assert torch.equal(blind.images(slice(None)), truth.images(slice(None)))
    assert torch.equal(blind.ctf.defocus_u_A, truth.ctf.defocus_u_A)


def test_ctf_rows_are_cycled_and_optics_can_be_set(tmp_path, map_file, ctf_file):
    out = tmp_path / "out"
    assert simulate("--map", map_file, "-n", 5, "--ctf", ctf_file, "--voltage", 200, "-o", out) == 0
    ctf = ParticleStack.open(out / "particles.star").ctf
    assert ctf.defocus_u_A.tolist() == [15000, 21000, 15000, 21000, 15000]
    assert ctf.defocus_angle_deg.tolist() == [10, -35, 10, -35, 10]
    assert (ctf.voltage_kV.unique().item(), ctf.cs_mm.unique().item()) == (200, 2.0)


def test_optics_come_from_the_file_that_has_them(tmp_path, map_file, shared_data):
    out = tmp_path / "out"
    source = shared_data / "particles" / "relion31.star"
    assert simulate("--map", map_file, "-n", 4, "--ctf", source, "-o", out) == 0
    expected, made = ParticleStack.open(source).ctf, ParticleStack.open(out / "particles.star").ctf
    for name in ("voltage_kV", "cs_mm", "amplitude_contrast", "defocus_u_A", "defocus_v_A"):
        assert torch.allclose(getattr(made, name), getattr(expected, name)[:4])


def test_no_ctf_no_noise_no_shift(tmp_path):
    out = tmp_path / "out"
    arguments = ["--phantom", 20, "--box", 24, "--pixel-size", 5, "--views", "uniform", "--no-ctf", "--shift-px", 0]
    assert simulate(*arguments, "--snr", "inf", "-n", 3, "-o", out) == 0
    assert "rlnDefocusU" not in read_star(out / "particles.star")["particles"]
    truth = ParticleStack.open(out / "truth.star", ctf=False)
    grid, pixel_size_A = read_map(out / "truth.mrc")
    rotations, shifts_px = truth.poses()
    assert pixel_size_A == 5
    assert torch.equal(shifts_px, torch.zeros(3, 2).double())
    clean = ParticleSimulation(VoxelVolume(grid), 24, 5.0, rotations, shifts_px).clean(torch.arange(3))
    assert torch.allclose(truth.images(slice(None)), clean, atol=1e-5 * float(clean.max()))


def test_seed_decides(tmp_path):
    images = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate("--phantom", 20, "--box", 16, "-n", 4, "--seed", seed, "-o", tmp_path / name)
        images.append(ParticleStack.open(tmp_path / name / "particles.star").images(slice(None)))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--map", "MAP", "--phantom", "20"], "either --map FILE or --phantom ATOMS"),
        ([], "either --map FILE or --phantom ATOMS"),
        (["--map", "no_such.mrc"], "no such file"),
        (["--map", "MAP", "--snr", "0"], "must be positive"),
        (["--map", "MAP", "--ctf", "CTF", "--no-ctf"], "exclude each other"),
        (["--map", "MAP", "--ctf", "no_such.star"], "no such file"),
        (["--map", "MAP", "--ctf", "EMPTY"], "rlnDefocusU"),
        (["--map", "FLAT"], "no density"),
        (["--phantom", "20", "--no-ctf", "--voltage", "200"], "--voltage, --cs and --amplitude-contrast are of a CTF"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, capsys, map_file, ctf_file, arguments, sentence):
    flat, empty = tmp_path / "flat.mrc", tmp_path / "empty.star"
    write_map(flat, torch.zeros(8, 8, 8), 1.0)
    write_star(empty, {"particles": pd.DataFrame({"rlnVoltage": [300.0, 300.0]})})
    names = {"MAP": map_file, "CTF": ctf_file, "FLAT": flat, "EMPTY": empty}
    out = tmp_path / "out"
    assert simulate(*(names.get(a, a) for a in arguments), "-n", 3, "-o", out) == 2
    message = capsys.readouterr().err.strip()
    assert sentence in message
    assert "\n" not in message
    assert not out.exists()


@pytest.mark.parametrize(("option", "value"), [("--pixel-size", "inf"), ("--shift-px", "inf"), ("--box", "1000000")])
def test_numbers_that_no_particle_has_are_refused(tmp_path, capsys, option, value):
    assert simulate("--phantom", 20, "-n", 3, option, value, "-o", tmp_path / "out") == 2
    assert f"Invalid value for '{option}'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(tmp_path, capsys, map_file):
    out = tmp_path / "out"
    out.mkdir()
    (out / "particles.star").write_text("precious")
    assert simulate("--map", map_file, "-n", 3, "-o", out) == 2
    assert str(out) in capsys.readouterr().err
    assert (out / "particles.star").read_text() == "precious"
    assert len(list(out.iterdir())) == 1

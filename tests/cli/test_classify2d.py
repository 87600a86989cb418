"""``orbitrec classify2d`` and what is made of its folder: tables, selections, the page, and RELION's reading of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

from orbitrec.api import open_particles, simulate_particles
from orbitrec.cli import main
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import read_star
from orbitrec.models.ctf import CTFParameters
from orbitrec.volumes.phantoms import protein_phantom

COUNT, BOX, CLASSES = 160, 32, 4


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code or 0


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles of a phantom at five defoci."""
    folder = tmp_path_factory.mktemp("classes") / "made"
    density = protein_phantom(40, 0.27 * BOX, torch.Generator().manual_seed(5)).to_grid(BOX).float()
    one = torch.ones(COUNT, dtype=torch.float64)
    defocus = 2000 + 1000.0 * (torch.arange(COUNT) % 5).double()
    ctf = CTFParameters(defocus + 150, defocus - 150, 40 * one, 300 * one, 2 * one, 0.1 * one, 0 * one)
    simulate_particles(folder, density, 3.0, COUNT, snr=2.0, shift_px=1.0, ctf=ctf)
    return folder / "particles.star"


@pytest.fixture(scope="module")
def run(particles: Path) -> Path:
    folder = particles.parent.parent / "run"
    assert _run("classify2d", particles, "-k", CLASSES, "-o", folder) == 0
    return folder


def test_a_run_has_its_files_and_they_agree(run, particles):
    summary = json.loads((run / "summary.json").read_text())
    table = read_star(run / "particles.star")["particles"]
    rows, classes = pd.read_csv(run / "particle_classes.csv"), pd.read_csv(run / "classes.csv")
    with mrcfile.open(run / "classes.mrcs") as stack:
        assert stack.data.shape == (CLASSES, BOX, BOX)
        assert float(stack.voxel_size.x) == pytest.approx(summary["pixel_size_A"])
        assert np.isfinite(stack.data).all()
        assert stack.data.std() > 0
    assert table["rlnClassNumber"].tolist() == rows["class"].tolist()
    assert table["rlnMaxValueProbDistribution"].to_numpy() == pytest.approx(rows["probability"].to_numpy(), abs=1e-5)
    assert set(rows["class"]) <= set(range(1, CLASSES + 1))
    likely = rows[rows["inlier_probability"] >= 0.5]
    assert [int((likely["class"] == number).sum()) for number in classes["number"]] == classes["members"].tolist()
    assert classes["members"].is_monotonic_decreasing
    good = set(classes["number"][classes["good"]])
    assert (rows["kept"] == (rows["class"].isin(good) & (rows["inlier_probability"] >= 0.5))).all()
    assert summary["kept"] == rows["kept"].sum() > 0
    kept = read_star(run / "kept.star")["particles"]
    assert kept["rlnClassNumber"].tolist() == rows["class"][rows["kept"] == 1].tolist()
    assert not (run / "checkpoint").exists()


def test_the_page_holds_every_average_and_needs_no_network(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('id="class-') == CLASSES
    assert page.count("data:image/png;base64") == 3 * CLASSES  # in the gallery, enlarged, and raw members
    assert not re.search(r'(src|href)="(https?:)?//', page)
    before = page
    assert _run("report", run) == 0
    assert (run / "report.html").read_text(encoding="utf-8") == before


def test_classes_are_selected_by_number(run, tmp_path, capsys):
    rows = pd.read_csv(run / "particle_classes.csv")
    assert _run("select", run, "--class", "1, 3-4", "-o", tmp_path / "some.star", "--json") == 0
    wanted = rows["class"].isin([1, 3, 4]) & (rows["inlier_probability"] >= 0.5)
    assert json.loads(capsys.readouterr().out)["kept"] == int(wanted.sum())
    all_names = read_star(run / "particles.star")["particles"]["rlnImageName"]
    found = read_star(tmp_path / "some.star")["particles"]
    assert found["rlnImageName"].tolist() == all_names[wanted.to_numpy()].tolist()
    assert _run("select", run, "-o", tmp_path / "auto.star") == 0
    kept = read_star(run / "kept.star")["particles"]["rlnImageName"].tolist()
    assert read_star(tmp_path / "auto.star")["particles"]["rlnImageName"].tolist() == kept


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--class", "3-x"], "numbers and ranges"),
        (["--class", "1,99"], "particles are in classes 1 to"),
        (["--class", "3-1"], "smaller numbers first"),
        (["--class", "0"], "particles are in classes 1 to"),
    ],
)
def test_bad_selections_are_refused_in_one_sentence(run, tmp_path, options, said, capsys):
    assert _run("select", run, *options, "-o", tmp_path / "out.star") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.star").exists()


def test_a_run_with_a_map_has_no_classes(tmp_path, capsys):
    former = Path(__file__).parents[1] / "report" / "version_0_1"
    assert _run("select", former, "--class", "1", "-o", tmp_path / "out.star") == 2
    assert "no classes" in capsys.readouterr().err


def test_too_few_particles_for_so_many_classes_are_refused(particles, tmp_path, capsys):
    assert _run("classify2d", particles, "-k", COUNT, "-o", tmp_path / "none") == 2
    assert "--classes" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_same_seed_gives_the_same_run(run, particles, tmp_path):
    assert _run("classify2d", particles, "-k", CLASSES, "-o", tmp_path / "again") == 0
    for name in ("classes.mrcs", "particle_classes.csv", "particles.star", "kept.star"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes(), name


def test_the_folder_stands_for_its_kept_particles(run):
    assert len(open_particles(run)) == len(read_star(run / "kept.star")["particles"])


@pytest.mark.skipif(shutil.which("relion_stack_create") is None, reason="RELION is not installed")
def test_relion_aligns_members_to_their_average(run, tmp_path):
    """RELION moves and rotates the images by our psi and origins: their mean is then our average."""
    command = ["relion_stack_create", "--i", run / "particles.star", "--o", "aligned", "--apply_transformation"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with mrcfile.open(tmp_path / "aligned.mrcs") as stack, mrcfile.open(run / "classes.mrcs") as averages:
        aligned, average = stack.data.astype(float), averages.data.astype(float)
    table = read_star(run / "particles.star")["particles"]
    original = ParticleStack.open(run / "particles.star").images(slice(None)).numpy().astype(float)
    grid = np.arange(BOX) - BOX // 2
    radius = np.rint(np.hypot(*np.meshgrid(grid, grid))).astype(int)

    def angular(image: np.ndarray) -> np.ndarray:
        """The image within the particle, without the mean of each ring, which no rotation changes."""
        rings = np.bincount(radius.ravel(), image.ravel()) / np.bincount(radius.ravel())
        return (image - rings[radius])[radius < 0.3 * BOX]

    def agreement(images: np.ndarray, number: int) -> float:
        mean = images[(table["rlnClassNumber"] == number).to_numpy()].mean(0)
        return abs(float(np.corrcoef(angular(mean), angular(average[number - 1]))[0, 1]))

    after, before = (np.mean([agreement(each, n) for n in (1, 2)]) for each in (aligned, original))
    assert after > 0.7
    assert after > before + 0.2

"""``orbitrec refine``: what a run leaves on disk and prints, and how it refuses bad input."""

import contextlib
import io
import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch

from orbitrec import api
from orbitrec.cli import main
from orbitrec.cryoem.config import RefineConfig
from orbitrec.errors import InputError
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.evaluation.masks import soft_sphere
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.geometry.rotations import geodesic_distance
from orbitrec.io.mrc import read_map, write_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import read_star

N, PIXEL_A, COUNT = 24, 4.0, 150
FILES = [
    "conical_fsc.csv", "fsc.csv", "fsc.star", "half1.mrc", "half2.mrc", "history.csv", "mask.mrc",
    "particle_statistics.csv", "particles.star", "refined.mrc", "report.html", "summary.json", "summary.png",
    "views.csv", "views.mrcs",
]  # fmt: skip


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code if isinstance(exit_info.value.code, int) else 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated stack, and its map blurred to 28 Å, rotated dark and scaled by a thousand."""
    folder = tmp_path_factory.mktemp("refine") / "data"
    options = ["--phantom", 40, "--box", N, "--pixel-size", PIXEL_A, "--views", "uniform", "--snr", 2, "--shift-px", 1]
    assert _run("simulate", "cryoem", *options, "-n", COUNT, "-o", folder) == 0
    truth, _ = read_map(folder / "truth.mrc")
    k = radial_frequencies(N, 3)
    blurred = centred_ifft(centred_fft(truth.double(), 3) * torch.exp(-((k / 0.9) ** 4)), 3).real
    write_map(folder / "blurred.mrc", (-1000 * blurred).float(), PIXEL_A)
    return folder


@pytest.fixture(scope="module")
def finished(data: Path) -> tuple[Path, str]:
    """The folder of a run and what it printed."""
    folder = data.parent / "run"
    arguments = [data / "particles.star", "--init", data / "blurred.mrc", "--truth", data / "truth.mrc", "-o", folder]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert _run("refine", *arguments, "--resolution", 16, "--passes", 3, "--json") == 0
    return folder, printed.getvalue()


def test_every_file_is_there_and_json_is_the_summary(finished):
    folder, printed = finished
    assert sorted(path.name for path in folder.iterdir()) == FILES
    summary = json.loads(printed)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["particles"] == COUNT
    assert [(start["source"], start["chosen"]) for start in summary["starts"]] == [("map", True)]
    assert summary["search_resolution_A"] == pytest.approx(16)


def test_the_map_gains_resolution_in_its_own_sign(finished, data):
    folder, printed = finished
    truth, blurred, refined = (
        read_map(path)[0] for path in (data / "truth.mrc", data / "blurred.mrc", folder / "refined.mrc")
    )
    before = float(torch.corrcoef(torch.stack([-blurred.flatten(), truth.flatten()]))[0, 1])
    summary = json.loads(printed)
    assert summary["correlation"] > max(0.9, before + 0.03)
    assert (summary["mirrored"], summary["contrast"]) == (False, "dense is bright")
    assert float((refined - refined.mean()).pow(3).mean()) > 0


def test_the_likelihood_rises_and_poses_are_the_true_ones(finished, data):
    folder, _ = finished
    history = pd.read_csv(folder / "history.csv")
    assert set(zip(history["stage"], history["alternative"], strict=True)) == {
        ("refinement", "half 1"), ("refinement", "half 2")
    }  # fmt: skip
    for _, steps in history.groupby(["alternative", "resolution_A"]):
        assert steps["log_likelihood"].is_monotonic_increasing
    found, true = (ParticleStack.open(path).poses() for path in (folder / "particles.star", data / "truth.star"))
    assert found is not None
    assert true is not None
    # The given map fixes the frame. Rotations drawn at random are 127° from the true ones in the median.
    assert float(torch.rad2deg(geodesic_distance(found[0], true[0])).median()) < 40
    assert float((found[1] - true[1]).norm(dim=1).median()) < 0.8


@pytest.mark.parametrize("solver", ["sem", "sem-vr+qn", "svrg2"])
def test_every_solver_refines(solver, data, tmp_path, capsys):
    arguments = ["--init", data / "blurred.mrc", "-o", tmp_path / "run", "--solver", solver, "--batch", 50]
    assert _run("refine", data / "particles.star", *arguments, "--resolution", 30, "--passes", 4) == 0
    assert "refined.mrc" in capsys.readouterr().out
    truth, refined = (read_map(path)[0].flatten() for path in (data / "truth.mrc", tmp_path / "run" / "refined.mrc"))
    assert float(torch.corrcoef(torch.stack([truth, refined]))[0, 1]) > 0.6


BAD = {
    "no map": (["--init", "none.mrc"], "none.mrc: no such file"),
    "constant map": (["--init", "flat.mrc"], "flat.mrc is a constant map"),
    "not a map": (["--init", "particles.star"], "particles.star"),
    "diameter": (["--init", "truth.mrc", "--diameter", "500"], "a diameter of 500 Å does not fit a box of 96 Å"),
    "resolution": (["--init", "truth.mrc", "--resolution", "90"], "give a finer resolution"),
    "output": (["--init", "truth.mrc", "-o", "."], "already holds"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(case, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(data)
    write_map(data / "flat.mrc", torch.ones(8, 8, 8), 1.0)
    arguments, sentence = BAD[case]
    if "-o" not in arguments:
        arguments = [*arguments, "-o", tmp_path / "run"]
    assert _run("refine", "particles.star", *arguments) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()


HEADERS = {
    "none": (0.0, [], "gives no voxel size: that of the particles, 4 Å, is assumed"),
    "another": (1.0, [], "gives voxels of 1 Å, so that the map spans 24 Å and the images 96 Å"),
    "another, and the right one given": (1.0, ["--init-pixel-size", PIXEL_A], None),
    "the particles'": (PIXEL_A, [], None),
}


@pytest.mark.parametrize("case", HEADERS)
def test_voxels_of_the_initial_map_that_may_be_wrong_are_told_of(case, data, tmp_path, capsys, monkeypatch):
    """The map itself is the right one, at the images' grid, whatever its header says; only the second is resampled."""
    voxel_A, options, sentence = HEADERS[case]
    write_map(tmp_path / "map.mrc", read_map(data / "blurred.mrc")[0], voxel_A)
    given = []

    def compute(stack, initial, config, callback, checkpoints):
        given.append(initial)
        raise InputError("that is enough")

    monkeypatch.setattr(api, "refined_map", compute)
    arguments = ["--init", tmp_path / "map.mrc", "-o", tmp_path / "run", *options]
    assert _run("refine", data / "particles.star", *arguments) == 2
    warned = capsys.readouterr().err.splitlines()[:-1]
    if sentence is None:
        assert warned == []
    else:
        assert sentence in warned[0]
        assert warned[0].endswith("; --init-pixel-size says otherwise.")
    same = torch.equal(given[0], read_map(data / "blurred.mrc")[0].double())
    assert same == (case != "another")


def test_what_was_assumed_of_a_map_is_in_the_summary(data, tmp_path, monkeypatch):
    write_map(tmp_path / "map.mrc", read_map(data / "blurred.mrc")[0], 0.0)
    stack, config = ParticleStack.open(data / "particles.star", ctf=None), RefineConfig(resolution_A=30.0, passes=2.0)
    checks = api.refine(stack, tmp_path / "map.mrc", config, truth=data / "truth.mrc").summary.checks
    assert [check for check in checks if "gives no voxel size" in check] == [checks[0]]


def test_too_few_particles_are_refused(data, tmp_path, capsys):
    few = tmp_path / "few"
    assert _run("simulate", "cryoem", "--phantom", 20, "--box", N, "--pixel-size", PIXEL_A, "-n", 20, "-o", few) == 0
    assert _run("refine", few / "particles.star", "--init", data / "truth.mrc", "-o", tmp_path / "run") == 2
    assert "20 particles are too few to refine on" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("relion_postprocess") is None, reason="RELION is not installed")
def test_relion_takes_what_is_written(finished, tmp_path):
    """Half-maps and mask as they are named; the posed table by half-sets."""
    folder, _ = finished
    (tmp_path / "post").mkdir()
    command = ["relion_postprocess", "--i", folder / "half1.mrc", "--mask", folder / "mask.mrc", "--o", "post/all"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    ours, theirs = (read_star(path)["fsc"] for path in (folder / "fsc.star", tmp_path / "post" / "all.star"))
    column = "rlnFourierShellCorrelationMaskedMaps"
    assert theirs[column].to_numpy()[1:8] == pytest.approx(ours[column].to_numpy()[1:8], abs=0.01)
    command = ["relion_reconstruct", "--i", folder / "particles.star", "--subset", "1", "--o", "half.mrc"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    half, rebuilt = (read_map(path)[0] for path in (folder / "half1.mrc", tmp_path / "half.mrc"))
    ball = soft_sphere(N, 8.0)
    assert float(fourier_shell_correlation(half * ball, rebuilt * ball).value[1:5].min()) > 0.9

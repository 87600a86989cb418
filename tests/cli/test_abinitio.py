"""``orbitrec abinitio``: what a run leaves on disk and prints, and how it refuses bad input."""

import contextlib
import io
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from orbitrec import api
from orbitrec.cli import main
from orbitrec.cryoem import beginning, config, pipeline
from orbitrec.cryoem.result import PosedMap
from orbitrec.evaluation.alignment import resampled
from orbitrec.io.mrc import StackWriter, read_map, write_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import read_star, write_star
from orbitrec.models.simulate import random_defocus

N, PIXEL_A, COUNT = 24, 4.0, 300
FILES = [
    "conical_fsc.csv", "fsc.csv", "fsc.star", "half1.mrc", "half2.mrc", "history.csv", "initial_model.mrc", "mask.mrc",
    "particle_statistics.csv", "particles.star", "report.html", "summary.json", "summary.png", "views.csv",
    "views.mrcs",
]  # fmt: skip
KEYS = {
    "orbitrec", "input", "particles", "box_px", "pixel_size_A", "ctf", "seed", "threads", "device", "diameter_A",
    "search_resolution_A", "half_maps_fsc0143_A", "shift_spread_px", "contrast", "handedness", "starts", "half_sets",
    "half_sets_from", "half_maps_unmasked_fsc0143_A", "seconds", "peak_memory_GiB", "dialect", "posed", "checks",
    "half_sets_agreement",
    "contrast_of_images", "symmetry", "symmetry_score", "symmetry_kept", "format", "scf_star", "unsampled", "cfar",
    "finest_direction_A", "coarsest_direction_A",
}  # fmt: skip
TRUTH_KEYS = {"truth", "fsc05_A", "fsc0143_A", "correlation", "mirrored"}


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code if isinstance(exit_info.value.code, int) else 0


@dataclass(frozen=True)
class Finished:
    """One run of the command: where it read and wrote, what it printed and the result it had."""

    data: Path
    folder: Path
    printed: str
    result: PosedMap


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("abinitio")
    defocus = {"rlnDefocusU": [2200.0, 3200.0], "rlnDefocusV": [2000.0, 3000.0], "rlnDefocusAngle": [10.0, 50.0]}
    write_star(folder / "ctf.star", {"particles": pd.DataFrame(defocus)})
    data = ["--phantom", 40, "--box", N, "--pixel-size", PIXEL_A, "--ctf", folder / "ctf.star", "--views", "uniform"]
    assert _run("simulate", "cryoem", *data, "-n", COUNT, "--snr", 2, "--shift-px", 1, "-o", folder / "data") == 0
    results: list[PosedMap] = []
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        compute = pipeline.initial_model

        def recorded(*arguments: object) -> PosedMap:
            results.append(compute(*arguments))
            return results[-1]

        patch.setattr(api, "initial_model", recorded)
        short = config.Schedule(start_steps=20, settle_steps=3, select_steps=5)
        patch.setattr(config, "Schedule", lambda: short)
        options = ["--matched", 0, "--starts", 2, "--resolution", 20, "--seed", 3]
        options += ["--json", "--truth", folder / "data" / "truth.mrc"]
        assert _run("abinitio", folder / "data" / "particles.star", "-o", folder / "run", *options) == 0
    return Finished(folder / "data", folder / "run", printed.getvalue(), results[0])


@pytest.fixture
def computed(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """The computation takes no time: it is the one of ``finished``."""
    monkeypatch.setattr(api, "initial_model", lambda stack, config, callback, checkpoints: finished.result)


def test_every_file_is_there(finished):
    assert sorted(path.name for path in finished.folder.iterdir()) == FILES
    assert (finished.folder / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_all_that_is_printed_and_is_the_summary(finished):
    summary = json.loads(finished.printed)
    assert summary == json.loads((finished.folder / "summary.json").read_text())
    assert set(summary) == KEYS | TRUTH_KEYS
    assert summary["input"] == str(finished.data / "particles.star")
    assert (summary["particles"], summary["box_px"], summary["pixel_size_A"]) == (COUNT, N, PIXEL_A)
    assert (summary["ctf"], summary["seed"], summary["contrast"]) == (True, 3, "dense is bright")
    assert summary["diameter_A"] == pytest.approx(0.625 * N * PIXEL_A)
    assert summary["search_resolution_A"] == pytest.approx(20)
    assert summary["seconds"]["total"] == pytest.approx(sum(finished.result.seconds.values()))
    starts = summary["starts"]
    assert [start["source"] for start in starts] == ["random", "random"]
    assert [start["log_likelihood"] for start in starts] == pytest.approx(finished.result.selection.scores)
    assert [start["chosen"] for start in starts].index(True) == finished.result.selection.chosen
    assert 2 * PIXEL_A <= summary["fsc0143_A"] <= summary["fsc05_A"] < 30
    assert 0.6 < summary["correlation"] <= 1


def test_maps_say_their_voxel_size_and_are_valid(finished):
    maps = (finished.result.combined.volume, *finished.result.combined.half_maps)
    for name, volume in zip(("initial_model", "half1", "half2"), maps, strict=True):
        path = finished.folder / f"{name}.mrc"
        report = io.StringIO()
        assert mrcfile.validate(path, report), report.getvalue()
        written, voxel_A = read_map(path)
        assert voxel_A == PIXEL_A
        assert torch.equal(written, volume.float())


def test_posed_star_file_gives_the_poses(finished):
    posed = ParticleStack.open(finished.folder / "particles.star")
    rotations, shifts_px = posed.poses()
    assert torch.allclose(rotations, finished.result.rotations, atol=1e-6)
    assert torch.allclose(shifts_px, finished.result.shifts_px, atol=1e-6)
    blind = ParticleStack.open(finished.data / "particles.star")
    assert torch.equal(posed.images(range(5)), blind.images(range(5)))
    columns = [column for column in blind.table.particles if column != "rlnImageName"]
    assert posed.table.particles[columns].equals(blind.table.particles[columns])
    assert posed.table.optics.equals(blind.table.optics)


def test_the_table_and_its_statistics_say_the_same_of_every_particle(finished):
    """The pictures' words, and RELION's for the same numbers: a run of clean particles has explained them."""
    posed = ParticleStack.open(finished.folder / "particles.star").table.particles
    known = pd.read_csv(finished.folder / "particle_statistics.csv")
    names = {
        "log_likelihood": "rlnLogLikeliContribution", "inlier_probability": "rlnParticleFigureOfMerit",
        "max_probability": "rlnMaxValueProbDistribution", "significant_samples": "rlnNrOfSignificantSamples",
        "scale": "rlnGroupScaleCorrection",
    }  # fmt: skip
    for name, column in names.items():
        assert known[name].tolist() == pytest.approx(posed[column].astype(float).tolist(), abs=2e-6)
    assert known["row"].tolist() == list(range(1, len(posed) + 1))
    assert known["scale"].tolist() == pytest.approx(
        (known.cross_correlation / known.slice_power / 2).tolist(), rel=1e-3
    )
    assert known["max_probability"].between(0, 1, inclusive="right").all()
    assert (known["significant_samples"] >= 1).all()
    assert (known["significant_samples"] * known["max_probability"] > 0.99).all()  # as many as the largest hold it
    assert 0.8 < known["scale"].median() < 1.25


def test_tables_hold_the_history_and_both_curves(finished):
    history = pd.read_csv(finished.folder / "history.csv")
    assert list(history) == ["stage", "alternative", "step", "resolution_A", "log_likelihood", "seconds"]
    assert list(history["stage"].unique()) == ["stochastic EM", "selection", "frequency marching"]
    assert len(history) == len(finished.result.history)
    assert history["log_likelihood"].tolist() == pytest.approx([s.log_likelihood for s in finished.result.history])
    fsc = pd.read_csv(finished.folder / "fsc.csv")
    assert list(fsc) == ["shell", "resolution_A", "half_maps", "unmasked", "masked", "phases_random", "truth"]
    assert fsc["half_maps"].tolist() == pytest.approx(finished.result.combined.masked.corrected.value.tolist())
    assert fsc["resolution_A"].tolist()[1:] == pytest.approx([N * PIXEL_A / s for s in range(1, N // 2 + 1)])
    below = fsc.index[(fsc["truth"] < 0.5) & (fsc.index > 0)][0]
    summary = json.loads(finished.printed)
    assert fsc["resolution_A"][below] <= summary["fsc05_A"] <= fsc["resolution_A"][below - 1]


@pytest.mark.usefixtures("computed")
def test_without_truth_there_are_no_numbers_against_it(finished, tmp_path, capsys):
    assert _run("abinitio", finished.data / "particles.star", "-o", tmp_path / "run", "--no-ctf") == 0
    printed = capsys.readouterr().out
    assert "against the truth" not in printed
    for words in ("300 of 24 px, 4 Å per pixel", "dense is bright", "undetermined", "initial_model.mrc"):
        assert words in printed.replace("\n", "")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary) == KEYS
    assert summary["ctf"] is False
    assert "truth" not in pd.read_csv(tmp_path / "run" / "fsc.csv")


@pytest.mark.usefixtures("computed")
@pytest.mark.parametrize("voxel_A", [3.0, None])
def test_a_truth_on_another_grid_is_brought_to_the_results(finished, tmp_path, capsys, voxel_A):
    """Its own voxel size counts; one without any in its header is taken to have the stack's."""
    grid, _ = read_map(finished.data / "truth.mrc")
    path = tmp_path / "truth.mrc"
    write_map(path, grid if voxel_A is None else resampled(grid, PIXEL_A, 32, voxel_A), voxel_A or 0.0)
    arguments = [finished.data / "particles.star", "-o", tmp_path / "run", "--truth", path]
    assert _run("abinitio", *arguments) == 0
    assert "against the truth" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["fsc05_A"] == pytest.approx(json.loads(finished.printed)["fsc05_A"], rel=0.02)


# Bad input. Each maker changes a good set of particles and returns the arguments that differ.


@dataclass(frozen=True)
class Good:
    """A set of noise images that could be computed with, and where its files are."""

    folder: Path

    @property
    def star(self) -> Path:
        return self.folder / "particles.star"

    @property
    def stack(self) -> Path:
        return self.folder / "particles.mrcs"

    def change_star(self, change: Callable[[pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]]) -> None:
        blocks = read_star(self.star)
        optics, particles = (pd.DataFrame(blocks[name]) for name in ("optics", "particles"))
        optics, particles = change(optics, particles)
        write_star(self.star, {"optics": optics, "particles": particles})

    def change_image(self, change: Callable[[np.ndarray], None]) -> None:
        with mrcfile.mmap(self.stack, mode="r+") as file:
            change(file.data[6])


BOX, ROWS = 16, 120


def _write_stack(path: Path, count: int, n: int) -> None:
    with StackWriter(path, count, n, PIXEL_A) as stack:
        stack.write(torch.randn(count, n, n, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def good(tmp_path: Path) -> Good:
    folder = tmp_path / "data"
    folder.mkdir()
    _write_stack(folder / "particles.mrcs", ROWS, BOX)
    ctf = random_defocus(ROWS, torch.Generator().manual_seed(1))
    write_star(folder / "particles.star", particle_tables("particles.mrcs", ROWS, BOX, PIXEL_A, ctf=ctf))
    return Good(folder)


def _truth(good: Good, grid: Tensor | np.ndarray) -> list[object]:
    with mrcfile.new(good.folder / "truth.mrc", data=np.asarray(grid, dtype=np.float32)) as file:
        file.voxel_size = PIXEL_A
    return ["--truth", good.folder / "truth.mrc"]


def _missing_stack(good: Good) -> None:
    good.stack.unlink()


def _truncated_stack(good: Good) -> None:
    good.stack.write_bytes(good.stack.read_bytes()[:-100])


def _short_stack(good: Good) -> None:
    _write_stack(good.stack, ROWS - 10, BOX)


def _nan_image(good: Good) -> None:
    good.change_image(lambda image: image[2:3].fill(math.nan))


def _constant_image(good: Good) -> None:
    good.change_image(lambda image: image.fill(1.0))


def _no_pixel_size(good: Good) -> None:
    good.change_star(lambda optics, particles: (optics.drop(columns="rlnImagePixelSize"), particles))


def _no_ctf_columns(good: Good) -> None:
    good.change_star(lambda optics, particles: (optics, particles.drop(columns=["rlnDefocusU", "rlnDefocusV"])))


def _empty_table(good: Good) -> None:
    good.change_star(lambda optics, particles: (optics, particles[:0]))


def _few_rows(good: Good) -> None:
    good.change_star(lambda optics, particles: (optics, particles[:99]))


BAD = {
    "missing stack": (_missing_stack, "particles.mrcs of row 1 is not found"),
    "truncated stack": (_truncated_stack, "particles.mrcs is truncated"),
    "short stack": (_short_stack, "row 111 asks for image 111 of"),
    "NaN image": (_nan_image, "particles.mrcs) holds NaN or infinite values"),
    "constant image": (_constant_image, "row 7 (image 7 of"),
    "no pixel size": (_no_pixel_size, "gives no pixel size"),
    "no CTF columns": (_no_ctf_columns, "use --no-ctf"),
    "empty table": (_empty_table, "its table is empty"),
    "few particles": (_few_rows, "99 particles are too few"),
    "no such truth": (lambda good: ["--truth", good.folder / "no.mrc"], "no.mrc: no such file"),
    "truth not cubic": (lambda good: _truth(good, torch.randn(8, 8, 6)), "truth.mrc is not a cubic map"),
    "truth constant": (lambda good: _truth(good, torch.ones(8, 8, 8)), "truth.mrc is a constant map"),
    "truth NaN": (lambda good: _truth(good, torch.full((8, 8, 8), math.nan)), "truth.mrc holds NaN"),
    "truth is no map": (lambda good: ["--truth", good.star], "is not an MRC file"),
    "diameter": (lambda good: ["--diameter", 100], "a diameter of 100 Å does not fit a box of 64 Å"),
    "no start": (lambda good: ["--matched", 0, "--starts", 0], "ask for at least one start"),
    "resolution": (lambda good: ["--resolution", 60], "give a finer resolution"),
}


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_exit_2_and_nothing_left(tmp_path, good, name, capsys, monkeypatch):
    """Found before the search begins, a bad truth too: it would be a pity afterwards."""
    monkeypatch.setattr(beginning, "multi_start", lambda *_, **__: pytest.fail("the search began"))
    make, sentence = BAD[name]
    extra = make(good) or []
    before = sorted(tmp_path.rglob("*"))
    assert _run("abinitio", good.star, "-o", tmp_path / "made" / "run", *extra) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("orbitrec: ")
    assert sentence in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_no_such_file(tmp_path, capsys):
    assert _run("abinitio", tmp_path / "no.star", "-o", tmp_path / "run") == 2
    assert f"{tmp_path / 'no.star'}: no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_left_as_it_is(tmp_path, good, finished, capsys):
    shutil.copytree(finished.folder, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert _run("abinitio", good.star, "-o", tmp_path / "run") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before

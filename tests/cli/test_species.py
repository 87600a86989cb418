"""``orbitrec abinitio --classes``: two particles in one stack parted, what is written, and going on after a stop."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orbitrec import api
from orbitrec.cli import main
from orbitrec.cryoem import config
from orbitrec.cryoem.species import pipeline
from orbitrec.io.mrc import read_map
from orbitrec.io.star import read_star

N, COUNT = 24, 500
SHORT = config.Schedule(
    start_bandwidth=8.0, start_steps=25, settle_steps=4, settle_batch=150, select_bandwidth=10.0, select_steps=6,
    bandwidths=(10.0, 14.0), passes=1, finer=(),
)  # fmt: skip
OPTIONS = ["--no-ctf", "--matched", "1", "--starts", "2", "--shared-halves"]


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code if isinstance(exit_info.value.code, int) else 0


@pytest.fixture(scope="module", autouse=True)
def short() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "Schedule", lambda: SHORT)
        yield


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory, mixed_particles: Callable[..., Path]) -> Path:
    return mixed_particles(tmp_path_factory.mktemp("species") / "set", N, COUNT)


@pytest.fixture(scope="module")
def run(particles: Path) -> Path:
    folder = particles.parents[1] / "run"
    assert _run("abinitio", particles, "-k", 2, "-o", folder, *OPTIONS) == 0
    return folder


def adjusted_rand_index(first: np.ndarray, second: np.ndarray) -> float:
    """Hubert and Arabie (1985)."""
    pairs = pd.crosstab(first, second).to_numpy()

    def chosen(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    expected = chosen(pairs.sum(0)) * chosen(pairs.sum(1)) / chosen(np.array([pairs.sum()]))
    most = (chosen(pairs.sum(0)) + chosen(pairs.sum(1))) / 2
    return (chosen(pairs) - expected) / (most - expected)


def test_two_particles_are_parted(run):
    table = read_star(run / "particles.star")["particles"]
    classes = table["rlnClassNumber"].astype(int).to_numpy()
    assert adjusted_rand_index(np.arange(COUNT) % 2, classes) >= 0.95


def test_a_run_has_its_files_and_they_agree(run):
    summary = json.loads((run / "summary.json").read_text())
    table = read_star(run / "particles.star")["particles"]
    rows = pd.read_csv(run / "classes.csv")
    assert table["rlnClassNumber"].astype(int).tolist() == rows["class"].tolist()
    assert np.allclose(rows["probability_1"] + rows["probability_2"], 1, atol=1e-5)
    assert (rows["inlier_probability"] <= rows["probability"] + 1e-6).all()
    names = table["rlnImageName"].tolist()
    for facts in summary["classes"]:
        folder, own = run / facts["folder"], rows["class"] == facts["number"]
        assert facts["particles"] == own.sum()
        assert facts["share"] == pytest.approx(own.mean(), abs=1e-4)
        assert read_map(folder / "initial_model.mrc")[0].shape == (N,) * 3
        part = read_star(folder / "particles.star")["particles"]
        assert part["rlnImageName"].tolist() == [name for name, each in zip(names, own, strict=True) if each]
        assert part["rlnAngleRot"].tolist() == table["rlnAngleRot"][own].tolist()
        assert json.loads((folder / "summary.json").read_text())["particles"] == facts["particles"]
        assert (folder / "report.html").is_file()
        assert all(f"Class {facts['number']}: {check}" in summary["checks"] for check in facts["checks"])
    assert sum(facts["particles"] for facts in summary["classes"]) == COUNT
    assert {"rlnMaxValueProbDistribution", "rlnLogLikeliContribution", "rlnOriginXAngst"} <= set(table.columns)
    assert not (run / "checkpoint").exists()
    assert (run / "summary.png").stat().st_size > 1000


def test_the_page_shows_every_class_and_is_made_again(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('id="class-') == 2
    assert page.count("data:image/png;base64") == 6
    assert _run("report", run) == 0
    assert (run / "report.html").read_text(encoding="utf-8") == page


def test_particles_of_classes_are_selected(run, tmp_path, capsys):
    rows = pd.read_csv(run / "classes.csv")
    assert _run("select", run, "--class", 2, "--keep", 0.3, "-o", tmp_path / "two.star") == 0
    kept = read_star(tmp_path / "two.star")["particles"]
    assert len(kept) == ((rows["class"] == 2) & (rows["inlier_probability"] >= 0.3)).sum() > 0
    assert set(kept["rlnClassNumber"].astype(int)) == {2}
    assert _run("select", run, "--class", 3, "-o", tmp_path / "three.star") == 2
    assert "classes 1 to 2" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("command", ["expand", "transfer"])
def test_what_needs_one_map_says_so(run, tmp_path, capsys, command):
    onto = ["--onto", run / "particles.star"] if command == "transfer" else []
    assert _run(command, run, *onto, "-o", tmp_path / "out.star") == 2
    assert "several classes" in " ".join(capsys.readouterr().err.split())


def test_an_interrupted_run_goes_on_to_the_same_result(run, particles, tmp_path, monkeypatch):
    """Stopped in the second class's run, and again in the last comparison."""
    arguments = ["abinitio", particles, "-k", 2, "-o", tmp_path / "run", *OPTIONS]

    def stopped(*given: object) -> None:
        raise MemoryError

    calls = []

    def once(*given: object) -> object:
        calls.append(given)
        return compute(*given) if len(calls) == 1 else stopped()

    compute = pipeline.initial_model
    for name, broken in (("initial_model", once), ("rebuilt", stopped)):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, name, broken)
            with pytest.raises(MemoryError):
                main.app([*map(str, arguments), "--resume"], standalone_mode=False)
        assert (tmp_path / "run" / "checkpoint").is_dir()
    assert _run(*arguments, "--resume") == 0
    for name in ("classes.csv", "particles.star", "class_1/initial_model.mrc", "class_2/half1.mrc"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name


def test_one_class_is_the_run_without_classes(particles, tmp_path):
    for name, more in (("one", ["--classes", 1]), ("none", [])):
        assert _run("abinitio", particles, "-o", tmp_path / name, *OPTIONS, *more) == 0
    for name in ("initial_model.mrc", "half1.mrc", "particles.star", "particle_statistics.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "none" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-k", 0], "greater than"),
        (["-k", 26], "too few for 26 structures"),
        (["-k", 2, "--truth", "truth.mrc"], "one map"),
    ],
)
def test_bad_requests_are_one_sentence(particles, tmp_path, capsys, more, said):
    assert _run("abinitio", particles, "-o", tmp_path / "run", *OPTIONS, *more) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_python_returns_the_classes(particles, tmp_path):
    stack = api.open_particles(particles, ctf=False)
    settings = config.AbInitioConfig(schedule=SHORT, matched=0, random=2, independent_halves=False)
    found = api.abinitio(stack, settings, classes=2)
    assert [len(each.particles) for each in found.classes] == np.bincount(found.members.numpy()).tolist()
    assert found.posterior.shape == (COUNT, 2)
    assert found.save(tmp_path / "run").classes == found.summary.classes
    assert "classes of" in repr(found)

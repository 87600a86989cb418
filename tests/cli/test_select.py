"""``orbitrec select``: the rows of a run's table that are views of its map, and how it refuses bad input."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from orbitrec.cli import main
from orbitrec.io.star import read_star

FORMER = Path(__file__).parents[1] / "report" / "version_0_1"


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code or 0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A real run's folder, in which every third particle is none."""
    shutil.copytree(FORMER, tmp_path / "run")
    count = len(read_star(tmp_path / "run" / "particles.star")["particles"])
    probability = [0.2 if row % 3 == 0 else 0.5 + row / (2 * count) for row in range(count)]
    rows = {"row": range(1, count + 1), "log_likelihood": 1.0, "inlier_probability": probability}
    pd.DataFrame(rows).to_csv(tmp_path / "run" / "particle_statistics.csv", index=False)
    return tmp_path / "run"


def test_views_of_the_map_are_kept_as_they_are(run, tmp_path, capsys):
    assert _run("select", run, "-o", tmp_path / "clean.star", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    lines, kept = ((folder).read_text().splitlines() for folder in (run / "particles.star", tmp_path / "clean.star"))
    assert (
        facts["kept"] == facts["particles"] - -(-facts["particles"] // 3) == facts["particles"] - len(lines) + len(kept)
    )
    left = iter(lines)
    assert all(line in left for line in kept)  # the same lines in the same order
    names = read_star(run / "particles.star")["particles"]["rlnImageName"]
    expected = [name for row, name in enumerate(names) if row % 3]
    assert read_star(tmp_path / "clean.star")["particles"]["rlnImageName"].tolist() == expected


def test_a_higher_probability_keeps_fewer(run, tmp_path, capsys):
    assert _run("select", run, "-o", tmp_path / "clean.star", "--keep", "0.9") == 0
    assert "particles kept" in capsys.readouterr().out
    probability = pd.read_csv(run / "particle_statistics.csv")["inlier_probability"]
    assert len(read_star(tmp_path / "clean.star")["particles"]) == (probability >= 0.9).sum() > 0


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda run: None, ["--keep", "1"], "no particle of"),
        (lambda run: (run / "particle_statistics.csv").unlink(), [], "particle_statistics.csv"),
        (lambda run: (run / "particle_statistics.csv").write_text("row\n1\n"), [], "no list of particles"),
        (lambda run: (run / "particle_statistics.csv").write_text("inlier_probability\n2\n"), [], "between 0 and 1"),
        (lambda run: (run / "particle_statistics.csv").write_text("inlier_probability\n1\n"), [], "has 1 rows"),
        (lambda run: (run / "summary.json").unlink(), [], "holds no finished run"),
    ],
)
def test_bad_requests_are_one_sentence(run, tmp_path, capsys, change, options, said):
    change(run)
    assert _run("select", run, "-o", tmp_path / "clean.star", *options) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "clean.star").exists()


def test_another_format_is_refused(run, tmp_path, capsys):
    assert _run("select", run, "-o", tmp_path / "clean.cs") == 2
    assert "name it clean.star" in capsys.readouterr().err

"""Tables 4.1 and 4.2 and the table of starts, on as little as shows that they say what they should."""

import math
from contextlib import suppress
from dataclasses import asdict
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from orbitrec.cli.main import app
from orbitrec.errors import InputError
from orbitrec.io.runs import new_run
from orbitrec.optim import solvers
from orbitrec.optim.driver import run
from orbitrec.optim.termination import Termination
from orbitrec.runtime.runs import resumable_run
from orbitrec.thesis import optimiser_starts, table_4_1, table_4_2
from orbitrec.thesis.optimiser_table import Contestant, Instance, SolverExperiment, compare, stepping
from orbitrec.thesis.records import Made
from orbitrec.thesis.results import read_result
from orbitrec.thesis.steps import Steps
from orbitrec.thesis.windowed_mra import instance, pulse, shift_density


def test_the_instance_is_the_thesiss():
    one = instance(0, known=False)
    assert (one.problem.count, one.problem.dimension) == (3000, 32)
    assert instance(0, known=True).problem.dimension == 16
    assert float(pulse().norm()) == pytest.approx(1)
    assert float(shift_density().sum()) == pytest.approx(1)
    assert not torch.equal(one.start, instance(1, known=False).start)


def contestants(dimension):
    return [
        Contestant("EM", stepping(solvers.em()), "3078", "85", most_epochs=5.0),
        Contestant("Fisher+BFGS", stepping(solvers.fisher_bfgs())),
    ]


SMALL = SolverExperiment("table-4.2", "A table", {"density known": partial(instance, known=True)}, contestants)


@pytest.fixture(scope="module")
def comparison():
    (found,) = SMALL.run(2, math.inf)
    return found


def test_rows_say_who_arrived(comparison):
    capped, best = comparison.rows()
    assert (capped.method, capped.epochs, capped.arrived, capped.at_minimum) == ("EM", 5, 0, 0)
    assert capped.gap > 1e-6
    assert (best.method, best.instances, best.arrived, best.at_minimum, best.gap) == ("Fisher+BFGS", 2, 2, 2, 0)
    assert 10 < best.passes < 60
    assert best.coarse_epochs < best.epochs - 3
    assert capped.thesis_epochs == "3078"


def test_written_results(comparison, tmp_path):
    with new_run(tmp_path / "out") as folder:
        result, made = SMALL.table([comparison]), Made("a command")
        result.write(folder, made, [asdict(row) for row in result.rows])
        SMALL.draw(folder, [comparison])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"table.json", "table.csv", "traces-density-known.csv", "convergence-density-known.png"}
    assert read_result(tmp_path / "out" / "table.json") == (result, made)
    (table,) = result.tables()
    assert [row[0] for row in table.rows] == ["EM", "Fisher+BFGS"]
    assert table.rows[0][2].endswith("+")  # EM was stopped


def test_a_table_goes_on_where_it_was_interrupted(tmp_path):
    calls = []

    def counted(problem, w, stop, seed):
        calls.append(seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(solvers.em(), problem, w, stop, seed=seed)

    instances, methods = [instance(seed, known=True) for seed in range(2)], [Contestant("EM", counted)]
    ends = []
    for resume in (False, True):
        with suppress(KeyboardInterrupt), resumable_run(tmp_path / "out", {}, resume=resume) as (_, kept):
            ends = compare("known", instances, methods, Termination(reported=5.0), Steps(checkpoints=kept)).results[
                "EM"
            ]
    assert calls == [0, 1, 1]  # the first was not run again
    for end, one in zip(ends, instances, strict=True):
        alone = run(solvers.em(), one.problem, one.start, Termination(reported=5.0))
        assert torch.equal(end.w, alone.w)
        assert [info.value for info in end.trace] == [info.value for info in alone.trace]
        assert end.outcome is alone.outcome


def test_every_method_has_its_place():
    assert [c.name for c in table_4_1.contestants(32) if c.thesis_epochs] == ["GD", "SVRG", "SVRG+I", "SVRG+II"]
    assert [c.name for c in table_4_2.contestants(32) if c.thesis_epochs] == ["EM", "sEM-vr", "sEM-vr+QN"]
    assert len(optimiser_starts.contestants(32)) == 18


def test_starts_are_judged(monkeypatch):
    one = instance(0, known=True)
    worse = Instance(one.problem, 3 * one.start, 1)
    monkeypatch.setattr(optimiser_starts, "problems", lambda starts: {"a problem": [one, worse]})
    monkeypatch.setattr(
        optimiser_starts,
        "contestants",
        lambda dimension: [Contestant("Fisher+BFGS", stepping(solvers.fisher_bfgs()))],
    )
    (row,) = optimiser_starts.table(2, 100.0).rows
    assert (row.problem, row.starts, row.safe) == ("a problem", 2, 2)
    assert row.at_minimum >= 1


def test_resume_needs_a_folder():
    shown = CliRunner().invoke(app, ["reproduce", "table-4.1", "--resume"])
    assert isinstance(shown.exception, InputError)
    assert "-o DIR" in str(shown.exception)


@pytest.mark.parametrize("command", ["table-4.1", "table-4.2", "optimiser-starts"])
def test_commands_refuse_a_used_folder_before_they_compute(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    shown = CliRunner().invoke(app, ["reproduce", command, "-o", str(tmp_path)])
    assert shown.exit_code != 0
    assert (tmp_path / "file").read_text() == "mine"

"""Twenty random starts of every problem for every method: which runs diverge, which end at the lowest minimum."""

from dataclasses import dataclass
from math import isfinite

import torch

from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.mra.model import PeriodicMRA, draw_observations
from orbitrec.optim.termination import Result, Termination
from orbitrec.thesis import table_4_1, table_4_2
from orbitrec.thesis.cryoem_problem import CryoEMProblem
from orbitrec.thesis.optimiser_table import SAME_MINIMUM, Contestant, Instance, SolverComparison, compare
from orbitrec.thesis.records import ExperimentResult, TextTable
from orbitrec.thesis.steps import NOT_KEPT, Steps
from orbitrec.thesis.windowed_mra import SIGMA, pulse, random_start, shift_density, windowed_problem

STARTS = 20
IMAGES = 240
"""Of the cryo-EM problem, so that hundreds of runs of it take minutes."""

_SLOW = "cryo-EM"


@dataclass(frozen=True)
class StartsRow:
    """Of ``starts`` runs: ``safe`` stayed finite and ended no higher than they began, ``at_minimum`` at the lowest."""

    problem: str
    method: str
    starts: int
    safe: int
    at_minimum: int
    median_passes: float


def problems(starts: int) -> dict[str, list[Instance]]:
    """One problem of each kind, each from so many starts."""
    found = {}
    for name, problem in _mra_problems().items():
        generator = torch.Generator().manual_seed(1)
        found[name] = [Instance(problem, random_start(problem, generator), seed) for seed in range(starts)]
    cryoem = CryoEMProblem.simulated(0, IMAGES)
    likelihood = cryoem.polar()
    found[_SLOW] = [Instance(likelihood, cryoem.random_start(seed), seed) for seed in range(starts)]
    return found


def _mra_problems() -> dict[str, MRALikelihood]:
    model, generator = PeriodicMRA(16), torch.Generator().manual_seed(0)
    observations = torch.cat(list(draw_observations(model, pulse(), shift_density(), SIGMA, 3000, generator)))
    return {
        "windowed MRA, density estimated": windowed_problem(generator, known=False),
        "windowed MRA, density known": windowed_problem(generator, known=True),
        "MRA, density estimated": MRALikelihood(model, observations, SIGMA),
    }


def contestants(dimension: int) -> list[Contestant]:
    """All methods of Tables 4.1 and 4.2, each once."""
    named = {c.name: c for c in [*table_4_1.contestants(dimension), *table_4_2.contestants(dimension)]}
    return list(named.values())


@dataclass(frozen=True)
class StartsTable(ExperimentResult):
    """A row for each problem and method."""

    rows: tuple[StartsRow, ...]

    def tables(self) -> list[TextTable]:
        """A line for each method, two numbers for each problem."""
        problems = list(dict.fromkeys(row.problem for row in self.rows))
        lines = []
        for method in dict.fromkeys(row.method for row in self.rows):
            own = {row.problem: f"{row.safe} / {row.at_minimum}" for row in self.rows if row.method == method}
            lines.append((method, *(own[problem] for problem in problems)))
        title = f"{self.rows[0].starts} random starts: neither diverged nor NaN / ended at the lowest minimum"
        return [TextTable.of(title, ("method", *problems), lines)]


def table(starts: int, most_epochs: float, steps: Steps = NOT_KEPT) -> StartsTable:
    """Every method on every problem; a quarter of the epochs on cryo-EM, whose passes take long.

    Args:
        starts: of each problem.
        most_epochs: of a run, as the thesis counts them.
        steps: keep each run.

    Returns:
        The table.
    """
    rows = []
    for name, instances in problems(starts).items():
        methods = contestants(instances[0].problem.dimension)
        epochs = most_epochs * (0.25 if name == _SLOW else 1.0)
        comparison = compare(name, instances, methods, Termination(reported=epochs), steps)
        rows += [_row(comparison, contestant) for contestant in methods]
    return StartsTable("optimiser-starts", tuple(rows))


def _row(comparison: SolverComparison, contestant: Contestant) -> StartsRow:
    results = comparison.results[contestant.name]
    least = min(comparison.minima)  # of one problem, whatever the start
    passes = torch.tensor([result.trace[-1].cost.measured for result in results]).median()
    at_minimum = sum(result.trace[-1].value - least <= SAME_MINIMUM for result in results)
    safe = sum(map(_safe, results))
    return StartsRow(comparison.setting, contestant.name, len(results), safe, at_minimum, float(passes))


def _safe(result: Result) -> bool:
    finite = all(isfinite(info.value) for info in result.trace) and bool(result.w.isfinite().all())
    return finite and result.trace[-1].value <= result.trace[0].value

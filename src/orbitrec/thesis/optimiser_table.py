"""What Tables 4.1, 4.2 and 4.3 share: every method on the same instances, what it costs, and whether it arrives.

A method has arrived when the objective moves by less than 1e-14 between two epochs, the thesis's criterion. A slow one
meets it early, so the gap to the lowest objective that any method found on the instance stands beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite
from statistics import median
from typing import Any

from jaxtyping import Float
from torch import Tensor

from orbitrec.io.files import write_csv
from orbitrec.io.runs import RunFolder
from orbitrec.optim.driver import run
from orbitrec.optim.problem import FiniteSum
from orbitrec.optim.solvers import Solver
from orbitrec.optim.termination import Outcome, Result, StepInfo, Termination
from orbitrec.runtime.checkpoints import Record
from orbitrec.thesis.baselines import lbfgs
from orbitrec.thesis.plots.convergence import Descent, draw_convergence
from orbitrec.thesis.records import ExperimentResult, TextTable
from orbitrec.thesis.steps import NOT_KEPT, Steps

SAME_MINIMUM = 1e-10
"""The gap up to which two ends are one minimum."""
COARSE = 1e-4
"""A gap that every method should reach, by which slow ones can be compared."""

Method = Callable[[FiniteSum, Float[Tensor, "d"], Termination, int], Result]
"""Runs from a start until it ends, given a seed."""


def stepping(solver: Solver) -> Method:
    """A method of ``init`` and ``step``, run by the driver."""
    return lambda problem, w, termination, seed: run(solver, problem, w, termination, seed=seed)


def scipy_lbfgs(problem: FiniteSum, w: Float[Tensor, "d"], termination: Termination, seed: int) -> Result:
    """L-BFGS, which has no randomness.

    Args:
        problem: what is minimised.
        w: where to begin, (d,).
        termination: when to end.
        seed: not used.

    Returns:
        Where it ended.
    """
    return lbfgs(problem, w, termination)


@dataclass(frozen=True)
class Contestant:
    """A method by its name in the table.

    Attributes:
        name: as the thesis has it, where it does.
        method: how to run it.
        thesis_epochs: the thesis's cost-weighted epochs, as it has them; empty where it has none.
        thesis_seconds: its seconds.
        most_epochs: a cap of its own, for methods that cannot arrive.
    """

    name: str
    method: Method
    thesis_epochs: str = ""
    thesis_seconds: str = ""
    most_epochs: float = float("inf")


@dataclass(frozen=True, eq=False)
class Instance:
    """A problem and where to start."""

    problem: FiniteSum
    start: Float[Tensor, "d"]
    seed: int


@dataclass(frozen=True)
class MethodRow:
    """Medians over the instances: epochs as the thesis counts them, measured passes, processor seconds.

    ``coarse_epochs`` are those to within :data:`COARSE` of the minimum that the run ends in, None if it stays farther.
    ``arrived`` met the criterion, ``at_minimum`` ended within :data:`SAME_MINIMUM` of the lowest end; ``gap`` is the
    largest to it.
    """

    setting: str
    method: str
    coarse_epochs: float | None
    epochs: float
    passes: float
    seconds: float
    gap: float
    instances: int
    arrived: int
    at_minimum: int
    thesis_epochs: str
    thesis_seconds: str


@dataclass(frozen=True, eq=False)
class SolverComparison:
    """All results of one setting: for each contestant one per instance."""

    setting: str
    contestants: Sequence[Contestant]
    results: dict[str, list[Result]]

    @property
    def minima(self) -> list[float]:
        """The lowest end on each instance."""
        return [min(r.trace[-1].value for r in ends) for ends in zip(*self.results.values(), strict=True)]

    def rows(self) -> list[MethodRow]:
        """One for each contestant."""
        return [self._row(contestant) for contestant in self.contestants]

    def _row(self, contestant: Contestant) -> MethodRow:
        results = self.results[contestant.name]
        ends = [result.trace[-1] for result in results]
        gaps = [end.value - least for end, least in zip(ends, self.minima, strict=True)]
        cost = [end.cost for end in ends]
        passes, epochs, seconds = (
            median(costs) for costs in zip(*((s.measured, s.reported, s.seconds) for s in cost), strict=True)
        )
        coarse = median(map(_coarse_epochs, results, self._own_minima(contestant.name)))
        return MethodRow(
            setting=self.setting,
            method=contestant.name,
            coarse_epochs=coarse if isfinite(coarse) else None,
            epochs=epochs,
            passes=passes,
            seconds=seconds,
            gap=max(gaps),
            instances=len(results),
            arrived=sum(result.converged for result in results),
            at_minimum=sum(gap <= SAME_MINIMUM for gap in gaps),
            thesis_epochs=contestant.thesis_epochs,
            thesis_seconds=contestant.thesis_seconds,
        )

    def descents(self) -> list[Descent]:
        """The first instance's, each to the minimum it ends in; those not in the thesis dashed."""
        return [
            Descent(
                contestant.name,
                [info.cost.measured for info in trace],
                [info.cost.seconds for info in trace],
                [info.value - self._own_minima(contestant.name)[0] for info in trace],
                dashed=not contestant.thesis_epochs,
            )
            for contestant in self.contestants
            for trace in [self.results[contestant.name][0].trace]
        ]

    def _own_minima(self, method: str) -> list[float]:
        """Where each run of a method ends, or would end: at the highest minimum found that is no higher."""
        arrived = [
            [r.trace[-1].value for r in ends if _is_stationary(r)] for ends in zip(*self.results.values(), strict=True)
        ]
        ends = [result.trace[-1].value for result in self.results[method]]
        return [_minimum_below(end, minima) for end, minima in zip(ends, arrived, strict=True)]


def _minimum_below(end: float, minima: Sequence[float]) -> float:
    """The highest of the minima that is no higher than this end; the end itself where there is none."""
    return max((least for least in minima if least <= end + SAME_MINIMUM), default=end)


def _is_stationary(result: Result) -> bool:
    """The criterion alone is met by steps that have become short, too."""
    return result.converged and result.trace[-1].field_norm < COARSE


def _coarse_epochs(result: Result, minimum: float) -> float:
    reached = (info.cost.reported for info in result.trace if info.value - minimum <= COARSE)
    return next(reached, inf)


def compare(
    setting: str,
    instances: Sequence[Instance],
    contestants: Sequence[Contestant],
    termination: Termination,
    steps: Steps = NOT_KEPT,
) -> SolverComparison:
    """Run every contestant on every instance.

    Args:
        setting: its name.
        instances: problems with their starts.
        contestants: methods.
        termination: when a run ends, unless a contestant has a cap of its own.
        steps: keep each run.

    Returns:
        All results.
    """
    results: dict[str, list[Result]] = {contestant.name: [] for contestant in contestants}
    for instance in instances:
        for contestant in contestants:
            own = replace(termination, reported=min(termination.reported, contestant.most_epochs))
            call = partial(contestant.method, instance.problem, instance.start, own, instance.seed)
            record = steps.record(f"{setting} {contestant.name} {instance.seed}", lambda call=call: _as_record(call()))
            results[contestant.name].append(_as_result(record))
    return SolverComparison(setting, contestants, results)


def _as_record(result: Result) -> Record:
    return {"w": result.w, "trace": result.trace, "outcome": result.outcome.name}


def _as_result(record: dict[str, Any]) -> Result:
    trace = [StepInfo.from_json(row) for row in record["trace"]]
    return Result(record["w"], trace, Outcome[record["outcome"]])


@dataclass(frozen=True)
class SolverTable(ExperimentResult):
    """Tables 4.1, 4.2 and 4.3.

    Attributes:
        title: of the table.
        same_minimum: the gap up to which two ends count as one minimum.
        rows: one for each setting and method.
    """

    title: str
    same_minimum: float
    rows: tuple[MethodRow, ...]

    def tables(self) -> list[TextTable]:
        """One for each setting; + after a cost means that most runs had not arrived by then, as in the thesis."""
        headings = (
            "method",
            "to 10⁻⁴",  # COARSE
            "epochs",
            "thesis",
            "passes",
            "seconds",
            "thesis",
            "largest gap",
            "arrived",
            "at the minimum",
        )
        by_setting = {setting: [row for row in self.rows if row.setting == setting] for setting in self.settings}
        return [
            TextTable.of(f"{self.title}, {setting}", headings, map(_cells, rows))
            for setting, rows in by_setting.items()
        ]

    @property
    def settings(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(row.setting for row in self.rows))


def _cells(row: MethodRow) -> tuple[str, ...]:
    more = "+" if row.arrived <= row.instances / 2 else ""
    costs = f"{row.epochs:.0f}{more}", f"{row.passes:.0f}{more}", f"{row.seconds:.2f}{more}"
    return (
        row.method,
        "–" if row.coarse_epochs is None else f"{row.coarse_epochs:.0f}",
        costs[0],
        row.thesis_epochs,
        *costs[1:],
        row.thesis_seconds,
        f"{row.gap:.0e}",
        f"{row.arrived}/{row.instances}",
        f"{row.at_minimum}/{row.instances}",
    )


@dataclass(frozen=True)
class SolverExperiment:
    """One of the three tables.

    Attributes:
        name: by which the command knows it.
        title: of the table.
        settings: by its name each setting's instance of a seed.
        contestants: the methods, for so many unknowns.
    """

    name: str
    title: str
    settings: Mapping[str, Callable[[int], Instance]]
    contestants: Callable[[int], Sequence[Contestant]]

    @property
    def runs(self) -> int:
        """Runs of one seed."""
        return len(self.settings) * len(self.contestants(1))

    def run(self, seeds: int, most_epochs: float, steps: Steps = NOT_KEPT) -> list[SolverComparison]:
        """Every setting.

        Args:
            seeds: instances of each setting.
            most_epochs: of a run, as the thesis counts them.
            steps: keep each run.

        Returns:
            A comparison for each setting.
        """
        comparisons = []
        for name, instance in self.settings.items():
            instances = [instance(seed) for seed in range(seeds)]
            contestants = self.contestants(instances[0].problem.dimension)
            comparisons.append(compare(name, instances, contestants, Termination(reported=most_epochs), steps))
        return comparisons

    def table(self, comparisons: Sequence[SolverComparison]) -> SolverTable:
        """The table of what :meth:`run` returned."""
        rows = tuple(row for comparison in comparisons for row in comparison.rows())
        return SolverTable(self.name, self.title, SAME_MINIMUM, rows)

    def draw(self, run: RunFolder, comparisons: Sequence[SolverComparison]) -> None:
        """For each setting its traces (CSV) and a picture."""
        for comparison in comparisons:
            name = comparison.setting.replace(" ", "-")
            write_csv(run.file(f"traces-{name}.csv"), list(_trace_rows(comparison)))
            picture = run.file(f"convergence-{name}.png")
            draw_convergence(picture, comparison.descents(), f"{self.title}, {comparison.setting}")


def _trace_rows(comparison: SolverComparison) -> list[dict[str, object]]:
    """At most about 300 epochs of each run, evenly."""
    rows: list[dict[str, object]] = []
    for name, results in comparison.results.items():
        for instance, (result, least) in enumerate(zip(results, comparison.minima, strict=True)):
            stride = max(1, len(result.trace) // 300)
            for info in [*result.trace[:-1:stride], result.trace[-1]]:
                row = {"method": name, "instance": instance, "gap": info.value - least, "field_norm": info.field_norm}
                rows.append(row | {"accepted": info.accepted} | info.cost._asdict())
    return rows

"""What Tables 4.1, 4.2 and 4.3 share: run every method on the same instances, tell the costs and who arrived.

A method has arrived when the objective moves by less than 1e-14 between two epochs, the thesis's criterion. A slow one
meets it early, so the gap to the lowest objective that any method found on the instance is told beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import inf, isfinite
from statistics import median
from typing import Any

from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from orbitrec.io.files import write_csv, write_json
from orbitrec.io.runs import RunFolder
from orbitrec.optim.driver import Result, Termination, run
from orbitrec.optim.problem import FiniteSum
from orbitrec.optim.solvers import Stepper, info_of
from orbitrec.runtime.checkpoints import Checkpoints, Record
from orbitrec.thesis.baselines import lbfgs
from orbitrec.thesis.plots.convergence import Descent, draw_convergence

SAME_MINIMUM = 1e-10
"""The gap up to which two ends are one minimum."""
COARSE = 1e-4
"""A gap that every method should reach: slow ones are told apart by it."""

Method = Callable[[FiniteSum, Float[Tensor, "d"], Termination, int], Result]


def stepping(solver: Stepper) -> Method:
    """A method of ``init`` and ``step``, run by the driver."""
    return lambda problem, w, stop, seed: run(solver, problem, w, stop, seed=seed)


def scipy_lbfgs(problem: FiniteSum, w: Float[Tensor, "d"], stop: Termination, seed: int) -> Result:
    """L-BFGS, which has no randomness."""
    return lbfgs(problem, w, stop)


@dataclass(frozen=True)
class Contestant:
    """A method by its name in the table.

    Attributes:
        name: as the thesis has it, where it does.
        method: how to run it.
        thesis_epochs: the thesis's cost-weighted epochs, as printed; empty where it has none.
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
    """Medians over the instances: cost-weighted epochs as printed, measured passes, processor seconds.

    ``coarse_epochs`` are those to within :data:`COARSE` of the minimum that the run ends in. ``arrived`` met the
    criterion, ``at_minimum`` ended within :data:`SAME_MINIMUM` of the lowest end; ``gap`` is the largest to it.
    """

    setting: str
    method: str
    coarse_epochs: float
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
        return MethodRow(
            setting=self.setting,
            method=contestant.name,
            coarse_epochs=median(map(_coarse_epochs, results, self._own_minima(contestant.name))),
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


@dataclass(frozen=True, eq=False)
class Watch:
    """Of a long comparison: ``callback`` is called after each run, and each is kept in ``checkpoints``."""

    callback: Callable[[], None] = lambda: None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    def result(self, name: str, compute: Callable[[], Result]) -> Result:
        """What was kept under ``name``, else what ``compute`` returns."""
        record = self.checkpoints.load(name) or self.checkpoints.save(name, _as_record(compute()))
        self.callback()
        return _as_result(record)


ALONE = Watch()
"""Nobody listens, and nothing is kept."""


def compare(
    setting: str,
    instances: Sequence[Instance],
    contestants: Sequence[Contestant],
    stop: Termination,
    watch: Watch = ALONE,
) -> SolverComparison:
    """Run every contestant on every instance."""
    results: dict[str, list[Result]] = {contestant.name: [] for contestant in contestants}
    for instance in instances:
        for contestant in contestants:
            own = replace(stop, reported=min(stop.reported, contestant.most_epochs))
            call = partial(contestant.method, instance.problem, instance.start, own, instance.seed)
            results[contestant.name].append(watch.result(f"{setting} {contestant.name} {instance.seed}", call))
    return SolverComparison(setting, contestants, results)


def _as_record(result: Result) -> Record:
    return {"w": result.w, "trace": result.trace, "reason": result.reason}


def _as_result(record: dict[str, Any]) -> Result:
    trace = [info_of(row) for row in record["trace"]]
    return Result(record["w"], trace, record["reason"])


def as_json(comparisons: Sequence[SolverComparison]) -> dict[str, object]:
    """Rows, and what counts as one minimum."""
    return {"same_minimum": SAME_MINIMUM, "rows": [asdict(row) for c in comparisons for row in c.rows()]}


def as_text(title: str, comparisons: Sequence[SolverComparison]) -> list[Table]:
    """A table for each setting; + after a cost says that most runs had not arrived by then, as in the thesis."""
    return [_table(f"{title}, {c.setting}", c.rows()) for c in comparisons]


def _table(title: str, rows: Sequence[MethodRow]) -> Table:
    table = Table(title=title)
    table.add_column("method")
    columns = (
        f"to {COARSE:.0e}",
        "epochs",
        "thesis",
        "passes",
        "seconds",
        "thesis",
        "largest gap",
        "arrived",
        "at the minimum",
    )
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        more = "+" if row.arrived <= row.instances / 2 else ""
        arrived, at_minimum = f"{row.arrived}/{row.instances}", f"{row.at_minimum}/{row.instances}"
        costs = f"{row.epochs:.0f}{more}", f"{row.passes:.0f}{more}", f"{row.seconds:.2f}{more}"
        ends = f"{row.gap:.0e}", arrived, at_minimum
        table.add_row(
            row.method,
            f"{row.coarse_epochs:.0f}" if isfinite(row.coarse_epochs) else "–",
            costs[0],
            row.thesis_epochs,
            *costs[1:],
            row.thesis_seconds,
            *ends,
        )
    return table


def write_results(folder: RunFolder, title: str, comparisons: Sequence[SolverComparison]) -> None:
    """table.json, table.csv, and for each setting its traces (CSV) and a picture."""
    write_json(folder.file("table.json"), as_json(comparisons))
    write_csv(folder.file("table.csv"), [asdict(row) for c in comparisons for row in c.rows()])
    for comparison in comparisons:
        name = comparison.setting.replace(" ", "-")
        write_csv(folder.file(f"traces-{name}.csv"), list(_trace_rows(comparison)))
        picture = folder.file(f"convergence-{name}.png")
        draw_convergence(picture, comparison.descents(), f"{title}, {comparison.setting}")


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

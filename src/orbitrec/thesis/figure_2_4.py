"""Figure 2.4: the reconstruction phase of MRA, moment error (2.10) and error (2.9) against iterations and seconds.

Problems are mixtures of two Gaussians; their moments are of drawn observations (2.11), (2.12). Minimised is (2.15)

* over θ of both encoders, trained (the pretrained weights) and untrained, as the thesis does;
* over signal and density themselves, from the spectral method and from what the trained structured encoder finds.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

from orbitrec.io.files import write_csv
from orbitrec.io.runs import RunFolder
from orbitrec.moments.analytic import Moments
from orbitrec.moments.estimator import SignalMomentAccumulator
from orbitrec.moments.losses import orbit_error, relative_errors
from orbitrec.mra.families import LENGTH, default_law
from orbitrec.mra.matching import Pair, Representation, by_encoder, directly, match
from orbitrec.mra.model import PeriodicMRA, draw_observations
from orbitrec.mra.problem import MRAProblem, model_moments
from orbitrec.mra.sampling import SignalProblems
from orbitrec.mra.spectral import recover_spectral
from orbitrec.thesis.plots.curves import Curve, draw_matching
from orbitrec.thesis.records import ExperimentResult, TextTable
from orbitrec.thesis.table_2_1 import KINDS, STRUCTURED

Recorder = Callable[[int, float, Pair], None]
"""Called with an iteration's number, the seconds so far, densities and signals."""

GAUSSIANS = 2
REFERENCE = "thesis θ, untrained"
"""The start whose final moment error the others are to reach."""
STARTS = (
    "thesis θ, trained",
    REFERENCE,
    "structured θ, trained",
    "structured θ, untrained",
    "direct, structured encoder's output",
    "direct, spectral",
)
"""In the order in which they are run."""


@dataclass(frozen=True)
class CurveSize:
    """How much to do; the defaults are the thesis's."""

    instances: int = 20
    observations: int = 1_000_000
    iterations: int = 3000
    sigma: float = 1.0
    seed: int = 1


QUICK = CurveSize(instances=6, observations=100_000, iterations=300)


@dataclass(frozen=True)
class CurvePoint:
    """Means over problems before an iteration of one start; seconds are of the processor, for one problem.

    ``moment_error``: sum of (2.10) for both moments; ``density_error``, ``signal_error``: (2.9).
    """

    start: str
    iteration: int
    seconds: float
    moment_error: float
    density_error: float
    signal_error: float


@dataclass(frozen=True)
class StartEnds:
    """One start: where it begins and ends, and what it needs to reach the final moment error of :data:`REFERENCE`."""

    start: str
    first: CurvePoint
    last: CurvePoint
    reached: CurvePoint | None


@dataclass(frozen=True)
class StartTable(ExperimentResult):
    """Figure 2.4 in numbers.

    Attributes:
        size: how much was done.
        starts: each in a line.
    """

    size: CurveSize
    starts: tuple[StartEnds, ...]

    def tables(self) -> list[TextTable]:
        """One line for each start."""
        title = f"Figure 2.4; goal: the final moment error of “{REFERENCE}”"
        headings = ("start", "moment error", "ρ (2.9)", "v (2.9)", "seconds", "iterations to goal", "seconds to goal")
        return [TextTable.of(title, headings, [_cells(start) for start in self.starts])]


def _cells(start: StartEnds) -> tuple[str, ...]:
    first, last = start.first, start.last
    pairs = (
        (first.moment_error, last.moment_error),
        (first.density_error, last.density_error),
        (first.signal_error, last.signal_error),
    )
    errors = [f"{before:.4f} → {after:.4f}" for before, after in pairs]
    goal = ("not", "") if start.reached is None else (str(start.reached.iteration), f"{start.reached.seconds:.2f}")
    return (start.start, *errors, f"{last.seconds:.2f}", *goal)


def problems(size: CurveSize) -> SignalProblems:
    """Signals and densities by the default law, and moments of as many drawn observations as the size says."""
    generator = torch.Generator().manual_seed(size.seed)
    signals, densities = default_law(GAUSSIANS).pairs(size.instances, LENGTH, generator, torch.float32)
    model, found = PeriodicMRA(LENGTH), []
    for v, rho in zip(signals, densities, strict=True):
        batches = draw_observations(model, v, rho, size.sigma, size.observations, generator)
        found.append(SignalMomentAccumulator.of(batches).estimate(size.sigma))
    moments = Moments(
        torch.stack([m.first for m in found]).to(torch.complex64),
        torch.stack([m.second for m in found]).to(torch.complex64),
        found[0].weights.float(),
    )
    each = (size.instances,)
    sigma, count = torch.full(each, size.sigma), torch.full(each, float(size.observations))
    return SignalProblems(signals, densities, moments, sigma, count)


def starts(problem: SignalProblems) -> Iterator[Representation]:
    """The representation of each of :data:`STARTS`."""
    for kind in KINDS:
        source = kind.pretrained(GAUSSIANS)
        yield by_encoder(kind.encoder(source), problem)
        yield by_encoder(kind.task(source).untrained(), problem)
    structured = STRUCTURED.encoder(STRUCTURED.pretrained(GAUSSIANS))
    yield directly(*by_encoder(structured, problem).start())
    yield directly(*_spectral(problem))


def _spectral(problem: SignalProblems) -> Pair:
    estimates = []
    for i in range(len(problem.signal)):
        m = problem.moments
        moments = Moments(m.first[i].to(torch.complex128), m.second[i].to(torch.complex128), m.weights.double())
        sigma, count = float(problem.sigma[i]), float(problem.count[i])
        estimates.append(recover_spectral(MRAProblem(PeriodicMRA(LENGTH), None, sigma, moments, count)))
    return torch.stack([e.density for e in estimates]).float(), torch.stack([e.signal for e in estimates]).float()


def curves(size: CurveSize, callback: Callable[[], None] = lambda: None) -> list[CurvePoint]:
    """All starts, one after the other; ``callback`` is called after every iteration.

    Raises:
        InputError: if weights are missing.
    """
    problem, rows = problems(size), []
    for name, start in zip(STARTS, starts(problem), strict=True):
        record = _recorder(name, problem, size.iterations, rows)

        def record_and_report(iteration: int, seconds: float, pair: Pair, record: Recorder = record) -> None:
            record(iteration, seconds, pair)
            if iteration:
                callback()

        match(start, problem.moments, size.iterations, record_and_report)
    return rows


def _recorder(name: str, problem: SignalProblems, iterations: int, rows: list[CurvePoint]) -> Recorder:
    """Appends the errors of every tenth iteration, and of the first twenty and the last."""

    def record(iteration: int, seconds: float, pair: Pair) -> None:
        if iteration > 20 and iteration % 10 and iteration != iterations:
            return
        density, signal = pair
        with torch.no_grad():
            model = model_moments(PeriodicMRA(LENGTH), signal, density)
            moment_error = sum(float(part.mean()) for part in relative_errors(problem.moments, model))
            errors = orbit_error(density, problem.density), orbit_error(signal, problem.signal)
        per_problem = seconds / len(problem.signal)
        rows.append(CurvePoint(name, iteration, per_problem, moment_error, *(float(e.mean()) for e in errors)))

    return record


def summary(rows: list[CurvePoint], size: CurveSize) -> StartTable:
    """Each start in a line."""
    by_start = {name: [row for row in rows if row.start == name] for name in dict.fromkeys(row.start for row in rows)}
    goal = by_start[REFERENCE][-1].moment_error
    starts = (
        StartEnds(name, of[0], of[-1], next((row for row in of if row.moment_error <= goal), None))
        for name, of in by_start.items()
    )
    return StartTable("figure-2.4", size, tuple(starts))


def draw(run: RunFolder, rows: list[CurvePoint], size: CurveSize) -> None:
    """figure.png and curves.csv.

    Args:
        run: the folder.
        rows: the points of the curves.
        size: how much was done.
    """
    write_csv(run.file("curves.csv"), [asdict(row) for row in rows])
    shown = [_curve(name, [row for row in rows if row.start == name]) for name in STARTS]
    title = f"Matching moments of {size.observations:,} observations, σ = {size.sigma:g}: {size.instances} problems"
    draw_matching(run.file("figure.png"), shown, title)


def _curve(name: str, rows: list[CurvePoint]) -> Curve:
    errors = {
        "moment error (2.10)": [row.moment_error for row in rows],
        "signal error (2.9)": [row.signal_error for row in rows],
        "density error (2.9)": [row.density_error for row in rows],
    }
    times = [row.iteration for row in rows], [row.seconds for row in rows]
    return Curve(name, *times, errors, dashed=name.endswith("untrained"))

"""Accuracy of every MRA recovery against the number of observations and the noise: errors, CPU seconds, passes.

Signals and densities are fresh mixtures of two Gaussians on n = 41 samples, ‖v‖² = n; every method gets the same
observations, σ, and moments made in one pass, which is counted apart. Figures are medians over the problems. Times are
CPU seconds, which another program on the same cores changes little: with one thread they are what a user waits for.
With the shifts known, the mean of the aligned observations would be left with the error σ/√N.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from orbitrec.errors import InputError
from orbitrec.io.files import replacing
from orbitrec.io.runs import RunFolder
from orbitrec.moments.losses import orbit_error
from orbitrec.mra.families import LENGTH, default_law
from orbitrec.mra.methods import Method, Recovery
from orbitrec.mra.model import PeriodicMRA, draw_observations
from orbitrec.mra.problem import MRAProblem
from orbitrec.report.style import GREY, PALETTE, SMALL, TEXT, label_axes
from orbitrec.thesis.records import ExperimentResult, TextTable

_SEED = 20_241_000  # of the problems: no training's streams
METHODS: Mapping[str, Recovery] = {method.label: method for method in Method}


@dataclass(frozen=True)
class AccuracySettings:
    """Numbers of observations, noise levels, and problems for each pair of them."""

    counts: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    sigmas: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0)
    problems: int = 3
    gaussians: int = 2


QUICK = AccuracySettings(counts=(10_000,), problems=2)


@dataclass(frozen=True)
class AccuracyRow:
    """Medians of one method: errors (2.9), CPU seconds and passes over the observations, those for moments apart."""

    count: int
    sigma: float
    method: str
    signal_error: float
    density_error: float
    cpu_seconds: float
    passes: float
    moment_cpu_seconds: float


@dataclass(frozen=True)
class AccuracyTable(ExperimentResult):
    """All methods at every number of observations and noise level.

    Attributes:
        settings: how much was done.
        rows: medians.
    """

    settings: AccuracySettings
    rows: tuple[AccuracyRow, ...]

    def tables(self) -> list[TextTable]:
        """For every N and σ the methods beside each other: error of the signal, of the density, and CPU seconds."""
        methods = list(dict.fromkeys(row.method for row in self.rows))
        cells = {(row.count, row.sigma, row.method): row for row in self.rows}
        lines = []
        for count, sigma in dict.fromkeys((row.count, row.sigma) for row in self.rows):
            found = [cells[count, sigma, method] for method in methods]
            texts = [f"{row.signal_error:.4f} / {row.density_error:.3f}, {row.cpu_seconds:.1f} s" for row in found]
            lines.append((f"{count:,}", f"{sigma:g}", f"{sigma / count**0.5:.4f}", *texts))
        title = "MRA, two Gaussians, n = 41: median error (2.9) of v / of ρ, CPU seconds after the moments"
        return [TextTable.of(title, ("N", "σ", "shifts known", *methods), lines, text_columns=0)]


def table(
    settings: AccuracySettings,
    methods: Mapping[str, Recovery] = METHODS,
    callback: Callable[[AccuracyRow], None] = lambda row: None,
) -> AccuracyTable:
    """Run every method on every problem.

    Args:
        settings: how much to do.
        methods: by their names.
        callback: called with each row.

    Returns:
        The table.
    """
    rows = []
    for count in settings.counts:
        for sigma in settings.sigmas:
            for row in _rows(settings, count, sigma, methods):
                rows.append(row)
                callback(row)
    return AccuracyTable("mra-accuracy", settings, tuple(rows))


def _rows(settings: AccuracySettings, count: int, sigma: float, methods: Mapping[str, Recovery]) -> list[AccuracyRow]:
    """One row for each method."""
    model = PeriodicMRA(LENGTH)
    results: dict[str, list[tuple[float, ...]]] = {name: [] for name in methods}
    pairs = default_law(settings.gaussians).pairs(
        settings.problems, LENGTH, torch.Generator().manual_seed(_SEED), torch.float32
    )
    for seed, (signal, density) in enumerate(zip(*pairs, strict=True)):
        draws = draw_observations(model, signal, density, sigma, count, torch.Generator().manual_seed(_SEED + seed))
        observations = torch.cat(list(draws))
        began = time.process_time()
        problem = MRAProblem.of(model, observations, sigma)
        moment_seconds = time.process_time() - began
        for name, recover in methods.items():
            began = time.process_time()
            found = recover(problem, torch.Generator().manual_seed(seed))
            seconds = time.process_time() - began
            errors = orbit_error(found.signal, signal.double()), orbit_error(found.density, density.double())
            results[name].append((*map(float, errors), seconds, found.passes, moment_seconds))
    return [
        AccuracyRow(count, sigma, name, *(float(median(column)) for column in zip(*values, strict=True)))
        for name, values in results.items()
    ]


def row_count(settings: AccuracySettings, methods: Mapping[str, Recovery] = METHODS) -> int:
    """Rows that :func:`table` makes."""
    return len(settings.counts) * len(settings.sigmas) * len(methods)


def chosen(names: Sequence[str] | None) -> Mapping[str, Recovery]:
    """The methods of these names; all for None.

    Raises:
        InputError: if a name is no method's.
    """
    unknown = [name for name in names or () if name not in METHODS]
    if unknown:
        raise InputError(f"there is no `method` {unknown[0]}; choose from {', '.join(METHODS)}")
    return METHODS if names is None else {name: METHODS[name] for name in names}


def draw(run: RunFolder, rows: Sequence[AccuracyRow]) -> None:
    """accuracy.png."""
    _draw(run.file("accuracy.png"), rows)


def _draw(path: Path, rows: Sequence[AccuracyRow]) -> None:
    """Errors of signal (above) and density (below) against σ, a column for each N, a line for each method."""
    counts = list(dict.fromkeys(row.count for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(3.8 * len(counts) + 1, 7), dpi=120, layout="constrained", facecolor="white")
    grid = figure.subplots(2, len(counts), squeeze=False, sharex=True, sharey="row")
    for column, count in zip(grid.T, counts, strict=True):
        of_count = [row for row in rows if row.count == count]
        for method, colour in zip(methods, PALETTE, strict=False):
            line = [row for row in of_count if row.method == method]
            for axes, field in zip(column, ("signal_error", "density_error"), strict=True):
                values = [getattr(row, field) for row in line]
                axes.loglog([row.sigma for row in line], values, color=colour, marker="o", label=method)
        sigmas = sorted({row.sigma for row in of_count})
        column[0].loglog(sigmas, [sigma / count**0.5 for sigma in sigmas], color=GREY, ls=":", label="shifts known")
        column[0].set_title(f"N = {count:,}", size=TEXT)
        label_axes(column[0], "", "error (2.9) of the signal" if count == counts[0] else "")
        label_axes(column[1], "noise level σ", "error (2.9) of the density" if count == counts[0] else "")
    grid[0][0].legend(fontsize=SMALL, frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary)

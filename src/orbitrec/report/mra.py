"""A recovered signal on disk: arrays, facts and a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from orbitrec import __version__
from orbitrec.io.files import replacing, write_json
from orbitrec.io.runs import RunFolder
from orbitrec.moments.losses import aligned, orbit_error, relative_errors
from orbitrec.mra.methods import Method
from orbitrec.mra.problem import MRAEstimate, MRAProblem, model_moments
from orbitrec.report.style import BLUE, GREY, TEXT, label_axes

Truth = tuple[Float[Tensor, "n"], Float[Tensor, "n"]]
"""A signal and a density of shifts."""


@dataclass(frozen=True)
class MRASummary:
    """The facts of a recovery, as ``summary.json`` has them.

    Attributes:
        version: of this library.
        file: the observations.
        method: how the signal was recovered, in words.
        seed: of the random starts.
        sigma_estimated: whether the noise level was estimated from the observations.
        observations: their number.
        observed_samples: samples of an observation.
        length: samples of the signal.
        sigma: standard deviation of the noise.
        seconds: time of the method, moments excluded.
        passes: passes over the observations after the one for moments.
        first_moment_error: relative error of the first moment (thesis, eq. 2.10).
        second_moment_error: that of the second.
        checks: what the quality checks found, a sentence each; empty is the rule.
        signal_error: relative error of the signal up to a shift (thesis, eq. 2.9); None where no truth is known.
        density_error: that of the density of shifts.
    """

    version: str
    file: str
    method: str
    seed: int
    sigma_estimated: bool
    observations: int | float
    observed_samples: int
    length: int
    sigma: float
    seconds: float
    passes: float
    first_moment_error: float
    second_moment_error: float
    checks: tuple[str, ...]
    signal_error: float | None = None
    density_error: float | None = None

    @classmethod
    def of(
        cls,
        problem: MRAProblem,
        estimate: MRAEstimate,
        truth: Truth | None,
        *,
        file: Path,
        method: Method,
        seed: int,
        sigma_estimated: bool,
    ) -> "MRASummary":
        """The facts of a recovery.

        Args:
            problem: what was to be solved.
            estimate: what was found.
            truth: signal and density; None where they are not known.
            file: the observations.
            method: how the signal was recovered.
            seed: of the random starts.
            sigma_estimated: whether the noise level was estimated from the observations.

        Returns:
            The record.
        """
        model = model_moments(problem.model, estimate.signal, estimate.density)
        first, second = relative_errors(problem.moments, model)
        return cls(
            version=__version__,
            file=str(file),
            method=method.label,
            seed=seed,
            sigma_estimated=sigma_estimated,
            observations=problem.count,
            observed_samples=problem.model.length,
            length=problem.model.n,
            sigma=problem.sigma,
            seconds=estimate.seconds,
            passes=estimate.passes,
            first_moment_error=float(first),
            second_moment_error=float(second),
            checks=estimate.checks,
            signal_error=None if truth is None else float(orbit_error(estimate.signal, truth[0])),
            density_error=None if truth is None else float(orbit_error(estimate.density, truth[1])),
        )

    def to_dict(self) -> dict[str, object]:
        """The record as ``summary.json`` has it: without the errors that are not known."""
        return {name: value for name, value in vars(self).items() if value is not None}


def write_recovery(run: RunFolder, summary: MRASummary, estimate: MRAEstimate, truth: Truth | None) -> None:
    """Write ``signal.npy``, ``density.npy``, ``summary.json`` and ``summary.png``.

    Args:
        run: the folder.
        summary: the facts.
        estimate: what was found.
        truth: signal and density; None where they are not known.

    Raises:
        WriteError: if the disk is full.
    """
    for name, array in (("signal", estimate.signal), ("density", estimate.density)):
        with replacing(run.file(f"{name}.npy")) as temporary:
            np.save(temporary, array.numpy())
    draw_recovery(run.file("summary.png"), estimate, truth)
    write_json(run.file("summary.json"), summary.to_dict())


def draw_recovery(path: Path, estimate: MRAEstimate, truth: Truth | None) -> None:
    """Draw signal and density of shifts, with the truth behind them, each moved by its best shift.

    Args:
        path: the picture (PNG).
        estimate: what was found.
        truth: signal and density; None where they are not known.

    Raises:
        InputError: if ``path`` cannot be written.
    """
    figure = Figure(figsize=(10, 3.6), dpi=120, layout="constrained", facecolor="white")
    signal, density = figure.subplots(1, 2)
    for axes, found, index in ((signal, estimate.signal, 0), (density, estimate.density, 1)):
        _draw(axes, found, None if truth is None else aligned(truth[index], found))
    label_axes(signal, "sample", "signal v")
    label_axes(density, "shift in samples", "probability ρ")
    signal.legend(fontsize=TEXT, frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary)


def _draw(axes: Axes, found: Float[Tensor, "n"], truth: Float[Tensor, "n"] | None) -> None:
    if truth is not None:
        axes.plot(truth.numpy(), color=GREY, linewidth=4, label="truth")
    axes.plot(found.numpy(), color=BLUE, linewidth=1.8, marker=".", label="recovered")

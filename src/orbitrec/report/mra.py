"""A recovered signal on disk: arrays, facts and a picture."""

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
from orbitrec.mra.problem import MRAEstimate, MRAProblem, model_moments
from orbitrec.report.style import BLUE, GREY, TEXT, label_axes

Truth = tuple[Float[Tensor, "n"], Float[Tensor, "n"]]
"""A signal and a density of shifts."""


def write_recovery(
    run: RunFolder,
    problem: MRAProblem,
    estimate: MRAEstimate,
    truth: Truth | None,
    facts: dict[str, object],
) -> dict[str, object]:
    """Write ``signal.npy``, ``density.npy``, ``summary.json`` and ``summary.png``.

    Args:
        run: the folder.
        problem: what was to be solved.
        estimate: what was found.
        truth: signal and density; None where they are not known.
        facts: more facts for the summary.

    Returns:
        The summary: ``facts``, those of problem and estimate, the relative errors of the moments (thesis, eq. 2.10)
        and, with a truth, the errors of signal and density up to a shift (eq. 2.9).
    """
    model = model_moments(problem.model, estimate.signal, estimate.density)
    first, second = relative_errors(problem.moments, model)
    summary: dict[str, object] = {
        "version": __version__,
        **facts,
        "observations": problem.count,
        "observed_samples": problem.model.length,
        "length": problem.model.n,
        "sigma": problem.sigma,
        "seconds": estimate.seconds,
        "passes": estimate.passes,
        "first_moment_error": first,
        "second_moment_error": second,
        "warnings": list(estimate.warnings),
    }
    if truth is not None:
        summary["signal_error"] = orbit_error(estimate.signal, truth[0])
        summary["density_error"] = orbit_error(estimate.density, truth[1])
    for name, array in (("signal", estimate.signal), ("density", estimate.density)):
        with replacing(run.file(f"{name}.npy")) as temporary:
            np.save(temporary, array.numpy())
    draw_recovery(run.file("summary.png"), estimate, truth)
    write_json(run.file("summary.json"), summary)
    return summary


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

"""Figures 2.4 and 3.7: errors against iterations and seconds, a curve for each start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from orbitrec.io.files import replacing
from orbitrec.report.style import PALETTE, TEXT, label_axes


@dataclass(frozen=True)
class Curve:
    """One start: errors by their names, at so many iterations and seconds; dashed to set it apart."""

    name: str
    iterations: Sequence[int]
    seconds: Sequence[float]
    errors: Mapping[str, Sequence[float]]
    dashed: bool = False


def draw_matching(path: Path, curves: Sequence[Curve], title: str) -> None:
    """Each error in a row; iterations on the left, seconds for one problem on the right.

    Args:
        path: the picture, PNG.
        curves: the starts.
        title: headline.

    Raises:
        InputError: if ``path`` cannot be written.
    """
    errors = list(curves[0].errors)
    figure = Figure(figsize=(11, 3 * len(errors)), dpi=120, layout="constrained", facecolor="white")
    figure.suptitle(title, size=13, weight="bold")
    rows = figure.subplots(len(errors), 2, sharey="row", sharex="col", squeeze=False)
    for row, error in zip(rows, errors, strict=True):
        for curve, colour in zip(curves, PALETTE, strict=False):
            line = {"color": colour, "linestyle": "--" if curve.dashed else "-", "linewidth": 1.6, "label": curve.name}
            row[0].plot(curve.iterations, curve.errors[error], **line)
            row[1].plot(curve.seconds, curve.errors[error], **line)
        for axes, label in zip(row, (error, ""), strict=True):
            axes.set_yscale("log")
            axes.grid(alpha=0.25)
            label_axes(axes, "", label)
    rows[-1][1].set_xscale("log")
    label_axes(rows[-1][0], "iterations", errors[-1])
    label_axes(rows[-1][1], "processor seconds for one problem", "")
    handles, names = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=TEXT, frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary)

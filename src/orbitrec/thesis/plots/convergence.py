"""Figures 4.2, 4.3 and 4.6: how far the objective is from its minimum, against data passes and seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from orbitrec.io.files import replacing
from orbitrec.report.style import PALETTE, TEXT, label_axes

_LEAST_GAP = 1e-15  # what double precision leaves of it


@dataclass(frozen=True)
class Descent:
    """One method's way down: the gap after so many passes and seconds; ``dashed``, in any manner, to set it apart."""

    name: str
    passes: Sequence[float]
    seconds: Sequence[float]
    gap: Sequence[float]
    dashed: bool = False


def draw_convergence(path: Path, descents: Sequence[Descent], title: str) -> None:
    """Gaps on logarithmic axes; measured passes on the left, processor seconds on the right.

    Args:
        path: the picture, PNG.
        descents: the methods.
        title: headline.

    Raises:
        InputError: if ``path`` cannot be written.
    """
    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained", facecolor="white")
    figure.suptitle(title, size=13, weight="bold")
    left, right = figure.subplots(1, 2, sharey=True)
    lines = {False: _lines("-"), True: _lines("--", ":", "-.")}
    for descent in descents:
        gap = [max(value, _LEAST_GAP) for value in descent.gap]
        colour, line = next(lines[descent.dashed])
        for axes, cost in ((left, descent.passes), (right, descent.seconds)):
            axes.plot(cost, gap, linewidth=1.6, label=descent.name, color=colour, linestyle=line)
    for axes, label in ((left, "measured passes through the data"), (right, "processor seconds")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(alpha=0.25)
        label_axes(axes, label, "objective above its minimum" if axes is left else "")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=TEXT, frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary)


def _lines(*styles: str) -> Iterator[tuple[str, str]]:
    """Colours in the first style, then in the next, that no two be alike."""
    return cycle((colour, style) for style, colour in product(styles, PALETTE))

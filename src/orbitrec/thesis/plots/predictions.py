"""Figure 2.3: what encoders find, over the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from orbitrec.io.files import replacing
from orbitrec.moments.losses import aligned
from orbitrec.report.style import BLUE, GREY, ORANGE, TEXT, label_axes


@dataclass(frozen=True, eq=False)
class Prediction:
    """One problem: its density and signal, and for each encoder's name what it found of both."""

    density: Float[Tensor, "n"]
    signal: Float[Tensor, "n"]
    found: Mapping[str, tuple[Float[Tensor, "n"], Float[Tensor, "n"]]]


def draw_predictions(path: Path, predictions: Sequence[Prediction], title: str) -> None:
    """A row for each problem, density on the left and signal on the right; what was found is shifted onto the truth.

    Args:
        path: the picture, PNG.
        predictions: the problems.
        title: headline.

    Raises:
        InputError: if ``path`` cannot be written.
    """
    figure = Figure(figsize=(10, 2.4 * len(predictions) + 0.6), dpi=120, layout="constrained", facecolor="white")
    figure.suptitle(title, size=13, weight="bold")
    rows = figure.subplots(len(predictions), 2, squeeze=False)
    for row, prediction in zip(rows, predictions, strict=True):
        for column, (axes, truth) in enumerate(zip(row, (prediction.density, prediction.signal), strict=True)):
            _draw(axes, truth, {name: pair[column] for name, pair in prediction.found.items()})
            label_axes(axes, "sample", ("density ρ", "signal v")[column])
    rows[0][1].legend(fontsize=TEXT, frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary)


def _draw(axes: Axes, truth: Float[Tensor, "n"], found: Mapping[str, Float[Tensor, "n"]]) -> None:
    axes.plot(truth.numpy(), color=GREY, linewidth=4, label="truth")
    for (name, values), colour, style in zip(found.items(), (BLUE, ORANGE), ("--", ":"), strict=False):
        axes.plot(aligned(values, truth).numpy(), color=colour, linestyle=style, linewidth=1.8, label=name)

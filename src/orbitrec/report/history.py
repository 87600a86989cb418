"""The history of a run, as rows of ``history.csv`` and as a picture of the log-likelihood, step by step.

Likelihoods at different resolutions are not comparable: steps of one stage and resolution share a band of the picture,
and every stage has a panel of its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file
from orbitrec.report.style import BLUE, GREY, ORANGE, PALETTE, SMALL, TEXT, label_axes
from orbitrec.runtime.progress import HistoryRow, Stage

_LOOKS: dict[str, dict[str, Any]] = {
    "chosen": {"color": BLUE, "linewidth": 1.8, "zorder": 4},
    "candidate": {"color": ORANGE, "linewidth": 1.2, "zorder": 3},
    "not followed": {"color": GREY, "linewidth": 1.0, "zorder": 2},
}


# Stages of files without a column of alternatives, as orbitrec 0.1 wrote them: "start 3", "march to bandwidth 24".
_FORMER_STAGES = (
    (r"start (\d+)", Stage.STARTS),
    (r"select (\d+)", Stage.SELECTION),
    (r"march to bandwidth \S+()", Stage.MARCHING),
    (r"refine (half \d) to bandwidth \S+", Stage.REFINEMENT),
)


def _stage_and_alternative(values: Mapping[str, Any]) -> tuple[Stage, str]:
    written = str(values["stage"])
    if "alternative" in values:
        return Stage(written), str(values["alternative"])
    for pattern, stage in _FORMER_STAGES:
        found = re.fullmatch(pattern, written)
        if found:
            return stage, found[1]
    raise ValueError(f"{written} is not a stage")


def _row(values: Mapping[str, Any]) -> HistoryRow:
    numbers = (float(values[name]) for name in ("resolution_A", "log_likelihood", "seconds"))
    return HistoryRow(*_stage_and_alternative(values), int(values["step"]), *numbers)


def read_history(path: Path) -> list[HistoryRow]:
    """Read a ``history.csv``, of this version or of orbitrec 0.1; a run without a step has no rows.

    Raises:
        InputError: if there is no such file, or it is not such a table.
    """
    if existing_file(path).stat().st_size < 2:
        return []
    try:
        table = pd.read_csv(path, dtype={"stage": str, "alternative": str})
        if "alternative" in table:
            table["alternative"] = table["alternative"].fillna("")
        return [_row({str(name): value for name, value in row.items()}) for row in table.to_dict("records")]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is not the history of a run ({error}); run it again") from error


@dataclass
class _Band:
    """Steps of one stage and resolution: the log-likelihoods of every alternative."""

    stage: str
    resolution_A: float
    curves: dict[str, list[float]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return max(map(len, self.curves.values()))


def _bands(history: Sequence[HistoryRow]) -> list[_Band]:
    """In order of first appearance."""
    bands: dict[tuple[str, float], _Band] = {}
    for row in history:
        key = (row.stage, row.resolution_A)
        bands.setdefault(key, _Band(*key)).curves.setdefault(row.alternative, []).append(row.log_likelihood)
    return list(bands.values())


def _looks(bands: Sequence[_Band], chosen: str | None) -> dict[str, tuple[str, dict[str, Any]]]:
    """Alternative → its name in the legend, and how it is drawn.

    Starts compete: the chosen one stands out, and those of the last competition are its candidates. Half-sets do not,
    since none of them is chosen; each has a colour, in which its own starts are drawn.
    """
    competitions = [band.curves for band in bands if len(band.curves) > 1]
    competitions = [curves for curves in competitions if chosen in curves] or competitions
    if not competitions:
        return {}
    final = {label: np.mean(curve[-max(1, len(curve) // 4) :]) for label, curve in competitions[-1].items()}
    best = max(final, key=lambda label: final[label]) if chosen is None else chosen
    labels = list(dict.fromkeys(label for curves in competitions for label in curves))
    if best not in labels:
        halves = {label: " ".join(label.split()[:2]) for label in labels}  # of "half 1 3", start 3 of half 1
        colours = dict(zip(dict.fromkeys(halves.values()), PALETTE, strict=False))
        return {label: (half, _LOOKS["chosen"] | {"color": colours.get(half, GREY)}) for label, half in halves.items()}
    candidates = final if len(competitions) > 1 else {}
    roles = {
        label: "chosen" if label == best else "candidate" if label in candidates else "not followed" for label in labels
    }
    headline = f"{'highest at the end' if chosen is None else 'chosen'}: {best}"
    return {label: (headline if role == "chosen" else role, _LOOKS[role]) for label, role in roles.items()}


def draw_history(figure: Figure | SubFigure, history: Sequence[HistoryRow], chosen: str | None) -> None:
    """Draw one panel for each stage, shaded by resolution.

    Args:
        figure: to draw on.
        history: the steps in order; alternatives of one stage and resolution are drawn over each other.
        chosen: the alternative that became the map; None marks the one that ends highest.
    """
    bands = _bands(history)
    looks = _looks(bands, chosen)
    stages = [list(group) for _, group in groupby(bands, key=lambda band: band.stage)]
    for column, stage in enumerate(stages):
        axes = figure.add_subplot(1, len(stages), column + 1)
        _draw_stage(axes, stage, looks)
        count = max(len(band.curves) for band in stage)
        axes.set_title(f"{stage[0].stage} × {count}" if count > 1 else stage[0].stage, size=TEXT)
        label_axes(axes, "step", "log-likelihood per particle" if column == 0 else "")
        if column == 0 and looks:
            _draw_legend(axes, looks)


def _draw_legend(axes: Axes, looks: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
    named = sorted(dict(looks.values()).items(), key=lambda entry: -entry[1]["zorder"])
    axes.legend(
        [Line2D([], [], **look) for _, look in named], [name for name, _ in named], fontsize=SMALL, loc="lower right"
    )


def _draw_stage(axes: Axes, bands: list[_Band], looks: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
    """Every step thin and pale, and their running mean strong: single steps scatter more than the curves differ."""
    start = 0
    for index, band in enumerate(bands):
        window = 1 + band.steps // 8
        for label, curve in band.curves.items():
            _, look = looks.get(label, ("", _LOOKS["chosen"]))
            steps = start + 1 + np.arange(len(curve))
            mean = np.convolve(curve, np.full(window, 1 / window), "valid")
            pale: dict[str, Any] = look | {"alpha": 0.2, "linewidth": 0.6}
            axes.plot(steps, curve, **pale)
            axes.plot(steps[: len(mean)] + (window - 1) / 2, mean, **look)
        axes.axvspan(start + 0.5, start + band.steps + 0.5, color="#F2F2F2" if index % 2 == 0 else "#DEDEDE", zorder=0)
        axes.text(
            start + 0.5 + band.steps / 2, 0.98, f"{band.resolution_A:.3g} Å", size=SMALL, ha="center", va="top",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        start += band.steps
    values = [value for band in bands for curve in band.curves.values() for value in curve]
    low, high = float(np.percentile(values, 5)), max(values)  # the first steps rise so far that they hide the rest
    margin = 0.08 * max(high - low, 1e-9)
    axes.set(xlim=(0.5, start + 0.5), ylim=(low - margin, high + 2 * margin))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

"""The log-likelihood of a run, step by step: the starts, those that went on, the march.

A stage's name is a phase and a label ("start 3"). Likelihoods at different resolutions are not comparable, so stages of
one phase and resolution share a band, and each phase has its own panel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from orbitrec.report.style import BLUE, GREY, ORANGE, SMALL, TEXT, label_axes

_ROLES: dict[str, dict[str, Any]] = {
    "chosen": {"color": BLUE, "linewidth": 1.8, "zorder": 4},
    "finalist": {"color": ORANGE, "linewidth": 1.2, "zorder": 3},
    "dropped": {"color": GREY, "linewidth": 1.0, "zorder": 2},
}


@dataclass
class _Band:
    """Stages of one phase and resolution: label of each → its log-likelihoods, step by step."""

    phase: str
    resolution_A: float
    curves: dict[str, list[float]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return max(map(len, self.curves.values()))


def _bands(history: Sequence[Mapping[str, Any]]) -> list[_Band]:
    bands: list[_Band] = []
    for row in history:
        phase, _, label = row["stage"].partition(" ")
        if not bands or (bands[-1].phase, bands[-1].resolution_A) != (phase, row["resolution_A"]):
            bands.append(_Band(phase, row["resolution_A"]))
        bands[-1].curves.setdefault(label, []).append(row["log_likelihood"])
    return bands


def _roles(bands: list[_Band], chosen: str | None) -> dict[str, str]:
    """Label → role of every alternative; the last race is the one whose runners are finalists."""
    races = [band.curves for band in bands if len(band.curves) > 1]
    if not races:
        return {}
    final = {label: np.mean(curve[-max(1, len(curve) // 4) :]) for label, curve in races[-1].items()}
    best = chosen or max(final, key=lambda label: final[label])
    runners_up = final if len(races) > 1 else {}
    return {
        label: "chosen" if label == best else "finalist" if label in runners_up else "dropped"
        for race in races
        for label in race
    }


def draw_history(figure: Figure | SubFigure, history: Sequence[Mapping[str, Any]], chosen: str | None) -> None:
    """One panel for each phase, shaded by resolution; ``history`` and ``chosen`` as in ``RunPicture``."""
    bands = _bands(history)
    roles = _roles(bands, chosen)
    phases = [list(group) for _, group in groupby(bands, key=lambda band: band.phase)]
    for column, phase in enumerate(phases):
        axes = figure.add_subplot(1, len(phases), column + 1)
        _draw_phase(axes, phase, roles)
        count = max(len(band.curves) for band in phase)
        axes.set_title(f"{phase[0].phase} × {count}" if count > 1 else phase[0].phase, size=TEXT)
        label_axes(axes, "step", "log-likelihood per particle" if column == 0 else "")
        if column == 0 and roles:
            _draw_legend(axes, roles, "chosen" if chosen else "highest at the end")


def _draw_legend(axes: Axes, roles: Mapping[str, str], chosen: str) -> None:
    present = [role for role in _ROLES if role in roles.values()]
    label = {role: label for label, role in roles.items()}
    names = [f"{chosen}: {label[role]}" if role == "chosen" else role for role in present]
    axes.legend([Line2D([], [], **_ROLES[role]) for role in present], names, fontsize=SMALL, loc="lower right")


def _draw_phase(axes: Axes, bands: list[_Band], roles: Mapping[str, str]) -> None:
    """Every step faint and their running mean strong; steps on few images scatter more than the curves differ."""
    start = 0
    for index, band in enumerate(bands):
        window = 1 + band.steps // 8
        for label, curve in band.curves.items():
            look = _ROLES[roles.get(label, "chosen")]
            steps = start + 1 + np.arange(len(curve))
            mean = np.convolve(curve, np.full(window, 1 / window), "valid")
            faint: dict[str, Any] = look | {"alpha": 0.2, "linewidth": 0.6}
            axes.plot(steps, curve, **faint)
            axes.plot(steps[: len(mean)] + (window - 1) / 2, mean, **look)
        axes.axvspan(start + 0.5, start + band.steps + 0.5, color="#F2F2F2" if index % 2 == 0 else "#DEDEDE", zorder=0)
        axes.text(
            start + 0.5 + band.steps / 2, 0.98, f"{band.resolution_A:.3g} Å", size=SMALL, ha="center", va="top",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        start += band.steps
    values = [value for band in bands for curve in band.curves.values() for value in curve]
    low, high = float(np.percentile(values, 5)), max(values)  # the first steps climb so far that they hide the rest
    margin = 0.08 * max(high - low, 1e-9)
    axes.set(xlim=(0.5, start + 0.5), ylim=(low - margin, high + 2 * margin))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

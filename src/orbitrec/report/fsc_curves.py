"""Curves of Fourier shell correlation against spatial frequency, their periods in Å along the top."""

import math
from collections.abc import Mapping
from itertools import cycle

from matplotlib.axes import Axes

from orbitrec.evaluation.fsc import FSC
from orbitrec.report.style import BLUE, GREY, ORANGE, PALETTE, SMALL, TEXT, label_axes


def plot_fsc(axes: Axes, fsc: FSC, voxel_size_A: float) -> None:
    """Draw the correlation with the truth, with its cut-offs at 0.5 and 0.143 marked.

    Args:
        axes: to draw on.
        fsc: the curve.
        voxel_size_A: edge of a voxel in Å.
    """
    frequency = fsc.frequency.cpu().numpy() / (2 * math.pi * voxel_size_A)
    axes.plot(frequency, fsc.value.cpu().numpy(), color=BLUE, linewidth=1.8, zorder=3)
    for threshold, line, colour in ((0.5, "--", ORANGE), (0.143, ":", "black")):
        cutoff_A = fsc.cutoff_A(threshold, voxel_size_A)
        axes.axhline(
            threshold, color=colour, linestyle=line, linewidth=1.4, label=f"{threshold:g}: {resolution_text(cutoff_A)}"
        )
        axes.plot(1 / cutoff_A, threshold, "o", color=colour, markersize=6, zorder=4)
    axes.set_title("Fourier shell correlation with the truth", size=TEXT)
    _finish(axes, [fsc], voxel_size_A)


def plot_curves(axes: Axes, curves: Mapping[str, tuple[FSC, float | None]], voxel_size_A: float) -> None:
    """Draw several curves.

    Args:
        axes: to draw on.
        curves: name → the curve, and the threshold at which its resolution is read; a curve without is drawn thin.
        voxel_size_A: edge of a voxel in Å.
    """
    for (name, (fsc, threshold)), colour in zip(curves.items(), cycle(PALETTE), strict=False):
        frequency = fsc.frequency.cpu().numpy() / (2 * math.pi * voxel_size_A)
        values = fsc.value.cpu().numpy()
        if threshold is None:
            axes.plot(frequency, values, color=colour, linewidth=1, linestyle="--", label=name)
            continue
        cutoff_A = fsc.cutoff_A(threshold, voxel_size_A)
        label = f"{name}: {threshold:g} at {resolution_text(cutoff_A)}"
        axes.plot(frequency, values, color=colour, linewidth=1.8, label=label, zorder=3)
        axes.plot(1 / cutoff_A, threshold, "o", color=colour, markersize=6, zorder=4)
    for threshold in sorted({threshold for _, threshold in curves.values() if threshold is not None}):
        axes.axhline(threshold, color=GREY, linestyle="--", linewidth=1)
        axes.text(
            0.005, threshold + 0.01, f"{threshold:g}", size=SMALL, color="#555555", transform=axes.get_yaxis_transform()
        )
    _finish(axes, [fsc for fsc, _ in curves.values()], voxel_size_A)


def resolution_text(value_A: float, digits: int = 1) -> str:
    """A resolution with its unit, to so many decimal digits; "none" for ∞."""
    return f"{value_A:.{digits}f} Å" if math.isfinite(value_A) else "none"


def _finish(axes: Axes, curves: list[FSC], voxel_size_A: float) -> None:
    highest = max(float(fsc.frequency[-1]) for fsc in curves) / (2 * math.pi * voxel_size_A)
    lowest = min(float(fsc.value.min()) for fsc in curves)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.set(xlim=(0, highest), ylim=(min(-0.05, lowest - 0.05), 1.05))
    label_axes(axes, "spatial frequency (1/Å)", "FSC")
    axes.legend(fontsize=TEXT, frameon=False)
    top = axes.secondary_xaxis("top")
    periods = _spaced_periods(highest)
    top.set_xticks([1 / period for period in periods], [f"{period:g} Å" for period in periods])
    top.tick_params(labelsize=SMALL)


def _spaced_periods(highest: float) -> list[float]:
    """Round periods in Å whose frequencies lie at least a tenth of the axis apart, up to the ``highest`` frequency."""
    kept: list[float] = []
    for period in (step * 10.0**decade for decade in (3, 2, 1, 0, -1) for step in (8, 6, 5, 4, 3, 2.5, 2, 1)):
        if 1 / period <= highest and 1 / period - (1 / kept[-1] if kept else 0) >= 0.1 * highest:
            kept.append(period)
    return kept

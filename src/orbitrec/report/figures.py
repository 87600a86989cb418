"""The picture of a run, and the curve of a Fourier shell correlation.

Drawn through matplotlib's objects on the Agg canvas: no pyplot, so no global figure, backend or setting is touched.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.evaluation.fsc import FSC
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.io.files import replacing
from orbitrec.report.fsc_curves import plot_fsc, resolution_text
from orbitrec.report.history import draw_history
from orbitrec.report.sphere import colour_bar, draw_on_sphere, sphere_grid
from orbitrec.report.style import BLUE, SMALL, TEXT, label_axes
from orbitrec.runtime.progress import HistoryRow

_VIEW_WIDTH_DEG = 7.0  # of the kernel that smooths the views: N uniform particles give 1 ± √(67/N)
_VIEW_BINS_DEGREE = 63  # a design of 2,018 directions, 5° apart: finer than the kernel


@dataclass(frozen=True, eq=False)
class RunPicture:
    """The content of the picture of a run.

    Attributes:
        volume: the map, (z, y, x).
        voxel_size_A: edge of a voxel, and pixel size of the images, in Å.
        rotations: each particle's rotation; it is seen along the third column.
        shifts_px: displacement (x, y) of each particle's content in pixels.
        history: the steps of the run, in order.
        fsc: correlation with the truth; None where there is no truth.
        title: headline.
        search_resolution_A: finest resolution of the poses; the history may have a finer one that gained nothing.
        chosen: the alternative of the history that became the map ("3"); None marks the one that ends highest.
    """

    volume: Float[Tensor, "n n n"]
    voxel_size_A: float
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    history: Sequence[HistoryRow]
    fsc: FSC | None
    title: str
    search_resolution_A: float
    chosen: str | None = None


def draw_run(path: Path, picture: RunPicture) -> None:
    """Draw a run on 1600 × 1000 px: map, views, shifts, likelihood and, where the truth is known, the FSC.

    Raises:
        InputError: if ``path`` cannot be written or its suffix is not that of a picture.
    """
    figure = Figure(figsize=(16, 10), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(picture.title, size=15, weight="bold", parse_math=False)  # a file may be named $x$
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.45, 1)).flat
    maps, poses = upper.subfigures(1, 2, width_ratios=(1.15, 1))
    draw_planes(maps, picture.volume, picture.voxel_size_A)
    views, rest = poses.subfigures(2, 1, height_ratios=(1.25, 1))
    draw_views(views, picture.rotations)
    shifts, facts = rest.subplots(1, 2, width_ratios=(1.3, 1))
    draw_shifts(shifts, picture.shifts_px, picture.voxel_size_A)
    _draw_facts(facts, picture)
    if picture.fsc is None:
        draw_history(lower, picture.history, picture.chosen)
    else:
        left, right = lower.subfigures(1, 2, width_ratios=(1.6, 1))
        draw_history(left, picture.history, picture.chosen)
        plot_fsc(right.subplots(), picture.fsc, picture.voxel_size_A)
    save_figure(path, figure)


def draw_fsc(path: Path, fsc: FSC, voxel_size_A: float) -> None:
    """Draw one FSC curve with the thresholds 0.5 and 0.143 and the resolutions at which it falls below them.

    Args:
        path: the picture; its suffix decides the format (.png, .pdf, .svg).
        fsc: the curve.
        voxel_size_A: edge of a voxel in Å.

    Raises:
        InputError: if ``path`` cannot be written or its suffix is not that of a picture.
    """
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained", facecolor="white")
    plot_fsc(figure.subplots(), fsc, voxel_size_A)
    save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> None:
    """Write a picture, atomically.

    Raises:
        InputError: if ``path`` cannot be written or its suffix is not that of a picture.
    """
    kind = path.suffix[1:].lower()
    if kind not in FigureCanvasAgg(figure).get_supported_filetypes():
        raise InputError(f"{path}: no picture has the suffix {path.suffix or '(none)'}; name it .png, .pdf or .svg")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=figure.dpi)


def draw_planes(figure: Figure | SubFigure, volume: Float[Tensor, "n n n"], voxel_size_A: float) -> None:
    """Draw central slices above projections along the same axes; each row has one grey scale.

    Args:
        figure: to draw on.
        volume: the map, (z, y, x).
        voxel_size_A: edge of a voxel in Å, for the scale bar.
    """
    n = volume.shape[0]
    values = volume.detach().cpu().double().numpy()
    planes = (("x", "y", "z", 0), ("x", "z", "y", 1), ("y", "z", "x", 2))  # across, up, along, its array axis
    rows = (
        ("slice {0}{1}", [values.take(n // 2, axis) for *_, axis in planes]),
        ("projection along {2}", [values.sum(axis) for *_, axis in planes]),
    )
    bar_A = _round_length(0.3 * n * voxel_size_A)
    for line, (name, images) in zip(figure.subplots(2, 3), rows, strict=True):
        low, high = np.percentile(images, (0.5, 99.9))
        for axes, image, (across, up, along, _) in zip(line, images, planes, strict=True):
            axes.imshow(image, cmap="gray", origin="lower", vmin=low, vmax=high, interpolation="bicubic")
            axes.set_title(name.format(across, up, along), size=TEXT)
            axes.set_xlabel(f"{across} →", size=SMALL, labelpad=2)
            axes.set_ylabel(f"{up} →", size=SMALL, labelpad=2)
            axes.set(xticks=(), yticks=())
            start, stop = 0.05 * n, 0.05 * n + bar_A / voxel_size_A
            axes.plot((start, stop), (0.05 * n, 0.05 * n), color="white", linewidth=3, solid_capstyle="butt")
            axes.text((start + stop) / 2, 0.07 * n, f"{bar_A:g} Å", color="white", size=SMALL, ha="center", va="bottom")


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50 … that is not longer."""
    decade = 10.0 ** math.floor(math.log10(length))
    return max(step * decade for step in (1, 2, 5) if step * decade <= length)


def view_density(rotations: Float[Tensor, "N 3 3"]) -> VonMisesFisherMixture:
    """Density of the particles' viewing directions ``R e_z``, smoothed over 7° by a von Mises–Fisher kernel.

    It is relative to uniform views: 1 on average over the sphere.
    """
    bins = spherical_design(_VIEW_BINS_DEGREE)
    counts = torch.zeros(len(bins), dtype=torch.float64)
    for part in rotations.detach().cpu().double().split(4096):
        counts += torch.bincount((part[:, :, 2] @ bins.T).argmax(1), minlength=len(bins))
    return VonMisesFisherMixture(bins, torch.full_like(counts, math.radians(_VIEW_WIDTH_DEG) ** -2), counts)


def draw_views(figure: Figure | SubFigure, rotations: Float[Tensor, "N 3 3"]) -> None:
    """Draw the density of the particles' viewing directions on an equal-area map of the sphere."""
    views = view_density(rotations)
    density = torch.stack([views.density(row) for row in sphere_grid()])
    axes = figure.subplots(subplot_kw={"projection": "mollweide"})
    mesh = draw_on_sphere(axes, density, float(density.max()), "viewing directions (equal-area map)")
    colour_bar(figure, mesh, [axes], "particles per direction\nrelative to uniform")


def draw_shifts(axes: Axes, shifts_px: Float[Tensor, "N 2"], pixel_size_A: float) -> None:
    """Draw histograms of the particles' shifts along x and y.

    Args:
        axes: to draw on.
        shifts_px: displacement (x, y) of each particle's content in pixels.
        pixel_size_A: in Å.
    """
    shifts_A = (shifts_px.detach().cpu().double() * pixel_size_A).numpy()
    widest = max(float(np.percentile(np.abs(shifts_A), 99.9)), pixel_size_A)
    edges = np.linspace(-1.1 * widest, 1.1 * widest, 45).tolist()
    x, y = (f"{name}: σ = {shifts_A[:, i].std():.1f} Å" for i, name in enumerate("xy"))
    axes.hist(shifts_A[:, 0], edges, color=BLUE, alpha=0.45, label=x)
    axes.hist(shifts_A[:, 1], edges, color="black", histtype="step", linewidth=1.2, label=y)
    axes.set_title("in-plane shifts", size=TEXT)
    label_axes(axes, "shift of the content (Å)", "particles")
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])
    axes.legend(fontsize=SMALL, frameon=False, ncols=2, loc="upper center", columnspacing=1, handlelength=1.2)


def _draw_facts(axes: Axes, picture: RunPicture) -> None:
    n, voxel = picture.volume.shape[0], picture.voxel_size_A
    facts = {
        "particles": f"{len(picture.rotations):,}",
        "box": f"{n} px = {n * voxel:.0f} Å",
        "pixel size": f"{voxel:.4g} Å",
    }
    if picture.history:
        facts["poses searched to"] = f"{picture.search_resolution_A:.1f} Å"
        facts["time of the search"] = f"{max(row.seconds for row in picture.history):,.0f} s"
    if picture.fsc is not None:
        facts |= {f"FSC {t:g}": resolution_text(picture.fsc.cutoff_A(t, voxel)) for t in (0.5, 0.143)}
    axes.set_axis_off()
    for line, (name, value) in enumerate(facts.items()):
        height = 0.95 - 0.13 * line
        axes.text(0.05, height, name, size=TEXT, color="#555555", va="top", transform=axes.transAxes)
        axes.text(0.95, height, value, size=TEXT, ha="right", va="top", transform=axes.transAxes)

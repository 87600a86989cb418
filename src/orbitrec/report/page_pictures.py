"""The pictures of a page, as addresses that hold the picture itself: the page needs no other file."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor

from orbitrec.evaluation.fsc import FSC
from orbitrec.evaluation.orientation import ConicalFSC
from orbitrec.report.directions import draw_directions
from orbitrec.report.figures import draw_shifts, draw_views
from orbitrec.report.fsc_curves import plot_curves
from orbitrec.report.history import draw_history
from orbitrec.runtime.progress import HistoryRow

_SMALLEST = 192  # pixels of a grey picture: smaller ones are enlarged here, where the interpolation is known


def fsc_picture(curves: Mapping[str, tuple[FSC, float | None]], voxel_size_A: float) -> str:
    """Correlation curves by name, each with the threshold at which its resolution is read, or None."""
    figure = _figure(9.0, 3.6)
    plot_curves(figure.subplots(), curves, voxel_size_A)
    return svg_data(figure)


def views_picture(rotations: Float[Tensor, "N 3 3"]) -> str:
    """The particles' viewing directions on the sphere."""
    figure = _figure(6.0, 3.1)
    draw_views(figure, rotations)
    return png_data(figure)


def conical_fsc_picture(found: ConicalFSC, voxel_size_A: float) -> str:
    """The half-maps' correlation in each direction, and the resolution on the sphere."""
    figure = _figure(11.0, 3.6)
    draw_directions(figure, found, voxel_size_A)
    return png_data(figure)


def shifts_picture(shifts_px: Float[Tensor, "N 2"], pixel_size_A: float) -> str:
    """Histograms of the shifts in x and y."""
    figure = _figure(6.0, 3.1)
    draw_shifts(figure.subplots(), shifts_px, pixel_size_A)
    return svg_data(figure)


def history_picture(history: Sequence[HistoryRow], chosen: str | None) -> str:
    """The log-likelihood, step by step."""
    figure = _figure(11.0, 3.6)
    draw_history(figure, history, chosen)
    return png_data(figure)


def plane_pictures(volume: Float[Tensor, "n n n"], half_width: int) -> dict[str, str]:
    """Central slices and projections along the axes by name, cut to ``half_width`` voxels around the origin."""
    n = len(volume)
    near = slice(n // 2 - half_width, n // 2 + half_width + 1)
    planes = {"z": ("x →, y ↑", 0), "y": ("x →, z ↑", 1), "x": ("y →, z ↑", 2)}
    slices = {
        f"slice {along} = 0 ({axes})": volume.select(d, n // 2)[near, near] for along, (axes, d) in planes.items()
    }
    sums = {f"projection along {along} ({axes})": volume.sum(d)[near, near] for along, (axes, d) in planes.items()}
    return grey_pictures(slices) | grey_pictures(sums)


def grey_pictures(images: Mapping[str, Float[Tensor, "h w"]]) -> dict[str, str]:
    """Images (y, x), y upwards, in one grey scale from the 0.5th to the 99.9th percentile of them all."""
    values = np.concatenate([image.detach().cpu().double().numpy().ravel() for image in images.values()])
    low, high = np.percentile(values, (0.5, 99.9))
    return {name: _grey(image, float(low), float(high)) for name, image in images.items()}


def _grey(image: Float[Tensor, "h w"], low: float, high: float) -> str:
    scale = max(1, -(-_SMALLEST // image.shape[-1]))
    fine = torch.nn.functional.interpolate(
        image.detach().cpu().double()[None, None], scale_factor=float(scale), mode="bicubic", align_corners=False
    )[0, 0]
    file = io.BytesIO()
    imsave(file, fine.numpy(), cmap="gray", vmin=low, vmax=max(high, low + 1e-12), origin="lower", format="png")
    return _data("image/png", file.getvalue())


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")


def svg_data(figure: Figure) -> str:
    """The figure as an SVG data address."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return _data("image/svg+xml", file.getvalue())


def png_data(figure: Figure) -> str:
    """The figure as a PNG data address."""
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return _data("image/png", file.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"

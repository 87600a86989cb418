"""Densities of viewing directions on an equal-area map of the sphere."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from orbitrec.densities.gridded import GriddedDensity
from orbitrec.errors import InputError
from orbitrec.io.files import replacing
from orbitrec.report.style import SMALL, TEXT

_LATITUDES, _LONGITUDES = 91, 181


def sphere_grid() -> Float[Tensor, "latitude longitude 3"]:
    """Unit vectors of a grid of latitudes −90° … 90° (tilt 180° … 0°) and longitudes −180° … 180° (rot)."""
    latitude = torch.linspace(-math.pi / 2, math.pi / 2, _LATITUDES, dtype=torch.float64)
    longitude = torch.linspace(-math.pi, math.pi, _LONGITUDES, dtype=torch.float64)
    lat, lon = torch.meshgrid(latitude, longitude, indexing="ij")
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=-1)


def draw_sphere(
    path: Path, densities: Mapping[str, tuple[Float[Tensor, "D 3"], Float[Tensor, "D"]]], title: str = ""
) -> None:
    """Draw densities of views as Mollweide maps in one colour scale.

    Args:
        path: the picture, PNG.
        densities: name → (directions, values): unit vectors spread evenly over the sphere, such as a spherical design,
            and the density or probability at each, of any scale: it is drawn relative to uniform, 1 on average. To
            compare an estimate with a truth, first rotate its directions by the rotation that aligns its map.
        title: headline.

    Raises:
        InputError: if there is no density, one has negative values or vanishes, or ``path`` cannot be written.
    """
    if not densities:
        raise InputError(f"{path}: there is no density to draw; give at least one")
    for name, (_, density) in densities.items():
        if not (float(density.min()) >= 0 and 0 < float(density.sum()) < math.inf):
            raise InputError(f"{path}: the density “{name}” must not be negative, and must not vanish everywhere")
    values = {name: GriddedDensity(nodes, rho).density(sphere_grid()) for name, (nodes, rho) in densities.items()}
    figure = Figure(figsize=(5.2 * len(values) + 0.8, 3.2), dpi=150, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, size=TEXT + 2, weight="bold")
    panels = figure.subplots(1, len(values), squeeze=False, subplot_kw={"projection": "mollweide"})[0]
    highest = max(float(v.max()) for v in values.values())
    meshes = [draw_on_sphere(axes, v, highest, name) for axes, (name, v) in zip(panels, values.items(), strict=True)]
    colour_bar(figure, meshes[-1], list(panels), "density relative to uniform")
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def draw_on_sphere(
    axes: Axes, values: Float[Tensor, "latitude longitude"], highest: float, title: str, lowest: float = 0.0
) -> QuadMesh:
    """Draw values on the sphere, labelled in RELION's rot and tilt.

    Args:
        axes: to draw on, in the Mollweide projection.
        values: on :func:`sphere_grid`.
        highest: value at the end of the colour scale.
        title: of the panel.
        lowest: value at its beginning.

    Returns:
        The map, for :func:`colour_bar`.
    """
    lat = np.linspace(-np.pi / 2, np.pi / 2, _LATITUDES)
    lon = np.linspace(-np.pi, np.pi, _LONGITUDES)
    mesh = axes.pcolormesh(
        lon, lat, values.numpy(), cmap="viridis", vmin=lowest, vmax=highest, shading="gouraud", rasterized=True
    )
    axes.set_title(title, size=TEXT)
    axes.set_xticks(np.radians((-120, -60, 0, 60, 120)), ["−120°", "−60°", "rot 0°", "60°", "120°"])
    axes.set_yticks(np.radians((60, 30, 0, -30, -60)), ["tilt 30°", "60°", "90°", "120°", "150°"])
    axes.tick_params(axis="x", colors="white", labelsize=SMALL)
    axes.tick_params(axis="y", labelsize=SMALL)
    axes.grid(color="white", alpha=0.35, linewidth=0.6)
    return mesh


def colour_bar(figure: Figure | SubFigure, mesh: QuadMesh, axes: list[Axes], label: str) -> None:
    """Draw a colour bar on which uniform views, 1, are marked.

    Args:
        figure: that the map is on.
        mesh: the map.
        axes: beside which the bar stands.
        label: of the bar.
    """
    bar = figure.colorbar(mesh, ax=axes, shrink=0.85, pad=0.03)
    bar.set_label(label, size=SMALL)
    bar.ax.axhline(1, color="white", linewidth=1.5)
    bar.ax.tick_params(labelsize=SMALL)

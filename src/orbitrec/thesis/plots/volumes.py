"""Maps side by side as isosurfaces, as in Figures 2.8, 2.9 and 3.3–3.6."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.files import replacing
from orbitrec.report.isosurface import fine_grid, render_isosurface, surface_level, surface_share
from orbitrec.report.style import TEXT

SURFACES = ("#B9BEC4", "#E8B93C", "#7FB2DC", "#8CC9A3", "#DDA0C0")
"""Colours of the maps in their order: grey for the truth, yellow for the reconstruction, as the thesis has them."""
VIEWS = {
    "from +z": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    "from +x": torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
}
"""Columns: the picture's right, its up, and the direction to the viewer."""
_PIXELS = 360


def draw_volumes(
    path: Path, maps: Mapping[str, Float[Tensor, "n n n"]], title: str = "", share: float | None = None
) -> None:
    """A column for each map, headed by its name, and a row for each of two views at right angles.

    Args:
        path: the picture, PNG.
        maps: name → density (z, y, x), dense positive. They are drawn as they lie: align them first
            (``evaluation.alignment.align``), the truth first. Boxes may differ if the field of view is the same.
        title: headline.
        share: share of the box inside the surface, the same for all maps, whose scales may then differ; None finds the
            first map's threshold between particle and solvent.

    Raises:
        InputError: if there is no map, one is constant or not finite, or ``path`` cannot be written.
    """
    if not maps:
        raise InputError(f"{path}: there is no map to draw; give at least one")
    for name, volume in maps.items():
        if not float(volume.std()) > 0:
            raise InputError(f"{path}: the map “{name}” is constant or not finite and has no surface to draw")
    fine = {name: fine_grid(volume) for name, volume in maps.items()}
    share = surface_share(next(iter(fine.values()))) if share is None else share
    width = max(map(_filled, fine.values(), (surface_level(v, share) for v in fine.values())))
    figure = Figure(figsize=(3.0 * len(maps), 3.0 * len(VIEWS) + 0.6), dpi=150, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, size=TEXT + 2, weight="bold")
    panels = figure.subplots(len(VIEWS), len(maps), squeeze=False)
    for axes, name in zip(panels[0], fine, strict=True):
        axes.set_title(name, size=TEXT)
    for line, (view, rotation) in zip(panels, VIEWS.items(), strict=True):
        for axes, volume, colour in zip(line, fine.values(), cycle(SURFACES), strict=False):
            picture = render_isosurface(volume, surface_level(volume, share), rotation, _PIXELS, to_rgb(colour), width)
            axes.imshow(picture.numpy(), interpolation="antialiased")
            axes.set(xticks=(), yticks=())
            axes.spines[:].set_visible(False)
            if axes is line[0]:
                axes.set_ylabel(view, size=TEXT, color="#555555")
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _filled(volume: Float[Tensor, "n n n"], level: float) -> float:
    """Edge of the picture, in boxes, that holds all but the outermost thousandth of the surface's inside."""
    n = len(volume)
    inside = (volume > level).nonzero().float() - n // 2
    return min(1.0, 2.2 * float(inside.norm(dim=1).quantile(0.999)) / n) if len(inside) < 1 << 24 else 1.0

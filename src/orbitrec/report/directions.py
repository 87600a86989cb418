"""The picture of how the resolution of a map depends on the direction."""

import math

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from orbitrec.evaluation.orientation import HALF_MAP_THRESHOLD, ConicalFSC
from orbitrec.report.fsc_curves import plot_curves, resolution_text
from orbitrec.report.sphere import draw_on_sphere, sphere_grid
from orbitrec.report.style import GREY, SMALL

_WIDEST_SCALE = 4.0  # coarsest resolution that has a colour of its own, over the finest
_SMOOTHING_DEG = 8.0  # of the kernel between the cones' axes, which are 13° apart


def draw_directions(figure: Figure | SubFigure, found: ConicalFSC, voxel_size_A: float) -> None:
    """Draw the correlation curves of all cones, the best and the worst marked, beside the resolution on the sphere.

    Args:
        figure: to draw on.
        found: the correlation of the half-maps in each direction.
        voxel_size_A: edge of a voxel in Å.
    """
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.15)).flat
    _draw_cones(left.subplots(), found, voxel_size_A)
    resolution = _on_sphere(found, voxel_size_A)
    axes = right.subplots(subplot_kw={"projection": "mollweide"})
    lowest = float(resolution.min())
    highest = min(float(resolution.max()), _WIDEST_SCALE * lowest)
    title = "resolution by direction (equal-area map)"
    mesh = draw_on_sphere(axes, resolution, max(highest, 1.01 * lowest), title, lowest)
    coarser = "max" if float(resolution.max()) > highest else "neither"
    bar = right.colorbar(mesh, ax=[axes], shrink=0.85, pad=0.03, extend=coarser)
    bar.set_label(f"FSC {HALF_MAP_THRESHOLD:g} in a cone (Å)", size=SMALL)
    bar.ax.tick_params(labelsize=SMALL)


def _draw_cones(axes: Axes, found: ConicalFSC, voxel_size_A: float) -> None:
    areas = found.areas()
    low, high = found.value.amin(0).numpy(), found.value.amax(0).numpy()
    frequency = found.frequency.numpy() / (2 * math.pi * voxel_size_A)
    axes.fill_between(frequency, low, high, color=GREY, alpha=0.3, linewidth=0, label="all directions")
    ends = {"best direction": int(areas.argmax()), "worst direction": int(areas.argmin())}
    plot_curves(axes, {name: (found.curve(axis), HALF_MAP_THRESHOLD) for name, axis in ends.items()}, voxel_size_A)
    axes.set_ylim(bottom=-0.1)  # beyond the resolution the curves of single cones are noise


def _on_sphere(found: ConicalFSC, voxel_size_A: float) -> Float[Tensor, "latitude longitude"]:
    """The resolution in Å at the points of :func:`sphere_grid`, between the axes by a smooth mean of frequencies."""
    frequency = 1 / found.cutoffs_A(voxel_size_A)
    concentration = math.radians(_SMOOTHING_DEG) ** -2
    weight = torch.exp(concentration * ((sphere_grid() @ found.axes.T).abs() - 1))
    mean = (weight @ frequency) / weight.sum(-1)
    return 1 / mean.clamp(min=float(found.frequency[1]) / (2 * math.pi * voxel_size_A))


def direction_sentences(found: ConicalFSC, voxel_size_A: float, scf_star: float, unsampled: float) -> list[str]:
    """What the numbers say.

    Args:
        found: the correlation of the half-maps in each direction.
        voxel_size_A: edge of a voxel in Å.
        scf_star: SCF* of the views.
        unsampled: share of the directions of Fourier space that no view shows.

    Returns:
        A sentence on the views, and one on the half-maps.
    """
    finest, coarsest = (resolution_text(value) for value in found.extremes_A(voxel_size_A))
    x, y, z = found.axes[int(found.areas().argmin())].tolist()
    rot, tilt = math.degrees(math.atan2(y, x)), math.degrees(math.acos(z))
    return [
        f"Views: SCF* {scf_star:.2f} (1 for uniform views, 0.81 for side views); {100 * unsampled:.0f} % of the "
        "directions of Fourier space are in no particle's slice.",
        f"Half-maps in cones of 20°, within the mask: FSC 0.143 between {finest} and {coarsest}; cFAR "
        f"{found.area_ratio:.2f} (1: as good in all directions). The worst direction is about rot {rot:.0f}°, tilt "
        f"{tilt:.0f}° and its opposite: there the map is smeared most.".replace("rot -", "rot −"),
    ]

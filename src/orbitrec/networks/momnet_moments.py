"""Between a stack and MoM-net: its moments on the network's grid, and the views that the network finds.

The moments are accumulated as for moment matching and interpolated from their own radial nodes to the network's.
"""

from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.gridded import GriddedDensity
from orbitrec.geometry.polar import PolarGrid
from orbitrec.moments.analytic import Moments
from orbitrec.moments.plane import radial_interpolation
from orbitrec.networks.momnet import MomNetEstimate, MomNetSetting


def interpolated_moments(moments: Moments, grid: PolarGrid, setting: MomNetSetting, radius: float) -> Moments:
    """The moments of a stack on the grid of the network, as a batch of one.

    Args:
        moments: of one stack, averaged over in-plane rotations.
        grid: their polar grid; it must hold the setting's frequencies and modes.
        setting: the network's.
        radius: of the particle's ball, in the pixels of ``grid``.

    Returns:
        The same moments, interpolated at the radial nodes of the network.

    Raises:
        InputError: if the images do not reach the network's resolution.
    """
    wanted = setting.grid_for(grid.box, radius)
    between = radial_interpolation(grid, wanted.nodes) * wanted.scale
    kept = wanted.max_mode + 1
    kind = moments.second.dtype
    matrix = between.to(kind)
    first = moments.first[:kept] @ matrix
    second = matrix.mT @ moments.second[:kept] @ matrix
    return Moments(first[None], second[None], moments.weights[:kept])


def log_views(estimate: MomNetEstimate, setting: MomNetSetting, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
    """The log density of views that the network found, at any directions.

    The network was trained on the setting's directions only, and between them its polynomial oscillates. So the density
    is taken at the setting's directions and smoothed from there.

    Args:
        estimate: the network's output, a batch of one.
        setting: the network's.
        directions: unit vectors (d, 3).

    Returns:
        Log probabilities (d,) of the directions; the probabilities sum to 1.
    """
    own = estimate.density(setting.harmonics(setting.directions))[0]
    smooth = GriddedDensity(setting.directions, own).probabilities(directions.to(own))
    return smooth.clamp(min=1e-12).log()

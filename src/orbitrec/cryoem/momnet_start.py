"""A start for the main job from MoM-net: a stack's moments on the network's grid, and the network's answer.

The moments are accumulated as for moment matching and prolongated from their own radial nodes to the network's.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.gridded import GriddedDensity
from orbitrec.geometry.polar import PolarGrid
from orbitrec.moments.analytic import Moments
from orbitrec.moments.plane import radial_interpolation
from orbitrec.networks.momnet import MomNetEstimate, MomNetSetting


def carried_moments(moments: Moments, grid: PolarGrid, setting: MomNetSetting, radius: float) -> Moments:
    """A batch of one on the setting's grid for a particle's ball of ``radius`` pixels of ``grid``.

    Args:
        moments: uniform-angle moments of one stack.
        grid: their grid; it must reach the setting's frequencies and modes.
        setting: the network's.
        radius: of the ball, in the pixels of ``grid``.

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
    """Log probabilities of directions, summing to 1, of an estimate that is a batch of one.

    The network was trained on the setting's directions alone. Between them its polynomial runs wild, so the density is
    smoothed from there.
    """
    own = estimate.density(setting.harmonics(setting.directions))[0]
    smooth = GriddedDensity(setting.directions, own).probabilities(directions.to(own))
    return smooth.clamp(min=1e-12).log()


def smooth_views(estimate: MomNetEstimate, setting: MomNetSetting, directions: Float[Tensor, "d 3"]) -> MomNetEstimate:
    """The same estimate, its log density the polynomial nearest to :func:`log_views` on many directions."""
    harmonics = setting.harmonics(directions).to(estimate.log_density)
    design = torch.cat([harmonics, harmonics.new_ones(len(directions), 1)], dim=1)
    fitted = torch.linalg.lstsq(design, log_views(estimate, setting, directions)[:, None]).solution
    return replace(estimate, log_density=fitted[:-1].mT)

"""The asymmetric unit of directions: one of all that a point group makes equivalent, and points spread evenly over it.

The unit is the set of directions that are nearer to one fixed direction than to any of its copies (a Dirichlet cell).
"""

import math
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.quadrature import design_sizes, spherical_design, spiral_points

_CENTRE = (0.02, 0.4, 1.0)
"""Along the cell's centre: on no axis of a group in the settings of :mod:`orbitrec.geometry.point_groups`."""
_FINE = 16
"""Points that stand for the area around each point."""
_ROUNDS = 25


def in_asymmetric_unit(rotations: Float[Tensor, "N 3 3"], group: PointGroup) -> Float[Tensor, "N 3 3"]:
    """The equivalent poses whose viewing directions are in the asymmetric unit.

    Args:
        rotations: RELION's rotations of particles.
        group: of the particle, in its standard setting; without one the poses are returned as they are.

    Returns:
        ``g R`` for each R: the images are the same.
    """
    if group.order == 1:
        return rotations
    copies = group.matrices().to(rotations)
    return copies[_nearest(rotations[:, :, 2], copies)] @ rotations


def spread_directions(degree: int, group: PointGroup) -> Float[Tensor, "d 3"]:
    """Directions in the asymmetric unit and their opposites, as dense as those of a spherical design.

    Directions and their opposites have mirrored images, so points are spread over the sphere modulo the group and the
    reflection in the origin: the centroids of their own cells, found by Lloyd's iterations (Du, Faber and Gunzburger
    1999). There is no seam at the borders of the unit, where a part of a design would have points twice or not at all.

    Args:
        degree: of the design; without a group, the directions are the design's own.
        group: the point group.

    Returns:
        Unit vectors (d, 3); the second half is minus the first.
    """
    if group.order == 1:
        return spherical_design(degree)
    half = _spread(degree, group)
    return torch.cat([half, -half])


@cache
def _spread(degree: int, group: PointGroup) -> Float[Tensor, "h 3"]:
    rotations = group.matrices()
    copies = torch.cat([rotations, -rotations])
    sizes = design_sizes()
    whole = sizes[min(t for t in sizes if t >= degree)]
    count = math.ceil(whole / len(copies))
    fine = spiral_points(_FINE * count * len(copies))
    fine = fine[_nearest(fine, copies) == 0]
    points = fine[:1]
    nearest = _cosines(fine, points, copies).amax(1)
    for _ in range(count - 1):  # each new point is the farthest from those before
        points = torch.cat([points, fine[nearest.argmin()][None]])
        nearest = torch.maximum(nearest, _cosines(fine, points[-1:], copies).amax(1))
    for _ in range(_ROUNDS):
        own = _cosines(fine, points, copies).argmax(1)
        element, index = own % len(copies), own // len(copies)
        moved = torch.einsum("fji,fj->fi", copies[element], fine)  # to the copy of its point that is listed
        points = normalize(torch.zeros_like(points).index_add_(0, index, moved) + 1e-9 * points, dim=1)
    return points


def _cosines(
    at: Float[Tensor, "f 3"], points: Float[Tensor, "p 3"], copies: Float[Tensor, "g 3 3"]
) -> Float[Tensor, "f pg"]:
    """Cosines of the angles from places to all copies of points."""
    return at @ torch.einsum("gij,pj->pgi", copies, points).flatten(0, 1).mT


def _nearest(directions: Float[Tensor, "N 3"], copies: Float[Tensor, "g 3 3"]) -> Int[Tensor, "N"]:
    """Index of the copy that takes each direction nearest to the unit's centre."""
    centre = normalize(directions.new_tensor(_CENTRE), dim=0)
    return (directions @ (centre @ copies).mT).argmax(1)

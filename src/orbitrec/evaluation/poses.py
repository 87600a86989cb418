"""How far poses agree with reference poses, where a symmetry makes several of them the same."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.geometry.rotations import geodesic_distance, mirrored_views, rotation_vector_to_matrix

_ROUNDS = 20
_STARTS = 40


def angular_errors(
    rotations: Float[Tensor, "N 3 3"], reference: Float[Tensor, "N 3 3"], group: PointGroup = NO_SYMMETRY
) -> Float[Tensor, "N"]:
    """Angles in degrees to the nearest of the poses that are equivalent to the reference, once frames are aligned.

    The frame of a map is arbitrary and so is its hand: both are chosen so that errors are small for most particles, by
    the geometric median of the rotations between equivalent poses (Weiszfeld's iterations, from the best of several
    particles).

    Args:
        rotations: (N, 3, 3) of particles, in RELION's convention.
        reference: (N, 3, 3) of the same particles, in the setting of ``group``.
        group: of the reference.

    Returns:
        The errors (N,).
    """
    hands = (rotations, mirrored_views(rotations))
    errors = [_aligned_errors(each.double(), reference.double(), group.matrices()) for each in hands]
    return min(errors, key=lambda each: float(each.median()))


def _aligned_errors(
    rotations: Float[Tensor, "N 3 3"], reference: Float[Tensor, "N 3 3"], group: Float[Tensor, "g 3 3"]
) -> Float[Tensor, "N"]:
    """In degrees, at the best rotation Q of the frame: of ``g Q R_j`` from the reference."""
    between = reference @ rotations.mT  # Q, if the particle's pose is right and its copy the first
    tries = between[torch.linspace(0, len(between) - 1, min(_STARTS, len(between))).long()]
    frame = min(tries, key=lambda each: float(_nearest(each, between, group)[1].median()))
    for _ in range(_ROUNDS):
        copies, distance = _nearest(frame, between, group)
        step = copies @ frame.mT
        skew = torch.stack(
            [step[:, 2, 1] - step[:, 1, 2], step[:, 0, 2] - step[:, 2, 0], step[:, 1, 0] - step[:, 0, 1]]
        )
        vector = (skew / 2).mT * (distance / distance.sin().clamp(min=1e-9))[:, None]
        weight = 1 / distance.clamp(min=math.radians(0.5))
        frame = rotation_vector_to_matrix((weight @ vector) / weight.sum()) @ frame
    return torch.rad2deg(_nearest(frame, between, group)[1])


def _nearest(
    frame: Float[Tensor, "3 3"], between: Float[Tensor, "N 3 3"], group: Float[Tensor, "g 3 3"]
) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N"]]:
    """Of the rotations ``g Q_j`` those nearest to a frame, and their angles from it in radians."""
    copies = group @ between[:, None]
    distance, element = geodesic_distance(copies, frame).min(1)
    return copies[torch.arange(len(between)), element], distance

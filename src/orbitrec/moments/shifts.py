"""Gaussian shifts of particles in moments of any order: templates at the nodes of a rule, with its weights."""

import math

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.geometry.polar import PolarGrid

_NODES = 4  # of an axis: polynomials of degree 7 in a shift are averaged exactly


def shifted_templates(
    half: Complex[Tensor, "h m k"], density: Float[Tensor, "d"], grid: PolarGrid, sigma: float
) -> tuple[Complex[Tensor, "hs m k"], Float[Tensor, "ds"]]:
    """Templates of half of the directions, moved, and the probabilities of directions and shifts.

    A shift multiplies a frequency by a phase, so that compressed coordinates mix and moments of more than two factors
    have no closed form in them. But the average over shifts is a Gauss–Hermite sum of few terms while ``σ k`` is about
    one or less. The template of the opposite direction at the shift (x, y) is the mirror image of the template at
    (x, −y), and the rule has both with one weight: opposite templates stay ``(−1)^m conj`` of each other.

    Args:
        half: templates of the first half of the directions.
        density: probabilities of all directions, direction ``i + d/2`` being minus direction i.
        grid: the templates' grid. Shifts bring modes in from beyond those that it has.
        sigma: standard deviation of the shifts in x and in y, pixels.

    Returns:
        Templates of every direction and shift, and probabilities, those of opposite directions in the second half.
    """
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(_NODES))
    share = torch.outer(weights, weights).flatten() / (2 * math.pi)
    moved = grid.shift(half, sigma * torch.cartesian_prod(nodes, nodes)).flatten(0, 1)
    here, opposite = (part[:, None] * share.to(part) for part in density.chunk(2))
    return moved, torch.cat([here.flatten(), opposite.flatten()])

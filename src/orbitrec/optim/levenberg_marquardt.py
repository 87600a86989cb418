"""Levenberg–Marquardt for many small independent problems at once, on manifolds too.

For each item F is modelled around its point p by ``F + gᵀδ + ½ δᵀHδ``, with H positive semidefinite, of least squares
the Gauss–Newton matrix JᵀJ. The step solves ``(H + λ D) δ = −g``; where F falls it is taken and λ shrinks, else the
item stays and λ grows (Levenberg 1944; Marquardt 1963; Nocedal and Wright 2006, section 10.3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Point = tuple[Tensor, ...]
"""Tensors whose first axis is the item, such as rotations (b, 3, 3) and shifts (b, 2)."""


class LocalModel(NamedTuple):
    """F of every item to second order in a step: value, gradient, and a positive semidefinite Gauss–Newton matrix."""

    value: Float[Tensor, "b"]
    gradient: Float[Tensor, "b p"]
    matrix: Float[Tensor, "b p p"]


@dataclass(frozen=True)
class Damping:
    """How λ starts and changes, and the diagonal that it multiplies: ``D = diag(H) + floor``.

    Attributes:
        start: λ at the beginning.
        decrease: λ is divided by this after a step that lowered F.
        increase: λ is multiplied by this after one that did not.
        floor: keeps D positive where F does not depend on a parameter.
        ridge: added to the diagonal for every λ, so that the system can be solved.
    """

    start: float = 1e-3
    decrease: float = 10.0
    increase: float = 10.0
    floor: float = 0.0
    ridge: float = 0.0


def minimise(
    model: Callable[[Point], LocalModel],
    retract: Callable[[Point, Float[Tensor, "b p"]], Point],
    start: Point,
    *,
    steps: int,
    damping: Damping = Damping(),
    settled: float = 0.0,
) -> tuple[Point, Float[Tensor, "b"]]:
    """Minimise F of each of b independent items from its own point. No item's F ever rises.

    Args:
        model: value, gradient and matrix of all items at their points.
        retract: the points that steps lead to: ``p + δ``, or on a manifold the point that belongs to δ in the tangent
            space. Gradient and matrix are derivatives in the same δ.
        start: where each item begins.
        steps: the most that are tried; the model is evaluated once more than this.
        damping: the rule for λ; every item has its own λ.
        settled: end early when no item's F would change by as much as this; 0 makes all steps.

    Returns:
        The last accepted point of each item, and F (b,) there.

    Raises:
        RuntimeError: if the damped matrix of some item is singular; a ``floor`` or a ``ridge`` prevents it.
    """
    point, at = start, model(start)
    strength = torch.full_like(at.value, damping.start)
    for _ in range(steps):
        trial = retract(point, -torch.linalg.solve(_damped(at.matrix, strength, damping), at.gradient))
        there = model(trial)
        better = there.value < at.value
        small = bool(((there.value - at.value).abs() < settled).all()) if settled else False
        point, at = _chosen(better, trial, point), LocalModel(*_chosen(better, there, at))
        strength = torch.where(better, strength / damping.decrease, strength * damping.increase)
        if small:
            break
    return point, at.value


def _damped(matrix: Float[Tensor, "b p p"], strength: Float[Tensor, "b"], damping: Damping) -> Float[Tensor, "b p p"]:
    diagonal = damping.floor + matrix.diagonal(dim1=1, dim2=2)
    return matrix + torch.diag_embed(diagonal * strength[:, None] + damping.ridge)


def _chosen(better: Bool[Tensor, "b"], new: Point, old: Point) -> Point:
    """The items of ``new`` where better, else those of ``old``."""
    return tuple(torch.where(better.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(new, old, strict=True))

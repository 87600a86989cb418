"""Equal-weight quadrature on the sphere, the circle and SO(3).

A spherical design of degree t is a set of unit vectors whose plain average integrates every polynomial of degree at
most t over the sphere. Those of the package are antipodal, of every odd degree from 3 to 63, with about (t + 1)²/2
points and max |mean Y_lm| < 1e-14; ``tools/make_designs.py`` computes them.
"""

import math
from functools import cache
from importlib.resources import as_file, files

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.rotations import direction_frames, in_plane


@cache
def _designs() -> dict[int, np.ndarray]:
    """Degree → one point of each antipodal pair, by increasing degree."""
    with as_file(files("orbitrec.geometry") / "designs.npz") as path, np.load(path) as designs:
        return {degree: designs[str(degree)] for degree in sorted(map(int, designs.files))}


def design_sizes() -> dict[int, int]:
    """Degree → number of points of every design there is, by increasing degree."""
    return {degree: 2 * len(half) for degree, half in _designs().items()}


def spherical_design(degree: int) -> Float[Tensor, "points 3"]:
    """Unit vectors of the smallest design that is exact to at least ``degree``; every weight is 1/points.

    The set is antipodal: point ``i + points // 2`` is minus point ``i``.

    Raises:
        InputError: if ``degree`` is beyond the largest design.
    """
    designs = _designs()
    largest = max(designs)
    if degree > largest:
        raise InputError(f"there is no spherical design of degree {degree}; choose a degree of at most {largest}")
    half = torch.from_numpy(designs[min(t for t in designs if t >= degree)])
    return torch.cat([half, -half])


def spiral_points(count: int) -> Float[Tensor, "count 3"]:
    """Unit vectors spread evenly over the sphere along a spiral of Fibonacci, as many as are wanted."""
    step = torch.arange(count, dtype=torch.float64)
    z, azimuth = 1 - (2 * step + 1) / count, math.pi * (3 - math.sqrt(5)) * step
    flat = (1 - z.square()).sqrt()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), z], dim=1)


def circle_rule(count: int) -> Float[Tensor, "count"]:
    """Angles ``2πj/count`` in radians, weights 1/count: exact for ``e^{imψ}``, −count < m < count.

    Raises:
        InputError: if ``count`` is not positive.
    """
    if count < 1:
        raise InputError(f"a circle rule of {count} angles is empty; choose at least 1")
    return 2 * math.pi * torch.arange(count, dtype=torch.float64) / count


def design_circle_rule(degree: int, angles: int) -> Float[Tensor, "points angles 3 3"]:
    """Rotations ``frame(direction) Rz(psi)`` over a spherical design and a circle rule, every weight the same.

    The average over them integrates Wigner's ``D^l_mn`` over SO(3) for l up to min(design's degree, angles − 1): the
    circle removes n ≠ 0 up to ±(angles − 1), and the design removes n = 0 with l ≠ 0. The thesis's rule (2.4.2),
    ``design_circle_rule(13, 12)`` with its 100 × 12 rotations, is thus exact to degree 11 only: 12 angles alias at 12.

    Raises:
        InputError: if ``degree`` is beyond the largest design or ``angles`` is not positive.
    """
    return direction_frames(spherical_design(degree))[:, None] @ in_plane(circle_rule(angles))

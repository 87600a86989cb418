"""Points of the centred grids on which images, volumes and their transforms are sampled, and the shells they lie on.

Index ``n // 2`` is the origin for even and odd ``n``, and axes are in array order, (y, x) or (z, y, x), while vectors
are in xyz order (``docs/conventions.md``). Point j of the pixel grid lies at ``j − n//2`` pixels; point j of the
transform's grid lies at the frequency ``2π(j − n//2)/n`` radians per pixel. So both grids share their radii in steps,
and shell s is all points whose radius is nearest to s steps.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def pixels(n: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "n"]:
    """Centred pixel positions ``j − n//2``, j = 0 … n−1, along one axis."""
    return torch.arange(n, dtype=dtype) - n // 2


def frequencies(n: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "n"]:
    """Centred DFT frequencies ``2π(j − n//2)/n``, j = 0 … n−1, along one axis, in radians per pixel."""
    return 2 * math.pi * pixels(n, dtype) / n


def vectors(axis: Float[Tensor, "n"], ndim: int = 2) -> Float[Tensor, "*grid ndim"]:
    """The points of the ``ndim``-dimensional grid with one ``axis`` along every edge: vectors in xyz order."""
    return torch.stack(torch.meshgrid(*[axis] * ndim, indexing="ij")[::-1], dim=-1)


def pixel_vectors(n: int, ndim: int = 2, dtype: torch.dtype = torch.float64) -> Float[Tensor, "*grid ndim"]:
    """Positions (x, y) or (x, y, z) of the points of the centred ``n``^ndim grid, in pixels.

    Args:
        n: points along an edge.
        ndim: 2 for an image, 3 for a volume.
        dtype: real dtype of the result.

    Returns:
        An array over the grid, axes (y, x) or (z, y, x), whose last axis is the vector.
    """
    return vectors(pixels(n, dtype), ndim)


def frequency_vectors(n: int, ndim: int = 2, dtype: torch.dtype = torch.float64) -> Float[Tensor, "*grid ndim"]:
    """Frequencies (kx, ky) or (kx, ky, kz) of the points of the centred ``n``^ndim DFT grid, in radians per pixel.

    Args:
        n: points along an edge.
        ndim: 2 for an image, 3 for a volume.
        dtype: real dtype of the result.

    Returns:
        An array over the grid, axes (y, x) or (z, y, x), whose last axis is the vector.
    """
    return vectors(frequencies(n, dtype), ndim)


def radial_frequencies(n: int, ndim: int = 2, dtype: torch.dtype = torch.float64) -> Float[Tensor, "*grid"]:
    """Length of the frequency vector at every point of the centred ``n``^ndim DFT grid, in radians per pixel.

    Args:
        n: points along an edge.
        ndim: 1 for a signal, 2 for an image, 3 for a volume.
        dtype: real dtype of the result.

    Returns:
        An array over the grid.
    """
    return _radii(frequencies(n, dtype), ndim)


def radii(n: int, ndim: int = 2, dtype: torch.dtype = torch.float64) -> Float[Tensor, "*grid"]:
    """Distance from the origin of every point of the centred ``n``^ndim grid, in steps of the grid.

    On a grid of pixels these are pixels; on the grid of a transform they are cycles per box.

    Args:
        n: points along an edge.
        ndim: 1 for a signal, 2 for an image, 3 for a volume.
        dtype: real dtype of the result.

    Returns:
        An array over the grid.
    """
    return _radii(pixels(n, dtype), ndim)


def shell_indices(n: int, ndim: int = 2) -> Int[Tensor, "*grid"]:
    """The shell of every point of the centred ``n``^ndim grid: its radius rounded to whole steps.

    No radius, the root of an integer, lies halfway between two shells. Points in the corners, beyond ``n // 2``, have
    shells of their own.
    """
    return radii(n, ndim).round().long()


def shell_frequencies(n: int, count: int | None = None) -> Float[Tensor, "s"]:
    """Radii ``2πs/n`` of the shells of a box of ``n``, in radians per pixel: s = 0 … n//2, or ``count`` of them."""
    return 2 * math.pi * torch.arange(n // 2 + 1 if count is None else count, dtype=torch.float64) / n


def nearest_shells(k: Float[Tensor, "*shape"], n: int) -> Int[Tensor, "*shape"]:
    """The shell of a box of ``n`` that is nearest to each radial frequency ``k`` in radians per pixel."""
    return (k * (n / (2 * math.pi))).round().long()


def _radii(axis: Float[Tensor, "n"], ndim: int) -> Float[Tensor, "*grid"]:
    return torch.stack(torch.meshgrid(*[axis] * ndim, indexing="ij")).square().sum(0).sqrt()

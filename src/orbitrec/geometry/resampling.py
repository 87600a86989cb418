"""Band-limited resampling of centred images at any ratio of pixel sizes."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.grids import pixels


def resampling_matrix(n: int, size: int, step: float) -> Float[Tensor, "size n"]:
    """The matrix A such that ``A x Aᵀ`` is the image x on a coarser or finer grid.

    Index n//2 of the image and size//2 of the result are the same point. The value is that of the trigonometric
    polynomial through the pixels, without its frequencies from the new Nyquist frequency on:
    ``Σ_q cos(2π q (x − j)/n) / n`` over whole ``|q| < n / (2 max(step, 1))``. So content keeps its values, and a
    transform is cropped without its box having to be a whole number of new pixels.

    Args:
        n: edge of the image in pixels.
        size: edge of the result in new pixels.
        step: size of a new pixel in pixels of the image.

    Returns:
        One row for each new pixel along an axis.

    Raises:
        InputError: if the points reach beyond the image.
    """
    if (size - 1) * step > n:
        raise InputError(f"{size} pixels {step:g} pixels apart do not fit an image of {n} pixels; choose a smaller box")
    apart = step * pixels(size)[:, None] - pixels(n)
    highest = math.ceil(n / (2 * max(step, 1.0))) - 1
    q = torch.arange(1, highest + 1, dtype=torch.float64)
    return (1 + 2 * torch.cos(2 * math.pi / n * apart[..., None] * q).sum(-1)) / n

"""Centred unitary Fourier transforms and cropping in Fourier space.

Kernel ``e^{-ikx}``, unitary, and index ``n // 2`` is the origin in both domains for even and odd ``n``
(``docs/conventions.md``). The points of both domains are those of :mod:`orbitrec.geometry.grids`.
"""

import torch
from jaxtyping import Complex, Shaped
from torch import Tensor

from orbitrec.errors import InputError


def _last(ndim: int) -> tuple[int, ...]:
    return tuple(range(-ndim, 0))


def centred_fft(x: Shaped[Tensor, "..."], ndim: int = 2) -> Complex[Tensor, "..."]:
    """Unitary DFT over the last ``ndim`` axes, origin at index ``n // 2`` in and out."""
    dims = _last(ndim)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dim=dims), dim=dims, norm="ortho"), dim=dims)


def centred_ifft(x: Shaped[Tensor, "..."], ndim: int = 2) -> Complex[Tensor, "..."]:
    """Inverse (and adjoint) of :func:`centred_fft`."""
    dims = _last(ndim)
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, dim=dims), dim=dims, norm="ortho"), dim=dims)


def fourier_crop(x: Shaped[Tensor, "..."], size: int, ndim: int = 2) -> Shaped[Tensor, "..."]:
    """The low frequencies of a centred transform, values unchanged.

    Args:
        x: the transform, square or cubic in its last axes.
        size: edge of the result in points.
        ndim: how many of the last axes are cropped.

    Returns:
        The ``size``^ndim points about the origin.

    Raises:
        InputError: if ``size`` is larger than an axis or smaller than 1.
    """
    for dim in _last(ndim):
        n = x.shape[dim]
        if not 1 <= size <= n:
            raise InputError(f"cannot crop a Fourier axis of {n} points to {size}; choose a size between 1 and {n}")
        x = x.narrow(dim, n // 2 - size // 2, size)
    return x


def fourier_pad(x: Shaped[Tensor, "..."], size: int, ndim: int = 2) -> Shaped[Tensor, "..."]:
    """Adjoint of :func:`fourier_crop`: the centred transform set in a larger grid of zeros.

    Args:
        x: the transform, square or cubic in its last axes.
        size: edge of the result in points.
        ndim: how many of the last axes are padded.

    Returns:
        ``size``^ndim points, the origin again at ``size // 2``.

    Raises:
        InputError: if ``size`` is smaller than an axis.
    """
    for dim in _last(ndim):
        n = x.shape[dim]
        if size < n:
            raise InputError(f"cannot pad a Fourier axis of {n} points to {size}; choose a size of at least {n}")
    shape = (*x.shape[:-ndim], *([size] * ndim))
    out = x.new_zeros(shape)
    window = out
    for dim in _last(ndim):
        n = x.shape[dim]
        window = window.narrow(dim, size // 2 - n // 2, n)
    window.copy_(x)
    return out

"""Moments as N noisy particles would give them, without making the particles.

Averages over millions of images are Gaussian by the central limit theorem, so it is enough to draw them with the right
mean and covariance. The product ``Y Y*`` of ``Y = T_d e^{−imα} + noise`` has three independent sources of error: how
many particles are seen along each direction (multinomial), signal times noise, and noise times noise.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.geometry.polar import PolarGrid
from orbitrec.moments.analytic import Moments, uniform_moments
from orbitrec.moments.cumulants import Blocks, recentred, third_sums


def sampled_moments(
    templates: Complex[Tensor, "d m k"],
    density: Float[Tensor, "d"],
    grid: PolarGrid,
    *,
    sigma: float,
    count: int,
    generator: torch.Generator,
) -> Moments:
    """Debiased moments (2.19) of ``count`` particles with uniform in-plane angles and white noise of ``sigma``.

    Viewing directions are drawn from those of the templates. Modes m ≠ m' are taken as independent; the square of
    pixels couples those that differ by multiples of four, weakly.

    Args:
        templates: polar templates, one for each direction.
        density: probabilities of the directions.
        grid: the templates' grid.
        sigma: standard deviation of the noise in a pixel.
        count: number N of particles.
        generator: source of the draws.

    Returns:
        One draw of the moments that N particles would give.
    """
    share = torch.from_numpy(_multinomial(count, density, generator)).to(density) / count
    root = _square_root(grid.noise_gram()).to(templates.dtype)
    signal = uniform_moments(templates, share, grid)
    # The sum of a direction's noise, over N: of variance σ² G_m · N_d / N².
    draws = torch.randn(len(templates), *templates.shape[1:], generator=generator, dtype=templates.dtype)
    draws[:, 0] = draws[:, 0].real * math.sqrt(2)  # mode 0 of a real image is real
    noise = torch.einsum("mkl,dml->dmk", root, draws) * (sigma * (share / count).sqrt())[:, None, None]
    cross = torch.einsum("dmk,dml->mkl", templates, noise.conj())
    # An average of N products of noise: Hermitian, of unit variance between the square roots of G_m.
    wishart = torch.randn(root.shape, generator=generator, dtype=templates.dtype)
    wishart[0] = wishart[0].real * math.sqrt(2)
    wishart = root @ (wishart + wishart.mH) @ root.mH * (sigma**2 / math.sqrt(2 * count))
    first = torch.zeros_like(signal.first)
    first[0] = noise[:, 0].sum(0)
    return Moments(signal.first + first, signal.second + cross + cross.mH + wishart, signal.weights)


def sampled_cumulants(
    coordinates: Sequence[Complex[Tensor, "d _"]],
    density: Float[Tensor, "d"],
    *,
    count: int,
    generator: torch.Generator,
    chunk: int = 8192,
) -> Blocks:
    """Third cumulants of ``count`` particles with uniform in-plane angles, made one by one in compressed coordinates.

    Viewing directions are drawn from those of the templates; the noise of different modes is taken as independent.

    Args:
        coordinates: of the templates, in which noise has variance 1, a mode after the other.
        density: probabilities of the directions.
        count: number N of particles.
        generator: source of the draws.
        chunk: particles held at a time.

    Returns:
        κ, centred at the particles' own mean.
    """
    share = torch.from_numpy(_multinomial(count, density, generator))
    ranks = [part.shape[1] for part in coordinates]
    center = (density / density.sum()).to(torch.float64) @ coordinates[0].real.double()
    clean = torch.cat(list(coordinates), dim=1).to(torch.complex64)
    clean[:, : ranks[0]] -= center
    sums, moved = None, torch.zeros(ranks[0], dtype=torch.float64)
    squares = [torch.zeros(rank, rank, dtype=torch.complex128) for rank in ranks]
    for rows in torch.repeat_interleave(torch.arange(len(clean)), share).split(chunk):
        noise = torch.randn(len(rows), sum(ranks), generator=generator, dtype=torch.complex64)
        noise[:, : ranks[0]] *= math.sqrt(2)  # mode 0 is real
        first, *rest = (clean[rows] + noise).split(ranks, dim=1)
        observed = [first.real, *rest]
        part = third_sums(observed)
        sums = {t: (0 if sums is None else sums[t]) + block.to(torch.complex128) for t, block in part.items()}
        moved += observed[0].sum(0, dtype=torch.float64)
        for square, z in zip(squares, observed, strict=True):
            square += (z.mT @ z.conj()).to(square)
    error = moved / count
    mixed = [error.to(square)[:, None, None] * square / count for square in squares]
    means = {t: block / count for t, block in (sums or {}).items()}
    return recentred(means, mixed, torch.einsum("a,b,c->abc", error, error, error))


def _multinomial(count: int, density: Float[Tensor, "d"], generator: torch.Generator) -> np.ndarray:
    seed = int(torch.randint(2**62, (1,), generator=generator))
    p = density.double().numpy()
    return np.random.default_rng(seed).multinomial(count, p / p.sum())


def _square_root(gram: Complex[Tensor, "m k k"]) -> Complex[Tensor, "m k k"]:
    """``L`` with ``L L* = G`` of matrices that are positive up to rounding."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()[:, None, :]

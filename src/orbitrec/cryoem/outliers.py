"""Images that are not of the particle: contamination that is brighter than any view of it, and empty images.

Two witnesses tell, one before there is a model and one after. Contamination and broken images have an energy at some
resolution that the particle's views do not have: :func:`energy_outliers` compares every image with the others. An empty
image is one that no view explains better than no signal does: with the odds :data:`EMPTY_ODDS` the E-step weighs every
image by the probability that it is no such image (:func:`orbitrec.inference.likelihood.expectation`).
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orbitrec.cryoem.preprocess import ParticleModes

BANDS = (4.0, 8.0, 12.0, 16.0, 20.0, 28.0)
"""Upper edges of the bands in which energies are compared, as bandwidths (radius · frequency): beyond is only noise."""
FAR = 4.0
"""Robust standard deviations of log energies above the median beyond which an image is no view of the particle. Views
and contrasts of clean and of crowded particles stay below 4.3; thickness of ice is part of what they vary by."""
BRIGHT = 3.0
"""The same for the cube root of the energy below the first of the bands, of the images as they are. It is nearly
normal (Wilson and Hilferty, PNAS 17, 1931); of views of the particle at most one in two hundred was beyond. The CTF
lets little of a view pass there, which the weights of the bands make up for; contamination is not always seen through
it."""
FAINTEST = 1e-6
"""Of the largest h²: below it an image says nothing."""
EMPTY_ODDS = 0.1 / 0.9
"""Odds, before the templates are looked at, that an image holds no particle."""


def robust_deviations(values: Float[Tensor, "N b"]) -> Float[Tensor, "N b"]:
    """Distance of each value from its column's median, in standard deviations by the median absolute deviation."""
    offset = values - values.median(0).values
    scale = 1.4826 * offset.abs().median(0).values
    return offset / scale.clamp(min=torch.finfo(values.dtype).tiny)


def energy_outliers(data: ParticleModes, radius: float) -> Bool[Tensor, "N"]:
    """Which images have more energy at some resolution than views of the particle have.

    The energy of an image in a band of frequencies is ``Σ|Y|² / Σh²``, which is the same for all images of noise; in
    the lowest one also ``Σ|Y|²/h²``, that of the image as it is (:data:`BRIGHT`).

    Args:
        data: the particles.
        radius: of the particle's ball, in pixels.

    Returns:
        (N,) True for images that are far from all others.
    """
    power = data.modes.abs().square().sum(1)
    weight = data.ctf2_over_noise(torch.arange(len(data)))
    band = torch.bucketize(data.grid.nodes * radius, torch.tensor(BANDS, dtype=torch.float64))
    energies = torch.stack(
        [power[:, band == b].sum(1) / weight[:, band == b].sum(1) for b in band.unique().tolist() if b < len(BANDS)],
        dim=1,
    )
    tiny = torch.finfo(energies.dtype).tiny
    far = (robust_deviations(energies.clamp(min=tiny).log()) > FAR).any(1)
    plain = (power / weight.clamp(min=FAINTEST * float(weight.max())))[:, band == 0].sum(1, keepdim=True)
    return far | (robust_deviations(plain.pow(1 / 3)) > BRIGHT)[:, 0]


def outlier_odds(certain: Bool[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Log odds that an image is none of the particle: infinite for those that are ``certain`` not to be, (N,)."""
    return torch.where(certain, math.inf, math.log(EMPTY_ODDS))


def with_outliers(data: ParticleModes, radius: float) -> ParticleModes:
    """The particles with the odds that each is none: certain for energy outliers, :data:`EMPTY_ODDS` for the others."""
    return replace(data, log_outlier=outlier_odds(energy_outliers(data, radius)))

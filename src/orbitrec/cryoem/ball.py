"""The ball of a particle that is nearly round: where its radial profile ends.

A ball that cuts a shell off leaves nothing to find: of real apoferritin, with a radius of 63 Å, the best sphere within
60 Å explains two thirds of what the one within 66 Å does.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.cryoem.centring import centre
from orbitrec.cryoem.config import SearchConfig
from orbitrec.cryoem.image_statistics import ImageStatistics
from orbitrec.cryoem.outliers import with_outliers
from orbitrec.cryoem.preprocess import preprocess
from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.particles import ParticleStack
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

PROFILE_BANDWIDTH = 16.0
"""Bandwidth, in the ball that is assumed at first, up to which the radial profile is used."""
SMALLEST, LARGEST = 0.15, 0.48
"""Radii in boxes between which the ball is looked for."""
UNEXPLAINED = 0.2
"""Share of the profile's weighted power that a ball of the right size leaves at most."""


def ball_radius(grid: PolarGrid, profile: Float[Tensor, "k"], ctf2_over_noise: Float[Tensor, "k"]) -> float | None:
    """Radius in pixels of the smallest ball that holds a radial profile.

    Args:
        grid: the polar grid of the profile.
        profile: (k,) mode 0 of a radially symmetric template (:attr:`orbitrec.cryoem.centring.Centring.profile`).
        ctf2_over_noise: (k,) mean h² of the particles, with which its residual is weighted.

    Returns:
        Of balls growing by a pixel the first that leaves less than :data:`UNEXPLAINED` of the profile's power and less
        than the next ball does; None where there is none.
    """
    n, k_max, weight = grid.box, float(grid.nodes[-1]), ctf2_over_noise.double().sqrt()
    wanted, left = (weight * profile.double())[:, None], []
    radii = [float(r) for r in range(math.ceil(SMALLEST * n), math.floor(LARGEST * n) + 1)]
    for radius in radii:
        functions = SphericalBesselBasis(radius, max(k_max, math.pi / radius), max_degree=0).radial(grid.nodes)
        functions = (weight * grid.scale * functions).mT
        left.append(float((wanted - functions @ torch.linalg.lstsq(functions, wanted).solution).square().sum()))
    power = float(wanted.square().sum())
    ends = [r for r, own, larger in zip(radii, left, left[1:], strict=False) if own < min(larger, UNEXPLAINED * power)]
    return ends[0] if ends else None


def with_ball(
    stack: ParticleStack, statistics: ImageStatistics, config: SearchConfig, shift_px: float
) -> ImageStatistics:
    """Look for the ball of the particles' mean, which a radially symmetric template is fitted to.

    Args:
        stack: the particles, as their statistics demand.
        statistics: of the images; their diameter is a first guess.
        config: of the search.
        shift_px: first guess of the shifts' standard deviation per axis, in pixels.

    Returns:
        The statistics with the ball's diameter, or as they were if the radial profile does not end within the box.

    Raises:
        InputError: if an image is bad.
    """
    n, pixel = stack.n, stack.pixel_size_A
    assumed = statistics.diameter_A / pixel / 2
    k_max = min(PROFILE_BANDWIDTH / assumed, 0.9 * math.pi)
    data = with_outliers(preprocess(stack, k_max, LARGEST * n, device=config.device), assumed)
    found = centre(data, k_max, prior_px=shift_px)
    grid = data.grid.truncated(k_max, 3 * shift_px + 1)
    power = data.ctf2_over_noise(data.inliers().nonzero().flatten()).double().mean(0)[: grid.node_count]
    radius = ball_radius(grid, found.profile, power)
    return statistics if radius is None else replace(statistics, diameter_A=2 * radius * pixel, diameter_found=True)

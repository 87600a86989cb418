"""Masks: a ball, and the particle's own shape, with soft edges."""

import math

import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies, radii

NOISE_DEVIATIONS = 4.0
PEAK_SHARE = 0.1
"""A voxel is the particle's where the smooth map is above this share of its maximum, and above the noise."""


def soft_sphere(n: int, radius_px: float, edge_px: float = 5.0) -> Float[Tensor, "n n n"]:
    """A ball: 1 within a radius of the origin, falling to 0 beyond by a raised cosine.

    Args:
        n: voxels along an edge of the box; the origin is at index ``n // 2``.
        radius_px: of the ball, in voxels.
        edge_px: width of its edge, in voxels.

    Returns:
        Values between 0 and 1, (n, n, n), float64.
    """
    return 0.5 + 0.5 * torch.cos(math.pi * ((radii(n, 3) - radius_px) / edge_px).clamp(0, 1))


def soft_mask(
    volume: Float[Tensor, "n n n"], radius_px: float, smooth_px: float, extend_px: float = 3.0, edge_px: float = 6.0
) -> Float[Tensor, "n n n"]:
    """The particle's shape: 1 near where the smoothed map is dense, falling to 0 beyond by a raised cosine.

    The threshold need not be perfect: :func:`orbitrec.evaluation.fsc.half_map_fsc` corrects for what a mask that cuts
    the particle does to an FSC.

    Args:
        volume: a map with its noise outside the ball, dense positive, (n, n, n).
        radius_px: of the ball that holds the particle, in voxels; a map that shows nothing is masked by it.
        smooth_px: features smaller than this are smoothed away before the threshold.
        extend_px: how far the mask extends beyond what is dense.
        edge_px: width of its edge.

    Returns:
        Values between 0 and 1, (n, n, n), float64.
    """
    n = len(volume)
    ball = soft_sphere(n, radius_px)
    k = radial_frequencies(n, 3)
    filtered = centred_fft((volume - volume.median()).double(), ndim=3) * torch.exp(-0.5 * (k * smooth_px / 3).square())
    smooth = centred_ifft(filtered, ndim=3).real
    outside = smooth[ball == 0]
    noise = float(outside.square().mean().sqrt()) if len(outside) else 0.0
    threshold = max(NOISE_DEVIATIONS * noise, PEAK_SHARE * float((smooth * ball).max()))
    dense = (smooth * ball) > threshold
    if not bool(dense.any()):
        return ball
    distance = torch.from_numpy(distance_transform_edt(~dense.numpy()))
    return (0.5 + 0.5 * torch.cos(math.pi * ((distance - extend_px) / edge_px).clamp(0, 1))) * ball

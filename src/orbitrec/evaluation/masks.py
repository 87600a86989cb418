"""Where the particle is: a soft mask from the map itself."""

import math

import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from orbitrec.evaluation.fsc import soft_sphere
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies

NOISE_DEVIATIONS = 4.0
PEAK_SHARE = 0.1
"""A voxel of the smooth map is the particle's above this share of its highest and above the noise around the ball."""


def soft_mask(
    volume: Float[Tensor, "n n n"], radius_px: float, smooth_px: float, extend_px: float = 3.0, edge_px: float = 6.0
) -> Float[Tensor, "n n n"]:
    """1 within ``extend_px`` of where the smoothed map is dense, falling to 0 over ``edge_px`` by a raised cosine.

    A mask from a map's densest parts alone cuts the particle; random phases tell what that does to an FSC
    (:func:`orbitrec.evaluation.fsc.half_map_fsc`), so that the threshold need not be perfect.

    Args:
        volume: a map whose noise outside the ball has not been taken away; dense is positive.
        radius_px: of the ball that holds the particle; a map that shows nothing is masked by it.
        smooth_px: features smaller than this are smoothed away before the threshold.
        extend_px: how far the mask reaches beyond what is dense.
        edge_px: width of its edge.
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

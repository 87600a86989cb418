"""One pass over a stack: particles to moments."""

import math

import torch

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft, fourier_crop, radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.moments import MomentAccumulator
from orbitrec.io.particles import ParticleStack
from orbitrec.models.noise import estimate_noise
from orbitrec.recovery.preparation import Progress


def accumulate_moments(
    stack: ParticleStack,
    resolution_A: float,
    radius_A: float,
    *,
    chunk: int = 512,
    progress: Progress = lambda count: None,
) -> MomentAccumulator:
    """Moments of a stack's whitened images, read once and in order; memory does not grow with the stack.

    Images are whitened by the noise spectrum of at most the first 2000 and cut to 1.2 times the resolution's frequency,
    so the grid's box and its pixels, ``pixel size · n / grid.box``, are those of the smaller images.

    Args:
        stack: the particles.
        resolution_A: the moments' finest resolution.
        radius_A: of a ball that holds the particle and its shifts.
        chunk: images held at a time.
        progress: called with the number of images done.

    Raises:
        InputError: if the resolution is beyond Nyquist or too coarse for the radius, or if an image is bad.
    """
    n, pixel = stack.n, stack.pixel_size_A
    k_max = 2 * math.pi * pixel / resolution_A
    if not 2 * pixel <= resolution_A <= 2 * radius_A:
        raise InputError(
            f"a resolution of {resolution_A:g} Å is not between two pixels, {2 * pixel:g} Å, and the particle's "
            f"diameter, {2 * radius_A:g} Å; choose another"
        )
    small = min(n, 2 * math.ceil(0.6 * n * k_max / math.pi))
    scale = small / n
    grid = PolarGrid.for_radius(small, k_max / scale, radius_A / pixel * scale)
    noise = estimate_noise(stack.images(range(i, min(i + chunk, 2000, len(stack))))
                           for i in range(0, min(len(stack), 2000), chunk))  # fmt: skip
    whitening = noise.at(radial_frequencies(n)).rsqrt().to(torch.float32)
    nodes = grid.nodes * scale
    ctf, index = stack.ctf.unique() if stack.ctf is not None else (None, torch.zeros(len(stack), dtype=torch.long))
    filters = torch.ones(1, len(nodes), dtype=torch.float64) if ctf is None else ctf.radial(nodes, pixel)
    filters = (filters * noise.at(nodes).rsqrt()).to(torch.float32)
    total = MomentAccumulator.empty(grid)
    for rows in torch.arange(len(stack)).split(chunk):
        transform = centred_fft(stack.images(rows)) * whitening
        images = centred_ifft(fourier_crop(transform, small)).real
        total.update(grid.from_images(images), filters[index[rows]])
        progress(len(rows))
    return total

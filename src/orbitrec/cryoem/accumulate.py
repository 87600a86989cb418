"""One pass over a stack: particles to moments."""

import math

import torch
from jaxtyping import Complex, Int
from torch import Tensor

from orbitrec.cryoem.preprocess import Progress, cut_box, estimated_noise
from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft, fourier_crop
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.particles import ParticleStack
from orbitrec.moments.estimator import MomentAccumulator
from orbitrec.runtime.distributed import shards, summed

LEAST_CTF = 0.1
"""Least absolute value of a CTF that images are divided by, where they were multiplied by it."""


def accumulate_moments(
    stack: ParticleStack,
    resolution_A: float,
    radius_A: float,
    *,
    rows: Int[Tensor, "n"] | None = None,
    chunk: int = 512,
    progress: Progress = lambda count: None,
    device: str = "cpu",
) -> MomentAccumulator:
    """Moments of a stack's whitened images, read once and in order; memory does not grow with the stack.

    Images are whitened by the noise spectrum of their group and cut to 1.2 times the resolution's frequency,
    so the grid's box and its pixels, ``pixel size · n / grid.box``, are those of the smaller images. The moments are
    the estimators (2.19), averaged over in-plane rotations and corrected for the CTF (see
    :mod:`orbitrec.moments.estimator`).

    Args:
        stack: the particles.
        resolution_A: the moments' finest resolution, in Å.
        radius_A: radius in Å of a ball that holds the particle and its shifts.
        rows: (n,) indices of the particles that are used; None for all.
        chunk: images held at a time.
        progress: called with the number of images done.
        device: where images are transformed and multiplied.

    Returns:
        The sums of all images, on the CPU; their ``estimate`` gives the moments.

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
    small = cut_box(n, k_max)
    scale = small / n
    grid = PolarGrid.for_radius(small, k_max / scale, radius_A / pixel * scale)
    noise = estimated_noise(stack)
    frequency = radial_frequencies(n).to(device)
    nodes = grid.nodes * scale
    ctf, index = stack.ctf.unique() if stack.ctf is not None else (None, torch.zeros(len(stack), dtype=torch.long))
    filters = torch.ones(1, len(nodes), dtype=torch.float64) if ctf is None else ctf.radial(nodes, pixel)

    def sums(chunks: tuple[Tensor, ...]) -> list[Tensor]:
        total = MomentAccumulator.empty(grid, device)
        for rows in chunks:
            whitening = noise.at_rows(rows, frequency).rsqrt().to(torch.float32)
            transform = centred_fft(stack.images(rows).to(device)) * whitening
            images = centred_ifft(fourier_crop(_unmultiplied(stack, rows, transform), small)).real
            ctfs = filters[index[rows]] * noise.at_rows(rows, nodes).rsqrt()
            total.update(grid.from_images(images), ctfs.to(images))
            progress(len(rows))
        return list(total.sums().values())

    used = torch.arange(len(stack)) if rows is None else rows
    parts = shards(used.split(chunk))
    return MomentAccumulator(grid, *(total.cpu() for total in summed(parts, sums)))


def _unmultiplied(stack: ParticleStack, rows: Int[Tensor, "b"], transform: Complex[Tensor, "b n n"]) -> Tensor:
    """Transforms without the CTF that some images were multiplied by.

    The noise was multiplied too, so nothing is lost where the CTF is not zero. Without this, noise that is strong at
    some frequencies would leak through the box's edges to those where the signal is weak.
    """
    if stack.ctf is None or not bool(stack.premultiplied[rows].any()):
        return transform
    ctf = stack.ctf.select(rows).on_grid(stack.n, stack.pixel_size_A)
    divisor = torch.where(ctf < 0, -1.0, 1.0) * ctf.abs().clamp(min=LEAST_CTF)
    return transform / torch.where(stack.premultiplied[rows, None, None], divisor, 1.0).to(transform.device)

"""One pass over a stack: particles to moments."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.cryoem.preprocess import Progress, cut_box, estimated_noise
from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft, fourier_crop
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.particles import ParticleStack
from orbitrec.models.noise import Noise
from orbitrec.moments.compression import Compression
from orbitrec.moments.cumulant_estimator import CumulantAccumulator
from orbitrec.moments.estimator import MomentAccumulator
from orbitrec.runtime.distributed import shards, summed

_FIRST_PARTICLES = 20_000

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
    observed = PolarObservations.of(stack, resolution_A, radius_A, device)

    def sums(chunks: tuple[Tensor, ...]) -> list[Tensor]:
        total = MomentAccumulator.empty(observed.grid, device)
        for rows in chunks:
            total.update(*observed(rows))
            progress(len(rows))
        return list(total.sums().values())

    used = torch.arange(len(stack)) if rows is None else rows
    parts = shards(used.split(chunk))
    return MomentAccumulator(observed.grid, *(total.cpu() for total in summed(parts, sums)))


def accumulate_three_moments(
    stack: ParticleStack,
    resolution_A: float,
    radius_A: float,
    *,
    compression: Compression | None = None,
    chunk: int = 512,
    progress: Progress = lambda count: None,
    device: str = "cpu",
) -> tuple[MomentAccumulator, CumulantAccumulator]:
    """As :func:`accumulate_moments`, with sums for the third cumulants formed in the same pass.

    The cumulants' coordinates come from the second moment of particles spread evenly over the stack, a quarter of it
    but at least 20,000, which are read once more for that. Particles are not moved: what is unknown of their
    displacements is a part of the cumulants (:mod:`orbitrec.moments.shifts`).

    Args:
        stack: the particles.
        resolution_A: the moments' finest resolution, in Å.
        radius_A: radius in Å of a ball that holds the particle and its shifts.
        compression: the coordinates, for parts that are to be merged; None to find them.
        chunk: images held at a time.
        progress: called with the number of images done, those read twice not counted.
        device: where images are transformed and multiplied.

    Returns:
        The sums of all images, on the CPU.

    Raises:
        InputError: if the resolution is beyond Nyquist or too coarse for the radius, an image is bad, the coordinates
            are of another grid, or nothing is above the noise.
    """
    observed = PolarObservations.of(stack, resolution_A, radius_A, device)
    if compression is None:
        few = min(len(stack), max(_FIRST_PARTICLES, len(stack) // 4))
        rows = torch.linspace(0, len(stack) - 1, few).round().long()
        first = accumulate_moments(stack, resolution_A, radius_A, rows=rows, chunk=chunk, device=device)
        compression = estimated_compression(first)
    elif compression.grid != observed.grid:
        raise InputError("the coordinates are of another grid; give the same box, resolution and diameter to all parts")
    names = list(MomentAccumulator.empty(observed.grid).sums())

    def sums(chunks: tuple[Tensor, ...]) -> list[Tensor]:
        pairs = MomentAccumulator.empty(observed.grid, device)
        triples = CumulantAccumulator.empty(compression, device)
        for rows in chunks:
            modes, ctf = observed(rows)
            pairs.update(modes, ctf)
            triples.update(modes, ctf)
            progress(len(rows))
        return [*pairs.sums().values(), *triples.sums().values()]

    found = [total.cpu() for total in summed(shards(torch.arange(len(stack)).split(chunk)), sums)]
    pairs, triples = found[: len(names)], found[len(names) :]
    return MomentAccumulator(observed.grid, *pairs), CumulantAccumulator(compression, *triples)


def estimated_compression(moments: MomentAccumulator) -> Compression:
    """Coordinates from estimated moments; the box's first frequency is left to backgrounds and their edges.

    The unit of noise is that of an image with the mean CTF, and the number of images that of as many whose CTF is one.
    """
    variance = float(moments.count) / float(moments.power.mean())
    count = variance**2 * float(moments.product.mean())
    return Compression.of(
        moments.estimate(), moments.grid, variance=variance, count=count, k_min=2 * math.pi / moments.grid.box
    )


@dataclass(frozen=True, eq=False)
class PolarObservations:
    """Whitened images of a stack on a polar grid, with their radial CTFs.

    Attributes:
        stack: the particles.
        grid: of the smaller images, cut to 1.2 times the resolution's frequency.
        noise: by which images are whitened.
        filters: CTFs at the grid's nodes,
        index: and which of them each particle has.
        device: where images are transformed.
    """

    stack: ParticleStack
    grid: PolarGrid
    noise: Noise
    filters: Float[Tensor, "f k"]
    index: Int[Tensor, "n"]
    device: str

    @classmethod
    def of(cls, stack: ParticleStack, resolution_A: float, radius_A: float, device: str) -> "PolarObservations":
        """Those of a stack.

        Args:
            stack: the particles.
            resolution_A: the finest resolution, in Å.
            radius_A: radius in Å of a ball that holds the particle and its shifts.
            device: where images are transformed.

        Returns:
            The observations; nothing is read yet but what the noise is estimated from.

        Raises:
            InputError: if the resolution is beyond Nyquist or too coarse for the radius.
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
        ctf, index = stack.ctf.unique() if stack.ctf is not None else (None, torch.zeros(len(stack), dtype=torch.long))
        nodes = grid.nodes * scale
        filters = torch.ones(1, len(nodes), dtype=torch.float64) if ctf is None else ctf.radial(nodes, pixel)
        return cls(stack, grid, estimated_noise(stack), filters, index, device)

    @cached_property
    def _frequency(self) -> Float[Tensor, "n n"]:
        return radial_frequencies(self.stack.n).to(self.device)

    def __call__(self, rows: Int[Tensor, "b"]) -> tuple[Complex[Tensor, "b m k"], Float[Tensor, "b k"]]:
        """Modes and CTFs of some particles."""
        whitening = self.noise.at_rows(rows, self._frequency).rsqrt().to(torch.float32)
        transform = centred_fft(self.stack.images(rows).to(self.device)) * whitening
        small = fourier_crop(_unmultiplied(self.stack, rows, transform), self.grid.box)
        nodes = self.grid.nodes * (self.grid.box / self.stack.n)
        ctfs = self.filters[self.index[rows]] * self.noise.at_rows(rows, nodes).rsqrt()
        images = centred_ifft(small).real
        return self.grid.from_images(images), ctfs.to(images)


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

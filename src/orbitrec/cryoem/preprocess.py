"""Stack → filtered circular modes: images are read once, and all later steps work on what is made of them here.

Each image's unitary transform F is divided by the noise spectrum S and multiplied by its exact 2-D CTF c, cut to the
working resolution and put on the polar grid: ``Y = c F / S``. That is the matched filter ``h·y`` of whitened data with
``h = c/√S``, whose square's azimuthal mean ``h²[j, k]`` is all else the likelihood needs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft, fourier_crop
from orbitrec.geometry.grids import radial_frequencies, shell_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.likelihood import Observations
from orbitrec.io.particles import ParticleStack
from orbitrec.models.noise import GroupedNoise, Noise, NoiseSpectrum, estimate_noise

Progress = Callable[[int], None]
PIXELS_AT_ONCE = 1 << 21
NO_SHIFT = torch.zeros(1, 2, dtype=torch.float64)
SAMPLED_IMAGES = 2000
"""About how many images a noise spectrum is estimated from."""


@dataclass(frozen=True, eq=False)
class ParticleModes:
    """All particles in filtered circular modes, in memory.

    They are in the CPU's memory, which is larger; what is worked on is copied to ``device``.

    Attributes:
        grid: the polar grid, in pixels of the original box.
        modes: (N, m, k) complex64.
        filters: (u, k) distinct h², one for each pair of a CTF and a noise spectrum.
        filter_index: (N,) which of them a particle has.
        noise: of the images.
        pixel_size_A: of the images, in Å.
        log_outlier: (N,) log odds that a particle is none, from its image alone; None where nothing is said of it.
        device: where the work on the modes is done.
    """

    grid: PolarGrid
    modes: Complex[Tensor, "N m k"]
    filters: Float[Tensor, "u k"]
    filter_index: Int[Tensor, "N"]
    noise: Noise
    pixel_size_A: float
    log_outlier: Float[Tensor, "N"] | None = None
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.modes)

    def inliers(self) -> Bool[Tensor, "N"]:
        """Which particles may be one: all but those whose odds are infinite."""
        if self.log_outlier is None:
            return torch.ones(len(self), dtype=torch.bool)
        return self.log_outlier < math.inf

    def subset(self, rows: Int[Tensor, "n"]) -> "ParticleModes":
        """The particles ``rows`` alone."""
        odds = None if self.log_outlier is None else self.log_outlier[rows]
        return replace(self, modes=self.modes[rows], filter_index=self.filter_index[rows], log_outlier=odds)

    def resolution_A(self, k_max: float) -> float:
        """Resolution in Å of a frequency in radians per pixel of the stack."""
        return 2 * math.pi * self.pixel_size_A / k_max

    def seen(self, rows: Int[Tensor, "b"], grid: PolarGrid) -> tuple[Complex[Tensor, "b m k"], Float[Tensor, "b k"]]:
        """Modes and h² of the particles ``rows`` on a smaller grid, copied to :attr:`device`."""
        modes = self.modes[rows, : grid.max_mode + 1, : grid.node_count]
        return modes.to(self.device), self.ctf2_over_noise(rows)[:, : grid.node_count].to(self.device)

    def ctf2_over_noise(self, rows: Int[Tensor, "b"]) -> Float[Tensor, "b k"]:
        """h² of the particles ``rows``."""
        return self.filters[self.filter_index[rows]]

    def observations(
        self,
        rows: Int[Tensor, "b"],
        grid: PolarGrid,
        centres: Float[Tensor, "b 2"],
        shifts: Float[Tensor, "s 2"] | Float[Tensor, "b s 2"],
        log_shift: Float[Tensor, "s"],
    ) -> Observations:
        """Some particles as the E-step takes them, moved back by their centres and by every shift.

        Args:
            rows: (b,) indices of the particles.
            grid: a part of :attr:`grid` (:meth:`PolarGrid.truncated`).
            centres: (b, 2) displacement (x, y) of the content of each, in pixels.
            shifts: (s, 2) further displacements, over which the likelihood is marginalised, in pixels; or (b, s, 2) of
                each particle.
            log_shift: (s,) their log probabilities.

        Returns:
            The observations, on :attr:`device`.
        """
        modes, power = self.seen(rows, grid)
        moved = grid.displaced(modes, -(centres[:, None] + shifts))
        odds = None if self.log_outlier is None else self.log_outlier[rows].to(power)
        return Observations(moved, power, log_shift.to(power), odds)


def cut_box(n: int, k_max: float) -> int:
    """Edge in pixels that images of n pixels are cut to in Fourier space: their Nyquist frequency is then 1.2 k_max."""
    return min(n, 2 * math.ceil(0.6 * n * k_max / math.pi))


def preprocess(
    stack: ParticleStack,
    k_max: float,
    radius: float,
    *,
    chunk: int | None = None,
    progress: Progress = lambda count: None,
    device: str = "cpu",
) -> ParticleModes:
    """Read a stack once and put its filtered transforms on a polar grid.

    Args:
        stack: the particles.
        k_max: highest frequency kept, in radians per pixel of the stack, at most π.
        radius: pixels within which content is kept: the particle's radius plus the largest shift.
        chunk: images held at a time; by default as many as have two million pixels together.
        progress: called with the number of images done.
        device: where images are transformed, and where the work on their modes is to be done.

    Returns:
        The particles' filtered modes ``Y = c F / S``, with ``h² = c²/S``.

    Raises:
        InputError: for NaN or constant images, or when noise cannot be estimated.
    """
    n, pixel = stack.n, stack.pixel_size_A
    chunk = chunk or max(1, PIXELS_AT_ONCE // n**2)
    noise = estimated_noise(stack)
    frequency = radial_frequencies(n).to(device)
    ctf, index = stack.ctf.unique() if stack.ctf is not None else (None, torch.zeros(len(stack), dtype=torch.long))
    small = cut_box(n, k_max)
    grid = PolarGrid.for_radius(n, k_max, radius)
    working = PolarGrid(small, k_max * n / small, grid.radial_nodes, grid.max_mode)
    modes = torch.empty(len(stack), grid.max_mode + 1, grid.node_count, dtype=torch.complex64)
    # One micrograph's particles share a CTF: its images are evaluated for the chunk's distinct rows only.
    for start in range(0, len(stack), chunk):
        rows = torch.arange(start, min(start + chunk, len(stack)))
        transform = centred_fft(stack.images(rows).to(device)) / noise.at_rows(rows, frequency).to(torch.float32)
        if ctf is not None:
            distinct, local = index[rows].unique(return_inverse=True)
            values = ctf.select(distinct).on_grid(n, pixel, device=device)[local]
            values[stack.premultiplied[rows]] = 1.0
            transform *= values
        images = centred_ifft(fourier_crop(transform, small)).real
        part = working.from_images(images)
        if not bool(part.abs().sum().isfinite()):
            raise InputError("the images give values that are not finite; check the CTF columns and the pixel size")
        modes[rows] = part.cpu()
        progress(len(rows))
    nodes = grid.nodes
    power = torch.ones(1, len(nodes), dtype=torch.float64) if ctf is None else ctf.radial_square(nodes, pixel)
    group = noise.group if isinstance(noise, GroupedNoise) else torch.zeros(len(stack), dtype=torch.long)
    pairs, filter_index = torch.unique(torch.stack([index, group], dim=1), dim=0, return_inverse=True)
    first = torch.empty(len(pairs), dtype=torch.long).scatter_(0, filter_index, torch.arange(len(stack)))
    filters = (power[pairs[:, 0]] / noise.at_rows(first, nodes)).to(torch.float32)
    return ParticleModes(grid, modes, filters, filter_index, noise, pixel, device=device)


def estimated_noise(stack: ParticleStack) -> Noise:
    """The noise spectrum of every group of :meth:`ParticleStack.noise_groups`, each from about 2000 images.

    Where images were multiplied by their CTF, it is the spectrum before that: the spectrum in the corners of the images
    divided by the mean square of the CTF.

    Raises:
        InputError: for NaN or constant images, or where the corners are constant.
    """
    group = stack.noise_groups()
    spectra = tuple(_noise_of(stack, (group == g).nonzero().flatten()) for g in range(int(group.max()) + 1))
    return spectra[0] if len(spectra) == 1 else GroupedNoise(spectra, group)


def sampled_runs(stack: ParticleStack, rows: Int[Tensor, "g"], count: int = SAMPLED_IMAGES) -> list[Int[Tensor, "_"]]:
    """A sample of particles, in runs of neighbours, which are read together, spread evenly over all.

    Args:
        stack: the particles; only the size of its images counts.
        rows: (g,) indices to sample from.
        count: about how many to take.

    Returns:
        The indices of each run.
    """
    runs = rows.split(min(count, max(1, PIXELS_AT_ONCE // stack.n**2)))
    wanted = min(len(runs), -(-count // len(runs[0])))
    return [runs[int(i)] for i in torch.linspace(0, len(runs) - 1, wanted).long()]


def _noise_of(stack: ParticleStack, rows: Int[Tensor, "g"]) -> NoiseSpectrum:
    taken = sampled_runs(stack, rows)
    degree = 0 if stack.background is None else stack.background.degree
    noise = estimate_noise((stack.images(run) for run in taken), degree=degree)
    if stack.ctf is not None and bool(stack.premultiplied[rows[0]]):
        shells = shell_frequencies(noise.n, len(noise.shells))
        power = stack.ctf.select(torch.cat(taken)).radial_square(shells, stack.pixel_size_A).mean(0)
        return noise.before_filter(power)
    return noise

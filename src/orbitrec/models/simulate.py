"""Simulated cryo-EM particle stacks: exact projections at continuous rotations, shifts, CTF and noise.

An image is ``F⁻¹[ c(k) e^{−ik·s} v̂(R (kx, ky, 0)) / n ] + noise``: the volume v rotated by R, displaced by s pixels and
seen through the CTF c. The signal-to-noise ratio is the variance of the noiseless image (after the CTF) over the pixels
of a disc of radius 0.45 n, averaged over particles, divided by the variance of the noise in a pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.geometry.grids import frequencies
from orbitrec.geometry.rotations import direction_frames, in_plane, random_rotations
from orbitrec.models.background import corner_mask
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.volumes.base import Volume


def random_poses(
    count: int, generator: torch.Generator, *, views: VonMisesFisherMixture | None = None, shift_px: float = 0.0
) -> tuple[Float[Tensor, "count 3 3"], Float[Tensor, "count 2"]]:
    """Random poses of particles, with uniform in-plane angles.

    Args:
        count: number of particles.
        generator: source of the draws.
        views: density of the viewing directions; uniform if None.
        shift_px: standard deviation in pixels of each coordinate of the Gaussian displacements.

    Returns:
        Rotations, and displacements (x, y) in pixels.
    """
    if views is None:
        rotations = random_rotations(count, generator)
    else:
        psi = 2 * torch.pi * torch.rand(count, generator=generator, dtype=torch.float64)
        rotations = direction_frames(views.sample(count, generator).double()) @ in_plane(psi)
    return rotations, shift_px * torch.randn(count, 2, generator=generator, dtype=torch.float64)


def random_defocus(count: int, generator: torch.Generator, per_micrograph: int = 50) -> CTFParameters:
    """CTF parameters of particles at 300 kV, with C_s = 2.0 mm and amplitude contrast 0.1.

    The mean defocus is uniform in 1–2.5 µm, the astigmatism Gaussian with 200 Å, its angle uniform.

    Args:
        count: number of particles.
        generator: source of the draws.
        per_micrograph: number of particles that share a micrograph, and so a CTF.

    Returns:
        One row for each particle.
    """
    micrographs = -(-count // per_micrograph)
    defocus, angle = torch.rand(2, micrographs, generator=generator, dtype=torch.float64)
    astigmatism = 200 * torch.randn(micrographs, generator=generator, dtype=torch.float64).abs()
    defocus, one = 1e4 + 1.5e4 * defocus, torch.ones(micrographs, dtype=torch.float64)
    parameters = CTFParameters(
        defocus + astigmatism / 2, defocus - astigmatism / 2, 180 * angle, 300 * one, 2 * one, 0.1 * one, 0 * one
    )
    return parameters.select(torch.arange(count) // per_micrograph)


@dataclass(frozen=True, eq=False)
class ParticleSimulation:
    """The images of N particles, computed when they are asked for.

    Args:
        volume: what is projected, lengths in pixels of the images.
        n: box size of the images.
        pixel_size_A: pixel size, for the CTF.
        rotations: (N, 3, 3), see ``docs/conventions.md``.
        shifts_px: (N, 2) displacement (x, y) of the content.
        ctf: one row for each particle, or None for none.

    Raises:
        InputError: if there is not one shift, and one CTF, for each rotation.
    """

    volume: Volume
    n: int
    pixel_size_A: float
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "_ 2"]
    ctf: CTFParameters | None = None

    def __post_init__(self) -> None:
        for name, values in (("shifts", self.shifts_px), ("CTF parameters", self.ctf)):
            if values is not None and len(values) != len(self):
                raise InputError(f"{len(self)} rotations but {len(values)} {name}; give one of each for each particle")

    def __len__(self) -> int:
        return len(self.rotations)

    def clean(self, indices: Int[Tensor, "b"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b n n"]:
        """Noiseless images, after CTF, of the particles ``indices``.

        The transform of a real image is known from its half plane kx ≥ 0, so only that is computed.
        """
        k = torch.fft.ifftshift(frequencies(self.n, dtype))
        kx, ky = k[: self.n // 2 + 1].abs(), k
        grid = torch.stack([kx.expand(self.n, -1), ky[:, None].expand(-1, len(kx))], dim=-1)
        slices = torch.einsum("bij,yxj->byxi", self.rotations[indices, :, :2].to(dtype), grid)
        transforms = self.volume.fourier(slices) / self.n
        # e^{−ik·s} is a product of a row and a column: 2n complex exponentials an image, not n².
        x, y = self.shifts_px[indices].to(dtype).unbind(1)
        transforms *= torch.exp(-1j * y[:, None] * ky)[:, :, None] * torch.exp(-1j * x[:, None] * kx)[:, None, :]
        if self.ctf is not None:
            rows, row_of = self.ctf.select(indices).unique()
            transforms *= rows.evaluate(grid, self.pixel_size_A)[row_of]
        images = torch.fft.irfft2(transforms, s=(self.n, self.n), norm="ortho")
        return torch.fft.fftshift(images, dim=(-2, -1))

    def signal_variance(self, particles: int = 1000, chunk: int = 256) -> float:
        """The signal of the SNR's definition, averaged over the first ``particles`` particles.

        Poses are independent draws, so a thousand give the mean of any stack to about 1 %.
        """
        disc = ~corner_mask(self.n)
        parts = torch.arange(min(particles, len(self))).split(chunk)
        return float(torch.cat([self.clean(part)[:, disc].double().var(dim=1, correction=0) for part in parts]).mean())

    def images(
        self, noise: NoiseSpectrum | None, generator: torch.Generator, chunk: int = 256
    ) -> Iterator[Float[Tensor, "b n n"]]:
        """The images of all particles in order, in chunks.

        Args:
            noise: Gaussian noise to be added; none if None.
            generator: source of the noise.
            chunk: images at a time; the noise that a generator gives depends on it.

        Yields:
            Chunks of images in float32, axes (y, x).
        """
        for part in torch.arange(len(self)).split(chunk):
            clean = self.clean(part)
            yield clean if noise is None else clean + noise.sample(len(part), generator)

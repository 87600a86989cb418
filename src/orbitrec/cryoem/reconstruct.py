"""The map from posed particles: regularised least squares on voxels, exact up to the non-uniform FFT's tolerance.

With poses known the likelihood is quadratic in the map: ``½ Σ_j ‖c_j P_j v − y_j‖²/S``. Its right-hand side is a type-1
non-uniform FFT of the filtered transforms at the rotated frequencies. Its normal operator is a convolution whose kernel
is the same sum over ``c²/S`` on a grid of twice the size (Toeplitz), so conjugate gradients cost FFTs only.
"""

from dataclasses import dataclass, replace

import finufft
import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.cryoem.preprocess import PIXELS_AT_ONCE, Progress
from orbitrec.evaluation.fsc import FSC, HalfMapFSC, fourier_shell_correlation, half_map_fsc
from orbitrec.evaluation.masks import soft_mask, soft_sphere
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import frequency_vectors, shell_indices
from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.io.particles import ParticleStack
from orbitrec.models.noise import Noise
from orbitrec.optim.conjugate_gradients import solve_symmetric
from orbitrec.runtime.distributed import shards, summed
from orbitrec.volumes.voxel import VoxelVolume

TOLERANCE = 1e-4
LARGEST_BOX = 160
"""Voxels along the edge that a map is solved on: larger boxes are solved at coarser voxels and padded in Fourier space
afterwards, since an initial model does not reach their Nyquist frequency and memory grows with the edge's cube."""
RIDGE = 0.02
"""Weight of ``‖v‖²`` relative to the mean eigenvalue of the normal operator: damps frequencies that no view covers."""


@dataclass(frozen=True)
class CombinedMap:
    """The map of all particles, from the maps of two half-sets.

    If both half-sets were posed by one model, the FSC says where the map is reproducible, not how right it is.

    Attributes:
        volume: mean of the half-maps within the ball, filtered by their FSC.
        half_maps: of the two half-sets, neither masked nor filtered.
        fsc: between the half-maps, within the ball.
        mask: soft mask of the particle's shape.
        masked: the half-maps' correlation within the mask, corrected for what the mask adds.
    """

    volume: Float[Tensor, "n n n"]
    half_maps: tuple[Float[Tensor, "n n n"], Float[Tensor, "n n n"]]
    fsc: FSC
    mask: Float[Tensor, "n n n"]
    masked: HalfMapFSC

    def negated(self) -> "CombinedMap":
        """The maps with the opposite contrast, multiplied by −1."""
        return replace(self, volume=-self.volume, half_maps=(-self.half_maps[0], -self.half_maps[1]))

    def mirrored(self) -> "CombinedMap":
        """The maps of the opposite handedness, ``v(−x, y, z)``."""
        volume, first, second, mask = map(mirror_image, (self.volume, *self.half_maps, self.mask))
        return replace(self, volume=volume, half_maps=(first, second), mask=mask)


def mirror_image(grid: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
    """``v(−x, y, z)`` about the origin at index n // 2; the plane x = −n/2 of an even box has no mirror image."""
    n = grid.shape[-1]
    return grid.flip(-1).roll(1 - n % 2, -1)


def alternate_halves(count: int) -> Int[Tensor, "N"]:
    """Half-set of every particle, 1 and 2 alternately: a micrograph's particles lie together."""
    return 1 + torch.arange(count) % 2


def half_map(
    stack: ParticleStack,
    noise: Noise,
    rows: Int[Tensor, "h"],
    rotations: Float[Tensor, "N 3 3"],
    shifts_px: Float[Tensor, "N 2"],
    *,
    group: PointGroup = NO_SYMMETRY,
    chunk: int | None = None,
    progress: Progress = lambda count: None,
    device: str = "cpu",
) -> Float[Tensor, "m m m"]:
    """The map of posed particles: the minimiser of the regularised least squares of the module's docstring.

    All frequencies inside the Nyquist circle of the map's box are used.

    Args:
        stack: the particles, read once more in chunks.
        noise: their noise spectrum.
        rows: (h,) indices of the particles that are used.
        rotations: RELION's rotation of every particle of the stack, (N, 3, 3).
        shifts_px: displacement (x, y) of every particle's content in pixels, (N, 2).
        group: of the map; every particle is used at each of its equivalent poses.
        chunk: images held at a time; by default as many as have two million pixels together.
        progress: called with the number of images done.
        device: where the equations are solved; their coefficients are summed on the CPU, by finufft.

    Returns:
        The map (m, m, m), z, y, x, in the stack's box; a larger box is sampled at :data:`LARGEST_BOX` voxels.
    """
    n = min(stack.n, LARGEST_BOX)
    lattice, cosets = group.stepwise()

    def sums(chunks: tuple[Tensor, ...]) -> list[Tensor]:
        normal = _NormalEquations.empty(n, odd=len(lattice) > 1)
        for part in chunks:
            for each in cosets:
                normal.add(stack, noise, part, each @ rotations[part], shifts_px[part])
            progress(len(part))
        return [normal.right, normal.kernel]

    chunks = rows.split(chunk or max(1, PIXELS_AT_ONCE // stack.n**2))
    right, kernel = (_summed_over(lattice, grid) for grid in summed(shards(chunks), sums))
    return _NormalEquations(right[:n, :n, :n], kernel[: 2 * n, : 2 * n, : 2 * n]).solve(device)


def combined(
    halves: tuple[Float[Tensor, "m m m"], Float[Tensor, "m m m"]], n: int, radius: float, generator: torch.Generator
) -> CombinedMap:
    """Combine two half-maps: their mean, filtered by their FSC, and the correlation within a mask.

    Every shell of the mean is multiplied by ``2 FSC / (1 + FSC)`` (Rosenthal and Henderson, J. Mol. Biol. 333, 2003),
    and by 0 from the first shell on in which the FSC is below 0.143.

    Args:
        halves: two half-maps of :func:`half_map`, (m, m, m) each.
        n: voxels along an edge of the result.
        radius: of the particle's ball, in voxels of the result.
        generator: draws the random phases of the correction for the mask.

    Returns:
        The maps on n³ voxels, and their correlations.
    """
    m = len(halves[0])
    ball = soft_sphere(m, radius * m / n)
    fsc = fourier_shell_correlation(halves[0] * ball, halves[1] * ball)
    # The mean of two half-maps of correlation c carries signal in the share 2c/(1+c) (Rosenthal & Henderson 2003).
    value = fsc.value.clamp(min=0)
    first_lost = (value[1:] < 0.143).nonzero().flatten()
    if len(first_lost):
        value[int(first_lost[0]) + 1 :] = 0
    shell = shell_indices(m, 3).clamp(max=m // 2)
    mean = (halves[0] + halves[1]) / 2
    spectrum = centred_fft(mean * ball, ndim=3) * (2 * value / (1 + value))[shell]
    filtered = centred_ifft(spectrum, ndim=3).real
    mask, masked = _within_mask(halves, filtered, radius * m / n, generator)
    volume, first, second, mask = (
        VoxelVolume(grid.to(torch.float32)).resampled(n).grid if m < n else grid.to(torch.float32)
        for grid in (filtered, *halves, mask * (m / n) ** 3)
    )
    # Shells are cycles per field of view, which both boxes share: only the unit of frequency changes.
    curves = (fsc, masked.unmasked, masked.masked, masked.randomised, masked.corrected)
    fsc, unmasked, within, randomised, corrected = (FSC(each.frequency * m / n, each.value) for each in curves)
    masked = HalfMapFSC(unmasked, within, randomised, corrected, masked.random_from)
    return CombinedMap(volume, (first, second), fsc, mask.clamp(0, 1), masked)


def _within_mask(
    halves: tuple[Float[Tensor, "m m m"], Float[Tensor, "m m m"]],
    filtered: Float[Tensor, "m m m"],
    radius: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "m m m"], HalfMapFSC]:
    """The particle's mask, from the mean smoothed to twice its resolution, and the correlation within it."""
    sign = 1 if float((filtered - filtered.mean()).pow(3).mean()) >= 0 else -1
    resolution_px = fourier_shell_correlation(*halves).cutoff_A(0.143, 1.0)
    smooth_px = min(max(4.0, 2 * resolution_px), radius)
    mask = soft_mask(sign * (halves[0] + halves[1]) / 2, radius, smooth_px)
    return mask, half_map_fsc(*halves, mask, generator)


@dataclass
class _NormalEquations:
    """``right``: A*y on n³ voxels; ``kernel``: of A*A on (2n)³; where sizes are odd, even ones have a plane more."""

    right: Complex[Tensor, "n n n"]
    kernel: Complex[Tensor, "m m m"]

    @classmethod
    def empty(cls, n: int, odd: bool) -> "_NormalEquations":
        sizes = (m + 1 - m % 2 if odd else m for m in (n, 2 * n))
        return cls(*(torch.zeros(m, m, m, dtype=torch.complex64) for m in sizes))

    def add(
        self,
        stack: ParticleStack,
        noise: Noise,
        rows: Int[Tensor, "b"],
        rotations: Float[Tensor, "b 3 3"],
        shifts: Float[Tensor, "b 2"],
    ) -> None:
        """Add particles; only half the plane is summed, since the other half is its conjugate."""
        n, m = stack.n, min(stack.n, LARGEST_BOX)
        plane = frequency_vectors(n)
        kx, ky = plane.unbind(-1)
        used = (torch.hypot(kx, ky) * n / m < torch.pi * (1 - 1 / m)) & ((kx > 0) | ((kx == 0) & (ky >= 0)))
        points = plane[used]
        weight = torch.where(points.any(dim=1), 2.0, 1.0) / noise.at_rows(rows, points.norm(dim=1))
        transform = centred_fft(stack.images(rows))[:, used]
        phase = shifts @ points.mT
        filtered = transform * torch.polar(torch.ones_like(phase), phase) * weight / n
        power = (weight / n**2).expand(len(rows), -1)
        if stack.ctf is not None:
            ctf = stack.ctf.select(rows).evaluate(points, stack.pixel_size_A)
            filtered = filtered * torch.where(stack.premultiplied[rows, None], 1.0, ctf)
            power = power * ctf.square()
        where = torch.einsum("bij,pj->bpi", rotations[:, :, :2], points * n / m).reshape(-1, 3)
        self.right += _type1(where, filtered.reshape(-1), len(self.right))
        self.kernel += _type1(where, power.reshape(-1).to(filtered.dtype), len(self.kernel))

    def solve(self, device: str = "cpu", iterations: int = 20) -> Float[Tensor, "n n n"]:
        """Minimiser of the ridge-regularised quadratic; real, because conjugate halves were folded."""
        n = len(self.right)
        axes = (-3, -2, -1)
        transfer = torch.fft.fftn(torch.fft.ifftshift(self.kernel.real.to(device), dim=axes))
        ridge = RIDGE * float(self.kernel.real[n, n, n])

        def apply(v: Tensor) -> Tensor:
            spectrum = torch.fft.rfftn(v.to(device), s=(2 * n,) * 3) * transfer[..., : n + 1]
            return torch.fft.irfftn(spectrum, s=(2 * n,) * 3)[:n, :n, :n].to(v.device) + ridge * v

        return solve_symmetric(apply, self.right.real.contiguous(), iterations=iterations)


def _summed_over(lattice: Float[Tensor, "h 3 3"], grid: Complex[Tensor, "n n n"]) -> Complex[Tensor, "n n n"]:
    """``Σ_h f(h x)`` of a function on a lattice centred on the origin, for rotations that map the lattice to itself."""
    if len(lattice) == 1:
        return grid
    total, xyz = torch.zeros_like(grid), grid.permute(2, 1, 0)
    for element in lattice:
        source = element.abs().argmax(1)  # (h x)_i is x_source[i] or its negative
        reversed_axes = [i for i in range(3) if float(element[i, source[i]]) < 0]
        total += xyz.flip(reversed_axes).permute(*source.argsort().tolist()).permute(2, 1, 0)
    return total


def _type1(where: Float[Tensor, "p 3"], values: Complex[Tensor, "p"], n: int) -> Complex[Tensor, "n n n"]:
    """``Σ_p values e^{+ik_p·x}`` on the centred n³ grid."""
    x, y, z = (np.ascontiguousarray(c, dtype=np.float32) for c in where.numpy().T)
    strengths = np.ascontiguousarray(values.numpy(), dtype=np.complex64)
    # One thread: several add up in no fixed order, and the same seed is to give the same map bit for bit.
    grid = finufft.nufft3d1(z, y, x, strengths, (n, n, n), isign=1, eps=TOLERANCE, nthreads=1)
    return torch.from_numpy(np.asarray(grid))

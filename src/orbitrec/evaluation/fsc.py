"""Fourier shell correlation and the resolution read from it (Harauz & van Heel, Optik 73, 1986)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, radial_frequencies


@dataclass(frozen=True)
class FSC:
    """Correlation of two maps' transforms on shells one frequency step thick, from the origin to Nyquist.

    Attributes:
        frequency: shell radii ``2πs/n``, s = 0 … n//2, in radians per pixel.
        value: correlation of each shell, 0 where one of the maps has no power.
    """

    frequency: Float[Tensor, "s"]
    value: Float[Tensor, "s"]

    def resolution_A(self, voxel_size_A: float) -> Float[Tensor, "s"]:
        """Period of each shell in Å; the shell at the origin is infinite."""
        return 2 * math.pi * voxel_size_A / self.frequency

    def cutoff_A(self, threshold: float, voxel_size_A: float) -> float:
        """Resolution in Å at which the curve first falls below ``threshold``, linear between shells.

        The shell at the origin does not count: it says only whether the means agree in sign. A curve that is below the
        threshold from the first shell on has no resolution, ∞; one that never crosses it is limited by the sampling,
        two voxels.
        """
        below = (self.value[1:] < threshold).nonzero().flatten()
        if len(below) == 0:
            return 2 * voxel_size_A
        s = int(below[0]) + 1
        if s == 1:
            return math.inf
        high, low = float(self.value[s - 1]), float(self.value[s])
        step = (high - threshold) / (high - low)
        return 2 * math.pi * voxel_size_A / float(torch.lerp(self.frequency[s - 1], self.frequency[s], step))


def fourier_shell_correlation(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> FSC:
    """``FSC_s = Re Σ â b̂* / sqrt(Σ|â|² Σ|b̂|²)`` over the lattice points that round to radius s, s = 0 … n//2.

    The maps are compared as they are: multiply both by :func:`soft_sphere` first to leave the solvent out. Masking
    raises the curve, and correlates the maps where the mask is tight.

    Args:
        a: one map, (n, n, n).
        b: the other, of the same shape.

    Raises:
        InputError: if the maps are not cubes of one size.
    """
    n = a.shape[0]
    if a.shape != b.shape or a.shape != (n, n, n):
        raise InputError(
            f"maps to compare must be cubes of one size, not {tuple(a.shape)} and {tuple(b.shape)}; resample one first"
        )
    shell = (radial_frequencies(n, 3) * n / (2 * math.pi)).round().long().flatten()
    x, y = (centred_fft(grid.double(), ndim=3).flatten() for grid in (a, b))

    def shells(values: Tensor) -> Tensor:
        return torch.bincount(shell, values, minlength=n // 2 + 1)[: n // 2 + 1]

    cross = shells((x * y.conj()).real)
    power = shells(x.abs().square()) * shells(y.abs().square())
    value = torch.where(power > 0, cross / power.clamp(min=torch.finfo(power.dtype).tiny).sqrt(), 0.0)
    return FSC(2 * math.pi / n * torch.arange(n // 2 + 1, dtype=torch.float64), value)


def soft_sphere(n: int, radius_px: float, edge_px: float = 5.0) -> Float[Tensor, "n n n"]:
    """1 within ``radius_px`` of the origin, falling to 0 over the next ``edge_px`` by a raised cosine."""
    # The DFT grid's radii are the voxels' own up to the factor n/2π.
    radius = radial_frequencies(n, 3) * n / (2 * math.pi)
    return 0.5 + 0.5 * torch.cos(math.pi * ((radius - radius_px) / edge_px).clamp(0, 1))

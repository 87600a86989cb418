"""A volume on a voxel grid, evaluated exactly by a non-uniform FFT."""

from dataclasses import dataclass

import finufft
import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft, fourier_crop, fourier_pad


@dataclass(frozen=True)
class VoxelVolume:
    """Density samples ``grid[z, y, x]`` with the origin at index ``n // 2``.

    Raises:
        InputError: if the grid is not a cube.
    """

    grid: Float[Tensor, "z y x"]

    def __post_init__(self) -> None:
        if self.grid.ndim != 3 or len(set(self.grid.shape)) != 1:
            raise InputError(f"a volume must be a cube, but this one has shape {tuple(self.grid.shape)}")

    @property
    def n(self) -> int:
        """Voxels along one edge."""
        return self.grid.shape[0]

    def fourier(self, points: Float[Tensor, "... 3"]) -> Complex[Tensor, "..."]:
        """``Σ_x v(x) e^{-ik·x}`` by finufft (type 2), to 1e-6 in float32 and 1e-12 in float64."""
        double = points.dtype == torch.float64
        real, cplx, eps = (np.float64, np.complex128, 1e-12) if double else (np.float32, np.complex64, 1e-6)
        x, y, z = (np.ascontiguousarray(c, dtype=real) for c in points.detach().cpu().reshape(-1, 3).numpy().T)
        # finufft's mode order is −(n//2) … ⌈n/2⌉−1, which is the centred index; its axes are named in array order.
        modes = np.ascontiguousarray(self.grid.detach().cpu().numpy(), dtype=cplx)
        values = finufft.nufft3d2(z, y, x, modes, isign=-1, eps=eps)
        return torch.from_numpy(np.asarray(values)).reshape(points.shape[:-1]).to(points.device)

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        """The same voxels in a box of ``n``: zero-padded or cut around the origin (voxel size unchanged)."""
        out = self.grid.new_zeros(n, n, n)
        m = min(n, self.n)
        small, large = (slice(size // 2 - m // 2, size // 2 - m // 2 + m) for size in (n, self.n))
        out[small, small, small] = self.grid[large, large, large]
        return out

    def resampled(self, n: int) -> "VoxelVolume":
        """Band-limited resampling of the same field of view to n³ voxels; the density's integral is kept.

        Voxels become ``self.n / n`` times as large, so values are scaled by the voxel volume.
        """
        spectrum = centred_fft(self.grid, ndim=3)
        spectrum = fourier_crop(spectrum, n, 3) if n <= self.n else fourier_pad(spectrum, n, 3)
        # Unitary transforms: the integral is √(n³) × the zero frequency, so it scales by √(old/new)^3.
        return VoxelVolume(centred_ifft(spectrum, ndim=3).real * (self.n / n) ** 1.5)

import math

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.grids import frequencies
from orbitrec.geometry.rotations import random_rotations
from orbitrec.volumes.base import Volume
from orbitrec.volumes.gaussians import GaussianMixture


def mixture(dtype: torch.dtype = torch.float64) -> GaussianMixture:
    centers = torch.tensor([[3.0, -1.5, 2.0], [-2.0, 4.0, 0.5], [0.0, -3.0, -4.0]], dtype=dtype)
    return GaussianMixture(
        centers, torch.tensor([1.6, 2.0, 1.8], dtype=dtype), torch.tensor([1.0, 2.0, -0.5], dtype=dtype)
    )


def dft_points(n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    k = frequencies(n, dtype)
    z, y, x = torch.meshgrid(k, k, k, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [32, 33])
def test_transform_is_the_dft_of_the_samples(n, dtype):
    # Σ_x v(x) e^{-ikx} of the samples equals the integral up to aliasing, exp(−σ²π²/2) ≈ 3e-6 at σ = 1.6.
    volume = mixture(dtype)
    sampled = centred_fft(volume.to_grid(n), ndim=3) * n**1.5
    exact = volume.fourier(dft_points(n, dtype))
    assert exact.dtype == sampled.dtype
    assert float((exact - sampled).abs().max()) < 2e-5


@pytest.mark.parametrize("n", [32, 33])
def test_slice_is_the_transform_of_the_projection(n):
    # A rotated isotropic Gaussian projects to a 2-D one of the same width at the first two coordinates of Rᵀc.
    volume, rotation = mixture(), random_rotations(1, torch.Generator().manual_seed(4))[0]
    k = frequencies(n)
    ky, kx = torch.meshgrid(k, k, indexing="ij")
    points = torch.stack([kx, ky, torch.zeros_like(kx)], dim=-1) @ rotation.T
    x = torch.arange(n, dtype=torch.float64) - n // 2
    image = torch.zeros(n, n, dtype=torch.float64)
    for center, width, weight in zip(volume.centers @ rotation, volume.widths, volume.weights, strict=True):
        distance = (x - center[0]).square() + (x[:, None] - center[1]).square()
        image += weight * torch.exp(-distance / (2 * width**2)) / (2 * math.pi * width**2)
    assert torch.allclose(volume.fourier(points) / n, centred_fft(image), atol=1e-6)


def test_large_requests_are_split_without_a_trace(monkeypatch):
    points = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = mixture().fourier(points)
    monkeypatch.setattr("orbitrec.volumes.gaussians._PAIRS_AT_ONCE", 10)
    assert whole.shape == (5, 7)
    assert torch.allclose(mixture().fourier(points), whole, atol=1e-14)


def test_is_a_volume_and_refuses_points_of_no_width():
    assert isinstance(mixture(), Volume)
    with pytest.raises(InputError, match="width"):
        GaussianMixture(torch.zeros(1, 3), torch.zeros(1), torch.ones(1))

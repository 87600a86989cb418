import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.grids import frequencies
from orbitrec.volumes.base import Volume
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.voxel import VoxelVolume


def random_grid(n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, n, n, generator=torch.Generator().manual_seed(n), dtype=dtype)


def blobs(scale: float = 1.0) -> GaussianMixture:
    centers = torch.tensor([[3.0, -1.5, 2.0], [-2.0, 4.0, 0.5]], dtype=torch.float64)
    return GaussianMixture(
        scale * centers, scale * torch.tensor([2.0, 2.5]).double(), torch.tensor([1.0, 2.0]).double()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [7, 8])
def test_transform_is_the_sum_over_voxels(n, dtype):
    grid = random_grid(n)
    points = 2 * torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.arange(n, dtype=torch.float64) - n // 2
    z, y, x = torch.meshgrid(x, x, x, indexing="ij")
    phase = torch.einsum("pqc,czyx->pqzyx", points, torch.stack([x, y, z]))
    expected = (grid * torch.exp(-1j * phase)).sum((-3, -2, -1))
    values = VoxelVolume(grid.to(dtype)).fourier(points.to(dtype))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    assert float((values - expected).abs().max()) < tolerance * float(expected.abs().max())


@pytest.mark.parametrize("n", [32, 33])
def test_agrees_with_the_closed_form_of_blobs(n):
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = blobs().fourier(points)
    assert torch.allclose(VoxelVolume(blobs().to_grid(n)).fourier(points), exact, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(32, 33), (33, 32), (33, 47), (48, 25), (32, 20)])
def test_padding_and_cutting_keep_the_origin(old, new):
    grid = random_grid(old)
    out = VoxelVolume(grid).to_grid(new)
    for offset in ((0, 0, 0), (3, -4, 2)):
        assert out[tuple(new // 2 + o for o in offset)] == grid[tuple(old // 2 + o for o in offset)]
    if new > old:
        assert float(out.sum()) == pytest.approx(float(grid.sum()))


@pytest.mark.parametrize(("old", "new"), [(32, 33), (33, 32), (32, 48), (48, 32), (49, 33)])
def test_resampling_moves_samples_of_the_same_density(old, new):
    # Smooth blobs in another voxel size are the same blobs, with coordinates and widths scaled.
    resampled = VoxelVolume(blobs().to_grid(old)).resampled(new).grid
    expected = blobs(new / old).to_grid(new)
    assert float((resampled - expected).abs().max()) < 2e-3 * float(expected.max())
    assert float(resampled.sum()) == pytest.approx(float(blobs().weights.sum()), rel=1e-4)


def test_frequencies_match_the_dft():
    grid, k = random_grid(9), frequencies(9)
    line = torch.stack([k, torch.zeros(9).double(), torch.zeros(9).double()], dim=-1)
    profile = grid.sum((0, 1))
    expected = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(profile)))
    assert torch.allclose(VoxelVolume(grid).fourier(line), expected, atol=1e-9)


def test_only_cubes():
    assert isinstance(VoxelVolume(random_grid(4)), Volume)
    with pytest.raises(InputError, match="cube"):
        VoxelVolume(torch.zeros(4, 4, 5))

"""Alignment against closed forms (moved Gaussian atoms) and real maps moved by scipy's splines."""

import math
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy import ndimage

from orbitrec.errors import InputError
from orbitrec.evaluation.alignment import Alignment, align, resampled
from orbitrec.geometry.rotations import geodesic_distance, random_rotations

MIRROR = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _atoms(count: int, radius: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions in a ball (xyz, pixels) and weights."""
    direction = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    length = radius * torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    weight = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
    return length * direction / direction.norm(dim=1, keepdim=True), weight


def _density(n: int, centres: torch.Tensor, weights: torch.Tensor, sigma: float = 1.3) -> torch.Tensor:
    """Σ_a w_a exp(−|x − c_a|²/2σ²) on the grid: separable in x, y and z."""
    axis = torch.arange(n, dtype=torch.float64) - n // 2
    x, y, z = (torch.exp(-0.5 * ((axis - c[:, None]) / sigma) ** 2) for c in centres.T)
    return torch.einsum("a,az,ay,ax->zyx", weights, z, y, x)


def _moved(centres: torch.Tensor, rotation: torch.Tensor, shift: torch.Tensor, mirrored: bool) -> torch.Tensor:
    matrix = rotation @ MIRROR if mirrored else rotation
    return centres @ matrix.T + shift


def _error_deg(found: Alignment, rotation: torch.Tensor) -> float:
    return math.degrees(geodesic_distance(found.rotation, rotation))


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_apply_mirrors_then_rotates_then_shifts(n: int, mirrored: bool, dtype: torch.dtype) -> None:
    generator = _generator(n)
    centres, weights = _atoms(12, 6.0, generator)
    rotation, shift = random_rotations(1, generator)[0], torch.tensor([1.3, -2.2, 0.4], dtype=torch.float64)
    moved = Alignment(rotation, shift, mirrored, 1.0).apply(_density(n, centres, weights).to(dtype))
    expected = _density(n, _moved(centres, rotation, shift, mirrored), weights)
    assert moved.dtype == dtype
    # σ = 1.3 px is band-limited at Nyquist only to exp(−π²σ²/2) = 2e-4.
    assert (moved - expected).abs().max() < 2e-3 * expected.max()


@pytest.mark.parametrize("n", [16, 17])
def test_the_identity_leaves_every_voxel(n: int) -> None:
    volume = 5 + torch.randn(n, n, n, generator=_generator(0), dtype=torch.float64)
    still = Alignment(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), False, 1.0)
    torch.testing.assert_close(still.apply(volume), volume, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n", "dtype"), [(32, torch.float32), (33, torch.float64)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_moved_atoms_are_brought_back(n: int, dtype: torch.dtype, mirrored: bool) -> None:
    generator = _generator(3 * n + mirrored)
    centres, weights = _atoms(30, 8.0, generator)
    rotation = random_rotations(1, generator)[0]
    shift = 6 * torch.rand(3, generator=generator, dtype=torch.float64) - 3
    reference = _density(n, _moved(centres, rotation, shift, mirrored), weights).to(dtype)
    # Another scale and a raised background are no difference.
    moving = (1e-6 * _density(n, centres, weights) + 1e-5).to(dtype)
    found = align(moving, reference)
    assert found.mirrored is mirrored
    assert _error_deg(found, rotation) < 0.02
    assert (found.shift_px - shift).abs().max() < 0.005
    assert found.correlation > 0.9999
    assert torch.corrcoef(torch.stack([found.apply(moving).flatten(), reference.flatten()]))[0, 1] > 0.9999


def test_a_broken_symmetry_is_told_apart() -> None:
    """A four-fold symmetric particle with one small atom more: four near-equal optima, of which one is right."""
    generator = _generator(11)
    centres, weights = _atoms(8, 8.0, generator)
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    ring = torch.cat([centres @ torch.linalg.matrix_power(quarter, k).T for k in range(4)])
    extra = torch.tensor([[7.0, 2.0, 3.0]], dtype=torch.float64)
    centres, weights = torch.cat([ring, extra]), torch.cat([weights.repeat(4), weights.new_tensor([0.7])])
    rotation, shift = random_rotations(1, generator)[0], torch.tensor([1.0, 0.5, -1.5], dtype=torch.float64)
    found = align(_density(32, centres, weights), _density(32, _moved(centres, rotation, shift, False), weights))
    assert not found.mirrored
    assert _error_deg(found, rotation) < 0.05


def test_without_hand_no_mirror_is_tried() -> None:
    centres, weights = _atoms(30, 8.0, _generator(5))
    moving, mirror = _density(32, centres, weights), _density(32, centres @ MIRROR, weights)
    found = align(moving, mirror, handedness=False)
    assert not found.mirrored
    assert found.correlation < 0.9


def _spline_moved(grid: np.ndarray, rotation: np.ndarray, shift: np.ndarray, mirrored: bool) -> np.ndarray:
    """moving(F Rᵀ (x − s)) by quintic splines in real space: none of this project's transforms."""
    matrix = (np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0]) @ rotation.T)[::-1, ::-1]
    centre = grid.shape[0] // 2
    return ndimage.affine_transform(grid, matrix, offset=centre - matrix @ (centre + shift[::-1]), order=5)


@pytest.mark.parametrize("name", ["emd_0409_64", "emd_25892_64"])
@pytest.mark.parametrize(
    ("snr", "mirrored", "tolerance_deg"), [(math.inf, True, 0.5), (0.1, False, 1.5), (0.1, True, 1.5)]
)
def test_real_maps(shared_data: Path, name: str, snr: float, mirrored: bool, tolerance_deg: float) -> None:
    """Some of the cases of ``benchmarks/alignment.py``. SNR: signal over noise variance in the whole box."""
    grid = mrcfile.read(shared_data / "maps" / f"{name}.mrc").astype(np.float32)
    generator = _generator(7 + mirrored)
    rotation, shift = random_rotations(1, generator)[0], 8 * torch.rand(3, generator=generator, dtype=torch.float64) - 4
    reference = torch.from_numpy(_spline_moved(grid, rotation.numpy(), shift.numpy(), mirrored))
    noise = torch.randn(grid.shape, generator=generator) * float(grid.std()) / math.sqrt(snr)
    found = align(torch.from_numpy(grid) + noise, reference)
    assert found.mirrored is mirrored
    assert _error_deg(found, rotation) < tolerance_deg
    assert (found.shift_px - shift).norm() < 0.2


def test_noise_in_both_maps(shared_data: Path) -> None:
    grid = torch.from_numpy(mrcfile.read(shared_data / "maps" / "emd_0409_64.mrc").astype(np.float32))
    generator = _generator(9)
    rotation, shift = random_rotations(1, generator)[0], torch.tensor([2.5, -3.0, 1.2], dtype=torch.float64)
    noisy = [
        values + torch.randn(grid.shape, generator=generator) * grid.std() / math.sqrt(0.1)
        for values in (grid, Alignment(rotation, shift, True, 1.0).apply(grid))
    ]
    found = align(*noisy)
    assert found.mirrored
    assert _error_deg(found, rotation) < 1.5


@pytest.mark.parametrize(("m", "n", "ratio"), [(32, 41, 0.8), (33, 24, 1.37), (40, 32, 1.0)])
def test_resampled_is_the_density_on_other_voxels(m: int, n: int, ratio: float) -> None:
    """Atoms in Å: the sum over voxels is kept, so values scale with the voxel's volume."""
    centres, weights = _atoms(12, 6.0, _generator(1))
    other = resampled(2 + _density(m, centres, weights, sigma=2.0), 3.0, n, 3.0 * ratio)
    expected = ratio**3 * (2 + _density(n, centres / ratio, weights, sigma=2.0 / ratio))
    assert (other - expected).abs().max() < 2e-3 * expected.max()


def test_maps_that_cannot_be_aligned_are_refused() -> None:
    noise = torch.randn(12, 12, 12, generator=_generator(0))
    with pytest.raises(InputError, match="cubes of one size"):
        align(noise, noise[:10, :10, :10])
    with pytest.raises(InputError, match="the moving map is constant"):
        align(torch.ones(12, 12, 12), noise)

"""Grid points and shells for odd and even n, against the DFT's own points, plane waves and integer arithmetic."""

import math

import pytest
import torch

from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.grids import (
    frequencies,
    frequency_vectors,
    nearest_shells,
    pixel_vectors,
    pixels,
    radial_frequencies,
    radii,
    shell_frequencies,
    shell_indices,
    vectors,
)

SIZES = [1, 2, 7, 8, 15, 16]


@pytest.mark.parametrize("n", SIZES)
def test_frequencies_are_the_dfts_own_points(n: int) -> None:
    k = frequencies(n)
    assert k[n // 2] == 0
    torch.testing.assert_close(k, 2 * math.pi * torch.fft.fftshift(torch.fft.fftfreq(n, dtype=torch.float64)))
    assert frequencies(n, torch.float32).dtype == torch.float32


@pytest.mark.parametrize("n", [5, 6])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_radial_frequencies(n: int, ndim: int) -> None:
    radius = radial_frequencies(n, ndim)
    assert radius.shape == (n,) * ndim
    assert radius[(n // 2,) * ndim] == 0
    corner = math.sqrt(ndim) * 2 * math.pi * (n // 2) / n
    assert radius[(0,) * ndim].item() == pytest.approx(corner)
    last_axis = radius[(n // 2,) * (ndim - 1)]
    torch.testing.assert_close(last_axis, frequencies(n).abs())


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wave_of_a_frequency_vector_is_one_point_of_the_transform(n: int, dtype: torch.dtype):
    # e^{ik·x} with x in xyz order on a (z, y, x) grid: axes in another order would put it elsewhere.
    grid = frequency_vectors(n, 3, dtype)
    assert grid.dtype == dtype
    k = grid[1, 2, 5]
    x = pixels(n, dtype)
    phase = k[2] * x[:, None, None] + k[1] * x[:, None] + k[0] * x
    spectrum = centred_fft(torch.polar(torch.ones_like(phase), phase), 3)
    assert spectrum.abs().flatten().argmax() == (1 * n + 2) * n + 5
    assert torch.allclose(grid.norm(dim=-1), radial_frequencies(n, 3, dtype))


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_origin_is_the_only_point_at_zero_and_vectors_are_in_xyz_order(n: int, ndim: int) -> None:
    points = pixel_vectors(n, ndim)
    assert (radii(n, ndim) == 0).nonzero().tolist() == [[n // 2] * ndim]
    for axis in range(ndim):  # the last axis of the array is x, the first entry of the vector
        steps = points.diff(dim=ndim - 1 - axis)
        assert bool((steps[..., axis] == 1).all())
        assert float(steps.sum()) == steps[..., 0].numel()  # and nothing else changes along it
    torch.testing.assert_close(frequency_vectors(n, ndim), 2 * math.pi / n * points)
    assert torch.equal(vectors(0.5 * pixels(n), ndim), 0.5 * points)


@pytest.mark.parametrize("n", [5, 6, 11, 12])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_shells_are_the_integers_nearest_to_the_radius(n: int, ndim: int) -> None:
    """Shell s is ``s² − s < |j|² ≤ s² + s`` in whole numbers: ``(s ± ½)²`` is never whole."""
    shell = shell_indices(n, ndim)
    square = pixel_vectors(n, ndim).long().square().sum(-1) if ndim > 1 else pixels(n).long().square()
    assert bool(((shell * shell - shell < square) & (square <= shell * shell + shell) | (square == 0)).all())
    assert shell.shape == (n,) * ndim
    on_axis = shell[(n // 2,) * (ndim - 1)]
    assert on_axis.tolist() == [abs(j - n // 2) for j in range(n)]


@pytest.mark.parametrize("n", [9, 10])
def test_shells_of_frequencies_are_those_of_the_grid(n: int) -> None:
    assert torch.equal(nearest_shells(radial_frequencies(n, 3), n), shell_indices(n, 3))
    assert nearest_shells(shell_frequencies(n), n).tolist() == list(range(n // 2 + 1))
    assert float(shell_frequencies(n)[-1]) == pytest.approx(math.pi * (1 if n % 2 == 0 else 1 - 1 / n))
    assert len(shell_frequencies(n, n)) == n

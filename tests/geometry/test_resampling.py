"""Resampling against band-limited functions known everywhere."""

import math

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft, fourier_crop
from orbitrec.geometry.resampling import resampling_matrix


def _wave(n: int, at: torch.Tensor, harmonics: list[int]) -> torch.Tensor:
    return sum(torch.cos(2 * math.pi * q * at / n + q) for q in harmonics)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(("n", "size", "step"), [(30, 22, 1.31), (31, 21, 1.4142), (32, 31, 1.0), (20, 33, 0.6)])
def test_band_limited_functions_keep_their_values(n, size, step):
    a = resampling_matrix(n, size, step)
    harmonics = [0, 1, math.ceil(n / (2 * max(step, 1.0))) - 1]
    old = torch.arange(n, dtype=torch.float64) - n // 2
    new = step * (torch.arange(size, dtype=torch.float64) - size // 2)
    torch.testing.assert_close(a @ _wave(n, old, harmonics), _wave(n, new, harmonics), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "step"), [(30, 1.5), (33, 3.0)])
def test_frequencies_from_the_new_nyquist_on_are_gone(n, step):
    a = resampling_matrix(n, round(n / step), step)
    old = torch.arange(n, dtype=torch.float64) - n // 2
    assert float((a @ _wave(n, old, [math.ceil(n / (2 * step))])).abs().max()) < 1e-12


@pytest.mark.parametrize("n", [30, 45])
def test_whole_ratios_are_cropped_transforms(n):
    image = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    small = n // 3
    a = resampling_matrix(n, small, 3.0)
    cropped = centred_ifft(fourier_crop(centred_fft(image), small)).real / 3
    difference = centred_fft(a @ image @ a.mT - cropped)
    if small % 2 == 0:  # the unpaired frequency, which cannot be resampled, is left out
        difference = difference[1:, 1:]
    assert float(difference.abs().max()) < 1e-12


def test_points_outside_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        resampling_matrix(20, 20, 1.2)

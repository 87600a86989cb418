"""FSC against closed forms: identity, independent noise, a known signal-to-noise ratio, curves drawn by hand."""

import math

import numpy as np
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.evaluation.fsc import FSC, fourier_shell_correlation
from orbitrec.evaluation.masks import soft_sphere


def _noise(n: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, n, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _radii(n: int) -> np.ndarray:
    j = np.arange(n) - n // 2
    return np.rint(np.sqrt(j[:, None, None] ** 2 + j[:, None] ** 2 + j**2)).astype(int)


def _points_per_shell(n: int) -> torch.Tensor:
    return torch.from_numpy(np.bincount(_radii(n).ravel())[: n // 2 + 1])


@pytest.mark.parametrize("n", [20, 21])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_agrees_with_itself_at_any_scale(n: int, dtype: torch.dtype) -> None:
    a = _noise(n, 0, dtype)
    fsc = fourier_shell_correlation(a, 3 * a)
    torch.testing.assert_close(fsc.value, torch.ones(n // 2 + 1, dtype=torch.float64))
    torch.testing.assert_close(fourier_shell_correlation(a, -a).value, -fsc.value)
    assert fsc.cutoff_A(0.5, 1.5) == 3.0


@pytest.mark.parametrize("n", [32, 33])
def test_independent_noise_scatters_by_one_over_root_points(n: int) -> None:
    """Re Σ a b* over N points, N/2 of them independent, has variance 1/N after normalisation."""
    curves = [fourier_shell_correlation(_noise(n, 2 * i), _noise(n, 2 * i + 1)).value[3:] for i in range(8)]
    z = torch.stack(curves) * _points_per_shell(n)[3:].sqrt()
    assert z.abs().max() < 5
    # The mean square of m standard normals is 1 ± sqrt(2/m); shells of few points are a little narrower.
    assert abs(z.square().mean() - 1) < 5 * math.sqrt(2 / z.numel())


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("snr", [0.25, 1.0, 4.0])
def test_half_maps_of_known_snr(n: int, snr: float) -> None:
    """FSC = SNR / (SNR + 1) (Rosenthal & Henderson 2003); a correlation ρ of N points scatters by (1 − ρ²)/√N."""
    signal = math.sqrt(snr) * _noise(n, 1)
    value = fourier_shell_correlation(signal + _noise(n, 2), signal + _noise(n, 3)).value[3:]
    expected = snr / (snr + 1)
    error = (1 - expected**2) / _points_per_shell(n)[3:].sqrt()
    assert ((value - expected) / error).abs().max() < 5
    pooled = (error**-2).sum() ** -0.5
    assert abs((value * error**-2).sum() * pooled**2 - expected) < 5 * pooled


@pytest.mark.parametrize("n", [20, 21])
def test_the_cutoff_is_where_the_maps_part(n: int) -> None:
    """Frequencies above shell 6 change sign: the curve falls from 1 to −1 between shells 6 and 7."""
    a = _noise(n, 0).numpy()
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(a)))
    spectrum[_radii(n) > 6] *= -1
    b = torch.from_numpy(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum))).real.copy())
    fsc = fourier_shell_correlation(torch.from_numpy(a), b)
    # An even box's Nyquist planes have no partner to stay real with, so only shells below them are exact.
    torch.testing.assert_close(fsc.value[1:7], torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(fsc.value[7 : n // 2 - 1], -torch.ones(n // 2 - 8, dtype=torch.float64))
    assert fsc.cutoff_A(0.5, 2.0) == pytest.approx(2.0 * n / 6.25)
    assert fsc.cutoff_A(0.143, 2.0) == pytest.approx(2.0 * n / (6 + 0.857 / 2))


def _curve(*values: float) -> FSC:
    frequency = 2 * math.pi * torch.arange(len(values), dtype=torch.float64) / 10
    return FSC(frequency, torch.tensor(values, dtype=torch.float64))


def test_cutoffs_of_drawn_curves() -> None:
    falling = _curve(1.0, 0.9, 0.7, 0.3, 0.6, 0.1)
    assert falling.cutoff_A(0.5, 3.0) == pytest.approx(30 / 2.5)  # the first crossing, not the last
    assert falling.cutoff_A(0.143, 3.0) == pytest.approx(30 / (4 + 0.457 / 0.5))
    assert _curve(1.0, 0.9, 0.8, 0.8, 0.7, 0.6).cutoff_A(0.5, 3.0) == 6.0
    assert _curve(1.0, 0.4, 0.8, 0.8, 0.8, 0.8).cutoff_A(0.5, 3.0) == math.inf
    assert _curve(-1.0, 0.9, 0.8, 0.8, 0.8, 0.8).cutoff_A(0.5, 3.0) == 6.0  # the mean's sign does not count
    assert falling.resolution_A(3.0).tolist() == pytest.approx([math.inf, 30, 15, 10, 7.5, 6])


def test_a_shell_without_power_correlates_with_nothing() -> None:
    a = _noise(12, 0)
    assert fourier_shell_correlation(a, torch.zeros_like(a)).value.tolist() == [0.0] * 7


def test_maps_must_be_cubes_of_one_size() -> None:
    with pytest.raises(InputError, match="cubes of one size"):
        fourier_shell_correlation(torch.zeros(8, 8, 8), torch.zeros(9, 9, 9))


@pytest.mark.parametrize("n", [20, 21])
def test_soft_sphere_is_one_inside_and_zero_outside(n: int) -> None:
    mask = soft_sphere(n, radius_px=4.0, edge_px=2.0)
    j = np.arange(n) - n // 2
    radius = torch.from_numpy(np.sqrt(j[:, None, None] ** 2 + j[:, None] ** 2 + j**2))
    assert (mask[radius <= 4] - 1).abs().max() < 1e-12
    assert mask[radius >= 6].abs().max() < 1e-12
    assert float(mask[n // 2, n // 2, n // 2 + 5]) == pytest.approx(0.5)

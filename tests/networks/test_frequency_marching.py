"""Frequency marching: exact from exact moments, calibrated in noise."""

import pytest
import torch

from orbitrec.geometry.fourier import centred_fft
from orbitrec.moments.losses import orbit_error
from orbitrec.mra.families import MixtureLaw
from orbitrec.mra.model import PeriodicMRA
from orbitrec.mra.problem import model_moments
from orbitrec.networks.frequency_marching import from_half, march_frequencies


def problems(n, count=20, seed=0):
    law = MixtureLaw(2, widths=(0.03, 0.05))
    return law.pairs(count, n, torch.Generator().manual_seed(seed))


def marching(moments, sigma=0.0, count=torch.inf):
    b = len(moments.first)
    first, second = moments.first.squeeze(1), moments.second.squeeze(1)
    return march_frequencies(
        first, second, torch.full((b,), sigma).to(first.real), torch.full((b,), count).to(first.real)
    )


@pytest.mark.parametrize("n", [25, 24])
def test_exact_from_exact_moments(n):
    signal, density = problems(n)
    found = marching(model_moments(PeriodicMRA(n), signal, density))
    recovered = from_half(found.density / found.density_certainty, n, unitary=False)
    # Modes below rounding are lost, and the Nyquist mode of an even n is left out.
    signal, density = (torch.fft.irfft(torch.fft.rfft(x)[:, : (n + 1) // 2], n=n) for x in (signal, density))
    assert orbit_error(from_half(found.signal, n), signal).max() < 1e-6
    assert orbit_error(recovered, density).median() < 1e-6


def test_the_frame_has_positive_first_coefficients_and_rotates_back():
    n = 25
    signal, density = problems(n)
    found = marching(model_moments(PeriodicMRA(n), signal, density))
    assert found.signal[:, 1].imag.abs().max() < 1e-12
    assert (found.signal[:, 1].real > 0).all()
    estimate = found.density / found.density_certainty
    assert estimate[:, 1].imag.abs().max() < 1e-6
    rotated = estimate[:, 1] * torch.exp(1j * found.angle)
    transform = centred_fft(signal, ndim=1)[:, n // 2 + 1]
    torch.testing.assert_close(rotated * found.signal[:, 1], transform * torch.fft.fft(density)[:, 1])


def test_certainty_is_the_inverse_variance():
    """Weights are inverse variances of independent entries: checked on one entry's noise, drawn without the library."""
    n, sigma, count = 9, 0.7, 400
    generator = torch.Generator().manual_seed(3)
    signal, density = MixtureLaw(1, widths=(0.1, 0.1)).pairs(1, n, generator)
    shift = torch.multinomial(density[0], 300 * count, replacement=True, generator=generator)
    copies = torch.stack([signal[0].roll(s) for s in range(n)])[shift]
    noisy = copies + sigma * torch.randn(copies.shape, generator=generator, dtype=torch.float64)
    modes = centred_fft(noisy, ndim=1).reshape(300, count, n)
    entry = (modes[..., n // 2 + 3] * modes[..., n // 2 + 1].conj()).mean(1)
    clean = centred_fft(copies, ndim=1).reshape(300, count, n)
    entry = entry - (clean[..., n // 2 + 3] * clean[..., n // 2 + 1].conj()).mean(1)
    power = centred_fft(signal[0], ndim=1).abs().square()
    expected = (sigma**2 * (power[n // 2 + 3] + power[n // 2 + 1]) + sigma**4) / count
    measured = entry.abs().square().mean()
    assert abs(measured - expected) < 5 * expected / 300**0.5

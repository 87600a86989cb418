import math

import pytest
import torch

from oracles import whitened
from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.models.background import Background, corner_mask
from orbitrec.models.noise import NoiseSpectrum, estimate_noise


def shell_counts(n: int) -> torch.Tensor:
    shell = (radial_frequencies(n) * n / (2 * math.pi)).round().long().reshape(-1)
    return torch.bincount(shell)[: n // 2 + 1].double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [32, 33])
def test_white_noise_is_estimated_without_bias(n, dtype):
    """At the lowest frequencies too, which a plane takes away from the corners; images may have lost it before."""
    generator, repeats, count, variance = torch.Generator().manual_seed(3), 40, 25, 2.5
    truth = NoiseSpectrum.white(n, variance)
    plane = 7.0 + torch.linspace(-1, 2, n, dtype=dtype)[:, None] + torch.linspace(3, 0, n, dtype=dtype)
    stacks = [truth.sample(count, generator, dtype) + plane for _ in range(repeats)]
    estimates = torch.stack([estimate_noise([images], degree=1).shells for images in stacks])
    error = estimates.mean(0) - variance
    standard_error = estimates.std(0) / math.sqrt(repeats)
    assert bool((error.abs() < 5 * standard_error).all())
    without = estimate_noise([Background(degree=1).removed(stacks[0])], degree=1)
    assert torch.allclose(without.shells, estimates[0], rtol=1e-4)


def test_coloured_noise_behind_particles():
    n, count, snr = 64, 600, 0.1
    generator, truth = torch.Generator().manual_seed(5), NoiseSpectrum.coloured(64).scaled(3.0)
    x = torch.arange(n) - n // 2
    particle = torch.exp(-(x[:, None] ** 2 + x**2) / (2 * 8.0**2))
    particle *= math.sqrt(snr * truth.pixel_variance / float(particle[~corner_mask(n)].var()))
    images = truth.sample(count, generator) + particle
    estimate = estimate_noise(images.split(128))
    relative = (estimate.shells / truth.shells - 1).abs()
    assert float(relative[2:].max()) < 0.1
    assert float(relative[2:].mean()) < 0.02
    assert abs(estimate.pixel_variance / truth.pixel_variance - 1) < 0.02


@pytest.mark.parametrize("n", [48, 49])
def test_noise_before_a_ctf_is_not_what_particles_spread_at_the_lowest_frequencies(n):
    k, generator, count, variance = radial_frequencies(n), torch.Generator().manual_seed(8), 1500, 2.0
    factor = 0.1 + 0.9 * torch.sin((k * n / (2 * math.pi) / 9).clamp(max=math.pi / 2).square())
    images = centred_ifft(centred_fft(NoiseSpectrum.white(n, variance).sample(count, generator)) * factor).real
    x = torch.arange(n) - n // 2
    halo = 0.1 * torch.exp(-(x[:, None] ** 2 + x**2) / (2 * (n / 3) ** 2))
    estimated = estimate_noise([images + halo])
    shell = 2 * math.pi / n * torch.arange(n // 2 + 1)
    power = (0.1 + 0.9 * torch.sin((shell * n / (2 * math.pi) / 9).clamp(max=math.pi / 2).square())).square()
    found = estimated.before_filter(power).shells
    assert float(estimated.shells[0] / power[0]) > 2 * variance  # the halo outweighs the noise
    assert float((found / variance - 1).abs().max()) < 0.1


def test_chunks_do_not_matter():
    images = NoiseSpectrum.coloured(33).sample(50, torch.Generator().manual_seed(1), torch.float64)
    whole, parts = estimate_noise([images]), estimate_noise(images.split(7))
    assert torch.allclose(whole.shells, parts.shells, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [32, 33])
def test_whitening_makes_noise_white(n, dtype):
    count, spectrum = 400, NoiseSpectrum.coloured(n)
    white = whitened(spectrum.sample(count, torch.Generator().manual_seed(2), dtype), spectrum)
    assert white.dtype == dtype
    power = centred_fft(white.double()).abs().square().mean(0).reshape(-1)
    shell = (radial_frequencies(n) * n / (2 * math.pi)).round().long().reshape(-1)
    counts = shell_counts(n)
    inside = shell <= n // 2
    means = torch.zeros(n // 2 + 1, dtype=torch.float64).index_add_(0, shell[inside], power[inside]) / counts
    # |complex normal|² has variance 1, twice that where a coefficient is its own conjugate: bounded by 2 throughout.
    assert bool(((means - 1).abs() < 5 * (2 / (counts * count)).sqrt()).all())


def test_white_spectrum_only_scales():
    one, four = (NoiseSpectrum.white(8, v).sample(3, torch.Generator().manual_seed(0)) for v in (1.0, 4.0))
    assert torch.allclose(four, 2 * one)
    assert torch.allclose(whitened(four, NoiseSpectrum.white(8, 4.0)), one, atol=1e-6)


def test_interpolation_and_scaling():
    spectrum = NoiseSpectrum.coloured(20)
    nodes = 2 * math.pi * torch.arange(11, dtype=torch.float64) / 20
    assert torch.allclose(spectrum.at(nodes), spectrum.shells)
    assert torch.allclose(spectrum.at((nodes[3] + nodes[4]) / 2), (spectrum.shells[3] + spectrum.shells[4]) / 2)
    assert float(spectrum.at(torch.tensor(4.5))) == pytest.approx(float(spectrum.shells[-1]))
    assert spectrum.scaled(3.0).pixel_variance == pytest.approx(3.0)


def test_bad_stacks():
    with pytest.raises(InputError, match="empty stack"):
        estimate_noise([])
    with pytest.raises(InputError, match="not finite"):
        estimate_noise([torch.full((1, 8, 8), math.nan)])
    with pytest.raises(InputError, match="constant"):
        estimate_noise([torch.zeros(2, 8, 8)])

"""Mixture families: normalisation, the law's moments, wrapping, and reproducibility."""

import math

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.mra.families import MixtureLaw, default_law, harder_law


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [41, 32])
@pytest.mark.parametrize("law", [default_law(1), default_law(3), harder_law(2)])
def test_normalisation(law, n, dtype):
    signals, densities = law.pairs(50, n, generator(), dtype)
    assert signals.dtype == densities.dtype == dtype
    torch.testing.assert_close(densities.sum(1), torch.ones(50, dtype=dtype))
    torch.testing.assert_close(signals.square().mean(1), torch.ones(50, dtype=dtype))
    assert (densities >= 0).all()


def test_transform_of_one_gaussian_is_gaussian():
    """|ρ̂(q)| of a wrapped Gaussian is exp(−2π²w²q²) whatever its mean (Poisson summation)."""
    width = 0.08
    density = MixtureLaw(1, widths=(width, width)).densities(20, 41, generator())
    q = torch.arange(21)
    expected = torch.exp(-2 * math.pi**2 * width**2 * q.double().square())
    torch.testing.assert_close(torch.fft.rfft(density).abs(), expected.expand(20, -1), atol=1e-12, rtol=0)


def test_means_are_uniform_on_the_circle():
    """The first circular moment of uniform means vanishes: within 5 standard errors over 4000 draws."""
    first = torch.fft.rfft(default_law(1).densities(4000, 41, generator(1)))[:, 1]
    assert first.mean().abs() < 5 * first.abs().square().mean().sqrt() / math.sqrt(4000)


def test_weights_and_widths_follow_the_law():
    """For distinct means Σ_q |ρ̂(q)|² of K narrow Gaussians is that of the weights; here its mean over the law.

    With weights w_i = u_i/Σu and far narrower Gaussians than the circle, E|ρ̂(1)|² = E Σ w_i² exp(−4π²s_i²), since
    cross terms vanish for uniform means. The right side is computed by drawing u and s independently of the library.
    """
    law = MixtureLaw(3, widths=(0.01, 0.05), weight_spread=0.9)
    draws = torch.fft.rfft(law.densities(20000, 64, generator(2)))[:, 1].abs().square()
    u = 0.1 + 1.8 * torch.rand(200000, 3, dtype=torch.float64, generator=generator(3))
    s = 0.01 + 0.04 * torch.rand(200000, 3, dtype=torch.float64, generator=generator(4))
    expected = ((u / u.sum(1, keepdim=True)).square() * torch.exp(-4 * math.pi**2 * s.square())).sum(1).mean()
    assert abs(draws.mean() - expected) < 5 * draws.std() / math.sqrt(len(draws))


def test_the_seed_decides():
    law = default_law(2)
    torch.testing.assert_close(law.signals(4, 41, generator(5)), law.signals(4, 41, generator(5)), rtol=0, atol=0)
    assert not torch.equal(law.signals(4, 41, generator(5)), law.signals(4, 41, generator(6)))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"components": 0}, "at least one"),
        ({"components": 1, "widths": (0.0, 0.1)}, "widths"),
        ({"components": 1, "widths": (0.1, 0.05)}, "widths"),
        ({"components": 1, "weight_spread": 1.0}, "spread"),
    ],
)
def test_bad_laws(arguments, names):
    with pytest.raises(InputError, match=names):
        MixtureLaw(**arguments)

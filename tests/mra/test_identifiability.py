import pytest
import torch

from orbitrec.mra.identifiability import (
    density_period,
    density_power,
    present_frequencies,
    signal_checks,
    two_moment_checks,
)
from orbitrec.mra.model import PeriodicMRA, WindowedMRA, draw_observations
from orbitrec.mra.problem import MRAProblem

N = 12


def signal(seed: int = 1) -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def periodic_density(period: int) -> torch.Tensor:
    density = torch.rand(period, generator=torch.Generator().manual_seed(2), dtype=torch.float64).repeat(N // period)
    return density / density.sum()


def noisy(v: torch.Tensor, density: torch.Tensor, sigma: float = 0.5, count: int = 20_000) -> MRAProblem:
    batches = draw_observations(PeriodicMRA(N), v, density, sigma, count, torch.Generator().manual_seed(3))
    return MRAProblem.of(PeriodicMRA(N), torch.cat(list(batches)), sigma)


def without(v: torch.Tensor, frequency: int) -> torch.Tensor:
    transform = torch.fft.rfft(v)
    transform[frequency] = 0
    return torch.fft.irfft(transform, n=N)


@pytest.mark.parametrize("period", [1, 2, 3, 4, 6, 12])
def test_the_period_of_the_shifts_is_read_off_the_moments(period):
    density = periodic_density(period)
    assert density_period(MRAProblem.exact(PeriodicMRA(N), signal(), density)) == period
    assert density_period(noisy(signal(), density)) == period


def test_the_densitys_power_needs_no_phases_of_the_signal():
    density = periodic_density(12)
    power, _ = density_power(MRAProblem.exact(PeriodicMRA(N), signal(), density))
    torch.testing.assert_close(power, torch.fft.rfft(density)[1:].abs().square())


@pytest.mark.parametrize(("period", "words"), [(1, "look uniform"), (4, "period of 4 of 12 samples")])
def test_shifts_that_two_moments_cannot_do_with_are_warned_of(period, words):
    checks = two_moment_checks(noisy(signal(), periodic_density(period)))
    assert len(checks) == 1
    assert words in checks[0]
    assert "bispectrum or em" in checks[0]


def test_a_vanishing_frequency_is_warned_of_and_named():
    for problem in (
        MRAProblem.exact(PeriodicMRA(N), without(signal(), 3), periodic_density(12)),
        noisy(without(signal(), 3), periodic_density(12)),
    ):
        assert (~present_frequencies(problem)).nonzero().flatten().tolist() == [N // 2 - 3, N // 2 + 3]
        (check,) = two_moment_checks(problem)
        assert "frequency 3 of 1 to 6" in check
        assert signal_checks(problem) == (check,)


def test_noise_alone_is_said_to_be_that_and_nothing_of_its_shifts():
    problem = noisy(0.01 * signal(), periodic_density(12), count=1_000)
    (check,) = two_moment_checks(problem)
    assert "no frequency of the signal stands out" in check


def test_nothing_is_said_of_good_problems_smooth_signals_and_windows():
    x = 2 * torch.pi * torch.arange(N).double() / N
    density = periodic_density(12)
    assert two_moment_checks(noisy(signal(), density)) == ()
    assert two_moment_checks(noisy(1 + x.cos() + (2 * x).sin(), density)) == ()
    assert two_moment_checks(MRAProblem.exact(WindowedMRA(N, 8), signal(), density)) == ()

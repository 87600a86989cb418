"""The classical recoveries against theorems: exact from exact moments, invariant to shifts, consistent in N."""

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.moments.losses import orbit_error
from orbitrec.mra.bispectrum import mean_bispectrum, recover_bispectrum
from orbitrec.mra.density import fitted_density
from orbitrec.mra.least_squares import matched, recover_least_squares
from orbitrec.mra.model import PeriodicMRA, WindowedMRA, draw_observations
from orbitrec.mra.problem import MRAProblem
from orbitrec.mra.spectral import recover_spectral


def truth(n: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    density = torch.rand(n, generator=generator, dtype=torch.float64)
    return torch.randn(n, generator=generator, dtype=torch.float64), density / density.sum()


def drawn(model, signal, density, sigma: float, count: int) -> MRAProblem:
    batches = draw_observations(model, signal, density, sigma, count, torch.Generator().manual_seed(2))
    return MRAProblem.of(model, torch.cat(list(batches)), sigma)


@pytest.mark.parametrize("n", [7, 8, 20])
def test_spectral_recovery_is_exact_from_exact_moments(n):
    signal, density = truth(n)
    found = recover_spectral(MRAProblem.exact(PeriodicMRA(n), signal, density))
    assert orbit_error(found.signal, signal) < 1e-10
    assert orbit_error(found.density, density) < 1e-10
    assert found.checks == ()


def test_signal_and_density_move_together():
    """Joint shifts leave the moments as they are, so the estimate is the truth moved by one s, forth and back."""
    n = 8
    signal, density = truth(n)
    found = recover_spectral(MRAProblem.exact(PeriodicMRA(n), signal, density))
    s = min(range(n), key=lambda s: float((torch.roll(signal, s) - found.signal).norm()))
    torch.testing.assert_close(found.signal, torch.roll(signal, s))
    torch.testing.assert_close(found.density, torch.roll(density, -s))


@pytest.mark.parametrize("model", [PeriodicMRA(5), PeriodicMRA(6)])
def test_least_squares_recovers_from_exact_moments(model):
    signal, density = truth(model.n)
    found = recover_least_squares(MRAProblem.exact(model, signal, density), torch.Generator().manual_seed(3), starts=3)
    assert orbit_error(found.signal, signal) < 1e-4
    assert orbit_error(found.density, density) < 1e-4


def test_least_squares_matches_moments_of_windows():
    model = WindowedMRA(6, 5)
    signal, density = truth(6)
    problem = MRAProblem.exact(model, signal, density)
    start = signal + 0.3 * torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, found = matched(problem, start, torch.full_like(density, 1 / 6), iterations=60)
    assert orbit_error(found, signal) < 0.02 < 0.15 < orbit_error(start, signal)


@pytest.mark.parametrize("model", [PeriodicMRA(8), PeriodicMRA(9), WindowedMRA(9, 6)])
def test_the_density_of_a_known_signal_is_exact_from_exact_moments(model):
    signal, density = truth(model.n)
    density[2] = 0
    density /= density.sum()
    problem = MRAProblem.exact(model, signal, density)
    torch.testing.assert_close(fitted_density(problem, signal), density, atol=1e-9, rtol=0)


def test_the_density_of_a_smooth_signal_keeps_no_noise_of_frequencies_that_it_does_not_show():
    n = 21
    x = 2 * torch.pi * torch.arange(n).double() / n
    signal, density = 1 + 2 * x.cos() + (2 * x).sin(), (1 + (x - 1).cos()) / n
    problem = drawn(PeriodicMRA(n), signal, density, 1.0, 50_000)
    assert (fitted_density(problem, signal) - density).norm() / density.norm() < 0.05


@pytest.mark.parametrize("recover", [recover_spectral, recover_least_squares, recover_bispectrum])
def test_errors_fall_with_the_square_root_of_the_observations(recover):
    """100 times the observations: a tenth of the error, here at most a fifth for the luck of one draw."""
    signal, density = truth(9)
    errors = []
    for count in (2_000, 200_000):
        problem = drawn(PeriodicMRA(9), signal, density, 0.5, count)
        more = () if recover is recover_spectral else (torch.Generator().manual_seed(4), 3)
        errors.append(float(orbit_error(recover(problem, *more).signal, signal)))
    assert errors[1] < errors[0] / 5
    assert errors[1] < 0.02


@pytest.mark.parametrize("n", [8, 9])
def test_the_bispectrum_does_not_see_shifts(n):
    signal, _ = truth(n)
    still = mean_bispectrum(signal[None])
    moved = mean_bispectrum(torch.stack([torch.roll(signal, s) for s in range(n)]))
    torch.testing.assert_close(still, moved)
    transform = torch.fft.fft(signal, norm="ortho")
    assert still[2, n - 1] == pytest.approx(complex(transform[2] * transform[n - 1] * transform[1].conj()))


@pytest.mark.parametrize("n", [7, 8, 15, 20])
def test_bispectrum_inversion_of_uniform_shifts_without_noise(n):
    signal, _ = truth(n)
    uniform = torch.full((n,), 1 / n, dtype=torch.float64)
    found = recover_bispectrum(drawn(PeriodicMRA(n), signal, uniform, 0.0, 100), torch.Generator().manual_seed(5))
    assert orbit_error(found.signal, signal) < 1e-6
    assert found.checks == ()


def test_a_constant_signal_is_inverted_from_its_bispectrum():
    constant, uniform = torch.full((6,), 2.0).double(), torch.full((6,), 1 / 6).double()
    found = recover_bispectrum(drawn(PeriodicMRA(6), constant, uniform, 0.0, 10), torch.Generator().manual_seed(5))
    torch.testing.assert_close(found.signal, constant)


def test_noise_does_not_bias_the_bispectrum_of_non_zero_frequencies():
    signal, density = truth(7)
    problem = drawn(PeriodicMRA(7), signal, density, 1.0, 40_000)
    assert problem.observations is not None
    parts = torch.stack([mean_bispectrum(part) for part in problem.observations.split(400)])
    away = torch.view_as_real(parts.mean(0) - mean_bispectrum(signal[None]))
    error = torch.view_as_real(parts).std(0) / 10
    free = [(a, b) for a in range(1, 4) for b in range(1, 7) if (a + b) % 7]
    assert all((away[a, b].abs() < 5 * error[a, b]).all() for a, b in free)
    assert (away[1, 6].abs() > 5 * error[1, 6]).any()  # B[1, −1] holds σ² v̂_0 more


def test_methods_that_need_whole_periods_or_observations_say_so():
    signal, density = truth(9)
    windows = MRAProblem.exact(WindowedMRA(9, 7), signal, density)
    with pytest.raises(InputError, match="spectral method needs whole periods"):
        recover_spectral(windows)
    with pytest.raises(InputError, match="bispectrum method needs whole periods"):
        recover_bispectrum(windows, torch.Generator())
    with pytest.raises(InputError, match="needs the observations"):
        recover_bispectrum(MRAProblem.exact(PeriodicMRA(9), signal, density), torch.Generator())

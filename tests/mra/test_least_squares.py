"""A match of moments that does not explain them is no answer, and says so."""

import pytest
import torch

from orbitrec.moments.losses import orbit_error
from orbitrec.mra import least_squares
from orbitrec.mra.density import fitted_density
from orbitrec.mra.least_squares import recover_least_squares
from orbitrec.mra.model import PeriodicMRA, draw_observations
from orbitrec.mra.problem import MRAProblem
from orbitrec.mra.starts import starting_signals

MODEL, COUNT = PeriodicMRA(15), 20_000


def positive(seed: int) -> tuple[MRAProblem, torch.Tensor]:
    """A positive signal, whose mean is most of its power, in noise of σ = 1."""
    generator = torch.Generator().manual_seed(seed)
    signal = torch.rand(15, generator=generator, dtype=torch.float64).square()
    density = torch.randn(15, generator=generator, dtype=torch.float64).softmax(0)
    batches = draw_observations(MODEL, signal, density, 1.0, COUNT, generator)
    return MRAProblem.of(MODEL, torch.cat(list(batches)), 1.0), signal


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_random_starts_have_the_sign_of_the_mean(sign):
    _, signal = positive(1)
    density = torch.arange(1.0, 16.0, dtype=torch.float64) / 120
    problem = MRAProblem.exact(MODEL, sign * signal, density)
    _, *starts = starting_signals(problem, torch.Generator().manual_seed(3), 9)
    assert all(sign * float(start.sum()) >= 0 for start in starts)


def test_a_signal_that_explains_nothing_has_a_uniform_density():
    problem, signal = positive(1)
    density = fitted_density(problem, -0.05 * signal)  # no mixture of its shifts has a positive mean
    assert torch.equal(density, torch.full_like(density, 1 / 15))


def test_what_does_not_explain_the_moments_says_so(monkeypatch):
    problem, signal = positive(2)
    good = recover_least_squares(problem, torch.Generator().manual_seed(1))
    assert not any("differ from the observed" in check for check in good.checks)
    assert orbit_error(good.signal, signal) < 0.2
    monkeypatch.setattr(least_squares, "matched", lambda problem, signal, density: (0.0, -signal))
    bad = recover_least_squares(problem, torch.Generator().manual_seed(1))
    assert any("differ from the observed ones" in check for check in bad.checks)
    assert bool(bad.density.isfinite().all())

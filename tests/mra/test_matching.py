"""The reconstruction phase: joint shifts (2.14), and the descent of (2.15) over θ and over signal and density."""

import math

import pytest
import torch

from orbitrec.moments.losses import moment_loss, orbit_error
from orbitrec.mra.families import default_law
from orbitrec.mra.matching import by_encoder, directly, jointly_shifted, match
from orbitrec.mra.model import PeriodicMRA, shifted
from orbitrec.mra.problem import model_moments
from orbitrec.mra.sampling import EXACT, NoiseLaw, SignalProblems
from orbitrec.networks.encoders import StructuredEncoder
from orbitrec.thesis.encoders import ThesisEncoder


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problems(n: int, size: int = 3, noise: NoiseLaw = EXACT, dtype: torch.dtype = torch.float64) -> SignalProblems:
    return SignalProblems.draw(default_law(2), n, noise, size, seeded(1), dtype)


@pytest.mark.parametrize("n", [16, 17])
def test_the_joint_shift_is_found(n):
    truth = problems(n, 5)
    by = torch.tensor([0, 1, 7, 8, n - 1])
    found = jointly_shifted(truth.moments, truth.density, shifted(truth.signal, by))
    assert torch.equal((found + by) % n, torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize(("n", "dtype"), [(12, torch.float64), (13, torch.float32)])
def test_exact_moments_lead_from_nearby_to_the_truth(n, dtype):
    truth = problems(n, dtype=dtype)
    noise = torch.randn(truth.signal.shape, generator=seeded(2), dtype=dtype)
    begin = directly(0.9 * truth.density + 0.1 / n, truth.signal + 0.1 * noise)
    density, signal = match(begin, truth.moments, 500)
    assert float(orbit_error(begin.start()[1], truth.signal).min()) > 0.05
    assert float(orbit_error(signal, truth.signal).max()) < 5e-3
    assert float((density.sum(1) - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", [StructuredEncoder, ThesisEncoder])
def test_problems_matched_together_are_as_matched_alone(kind):
    together = problems(13, noise=NoiseLaw((0.5, 0.5), (1e4, 1e4), 0.0), dtype=torch.float32)
    torch.manual_seed(3)
    encoder = kind(13)
    _, signal = match(by_encoder(encoder, together), together.moments, 5)
    for i in range(len(together.signal)):
        alone = together.select(torch.tensor([i]))
        _, own = match(by_encoder(encoder, alone), alone.moments, 5)
        assert float((own[0] - signal[i]).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", [StructuredEncoder, ThesisEncoder])
def test_parameters_of_an_encoder_are_matched(kind):
    problem = problems(13, noise=NoiseLaw((0.5, 0.5), (1e5, 1e5), 0.0), dtype=torch.float32)
    torch.manual_seed(4)
    encoder = kind(13)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    begin = by_encoder(encoder, problem, rate=1e-3)
    density, signal = encoder(problem.moments, problem.sigma, problem.count)
    with torch.no_grad():
        shift = jointly_shifted(problem.moments, density, signal)
        assert torch.allclose(begin.start()[1], shifted(signal, shift), atol=1e-5)
    history = []

    def callback(iteration, seconds, pair):
        model = model_moments(PeriodicMRA(13), pair[1], pair[0])
        history.append((iteration, seconds, float(moment_loss(problem.moments, model).detach().sum())))

    match(begin, problem.moments, 150, callback)
    iterations, seconds, losses = zip(*history, strict=True)
    assert iterations == tuple(range(151))
    assert list(seconds) == sorted(seconds)
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())  # copies were varied


def test_a_rate_that_falls_to_zero_ends_at_rest():
    problem = problems(13)
    steps = []
    begin = directly(problem.density, problem.signal + 0.1)
    match(begin, problem.moments, 40, lambda i, s, pair: steps.append(pair[1].clone()))
    first, last = (steps[1] - steps[0]).abs().max(), (steps[-1] - steps[-2]).abs().max()
    assert float(first) == pytest.approx(1e-2, rel=1e-3)  # Adam's first step is its rate
    assert float(last) < 1e-2 * math.pi / 40

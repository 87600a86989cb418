"""One function for every method: each recovers a signal, and each is the function that it names."""

import pytest
import torch

from orbitrec.moments.losses import orbit_error
from orbitrec.mra.em import recover_em
from orbitrec.mra.methods import Method, recover_signal
from orbitrec.mra.model import PeriodicMRA, draw_observations
from orbitrec.mra.problem import MRAProblem


def _problem() -> tuple[MRAProblem, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(9, generator=generator, dtype=torch.float64)
    density = torch.rand(9, generator=generator, dtype=torch.float64)
    observations = draw_observations(PeriodicMRA(9), signal, density / density.sum(), 0.3, 6_000, generator)
    return MRAProblem.of(PeriodicMRA(9), torch.cat(list(observations)), 0.3), signal


@pytest.mark.parametrize("method", Method)
def test_every_method_recovers_a_signal(method):
    problem, signal = _problem()
    found = recover_signal(problem, method, torch.Generator().manual_seed(2))
    assert float(orbit_error(found.signal, signal)) < 0.05
    assert float(found.density.sum()) == pytest.approx(1)


def test_a_method_is_its_function():
    problem, _ = _problem()
    by_method = Method.EM(problem, torch.Generator().manual_seed(3))
    by_function = recover_em(problem, torch.Generator().manual_seed(3))
    assert torch.equal(by_method.signal, by_function.signal)
    assert [method.label for method in Method] == [
        "moments", "encoder", "spectral", "least-squares", "bispectrum", "em"
    ]  # fmt: skip

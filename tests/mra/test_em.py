from itertools import pairwise

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.moments.losses import orbit_error
from orbitrec.mra.em import recover_em
from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.mra.model import PeriodicMRA, WindowedMRA, draw_observations
from orbitrec.mra.problem import MRAProblem
from orbitrec.optim.driver import run
from orbitrec.optim.solvers import em
from orbitrec.optim.termination import Termination

COUNT, SIGMA = 12_000, 0.5


def problem(model) -> tuple[MRAProblem, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(model.n, generator=generator, dtype=torch.float64)
    density = torch.rand(model.n, generator=generator, dtype=torch.float64).square()
    density /= density.sum()
    data = torch.cat(list(draw_observations(model, signal, density, SIGMA, COUNT, generator)))
    return MRAProblem.of(model, data, SIGMA), signal, density


@pytest.mark.parametrize("model", [PeriodicMRA(7), PeriodicMRA(8), WindowedMRA(8, 6)])
def test_em_is_near_the_error_of_an_oracle_that_knows_the_shifts(model):
    """Knowing the shifts, each of the n·(w/n) views of a sample averages noise: about σ √(n/w) √(n/N) / ‖v‖."""
    given, signal, density = problem(model)
    found = recover_em(given, torch.Generator().manual_seed(2), starts=3)
    oracle = SIGMA * model.n / (model.length * COUNT) ** 0.5 / float(signal.norm())
    assert orbit_error(found.signal, signal) < 4 * oracle
    assert orbit_error(found.density, density) < 0.05
    assert 20 < found.passes < 300


def test_no_iteration_lowers_the_likelihood():
    given, signal, _ = problem(WindowedMRA(8, 6))
    likelihood = MRALikelihood(given.model, given.given_observations(), SIGMA)
    w = likelihood.vector(torch.zeros(8).double() + signal.mean(), torch.arange(1, 9).double() / 36)
    values = [info.value for info in run(em(), likelihood, w, Termination(moved=0.0, epochs=15)).trace]
    assert len(values) == 15
    assert all(after <= before + 1e-12 for before, after in pairwise(values))
    assert values[-1] < values[0] - 0.01


def test_em_needs_observations_and_noise():
    given, signal, density = problem(PeriodicMRA(7))
    with pytest.raises(InputError, match="needs the observations"):
        recover_em(MRAProblem.exact(given.model, signal, density), torch.Generator())
    with pytest.raises(InputError, match="positive"):
        recover_em(MRAProblem.of(given.model, given.given_observations(), 0.0), torch.Generator())

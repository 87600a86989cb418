"""Densities of shifts from moments, also where the active-set method gives up."""

import pytest
import torch

from orbitrec.mra import density as module
from orbitrec.mra.density import fitted_density
from orbitrec.mra.families import default_law
from orbitrec.mra.model import PeriodicMRA
from orbitrec.mra.problem import MRAProblem


def gives_up(*_: object) -> None:
    raise RuntimeError("Maximum number of iterations reached.")


@pytest.mark.parametrize("n", [16, 17])
def test_the_density_is_found_by_either_method(n, monkeypatch):
    signal = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    density = default_law(2).densities(1, n, torch.Generator().manual_seed(2))[0]
    problem = MRAProblem.exact(PeriodicMRA(n), signal, density)
    assert torch.allclose(fitted_density(problem, signal), density, atol=1e-8)
    monkeypatch.setattr(module, "nnls", gives_up)
    assert torch.allclose(fitted_density(problem, signal), density, atol=1e-4)

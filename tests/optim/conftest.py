"""A small windowed MRA problem: a finite sum with an EM map and curvature."""

import pytest
import torch

from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.mra.model import WindowedMRA, draw_observations


def _small_problem(count: int, known: bool = False, seed: int = 0) -> MRALikelihood:
    generator = torch.Generator().manual_seed(seed)
    model = WindowedMRA(6, 4)
    signal = torch.randn(6, generator=generator, dtype=torch.float64)
    density = torch.tensor([0.3, 0.1, 0.2, 0.15, 0.15, 0.1], dtype=torch.float64)
    observations = torch.cat(list(draw_observations(model, signal, density, 0.4, count, generator)))
    return MRALikelihood(model, observations, 0.4, density if known else None)


def _starts(problem: MRALikelihood, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(99)
    return [torch.randn(problem.dimension, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.fixture(scope="session")
def problem() -> MRALikelihood:
    return _small_problem(400)


@pytest.fixture(scope="session")
def small_problem():
    """``small_problem(count, known, seed)``."""
    return _small_problem


@pytest.fixture(scope="session")
def starts():
    """``starts(problem, count)``: random parameters."""
    return _starts

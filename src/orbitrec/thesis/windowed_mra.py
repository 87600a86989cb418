"""The windowed MRA problem of section 4.5.1: 3,000 windows of 12 samples of a Gaussian pulse on 16, at σ = 0.2.

The thesis does not give the pulse's width nor the mixture of the shifts. Here the pulse is 0.1 wide on the unit
interval and the two Gaussians are at shifts 4.5 and 11, 1.7 wide, with weights 0.6 and 0.4. From one draw of the data
to another EM takes several hundred to several thousand passes; the thesis's 3,078 lies within.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.mra.model import WindowedMRA, draw_observations
from orbitrec.thesis.optimiser_table import Instance

MODEL = WindowedMRA(16, 12)
SIGMA, COUNT = 0.2, 3000


def pulse() -> Float[Tensor, "16"]:
    """The signal, of norm 1."""
    place = (torch.arange(MODEL.n, dtype=torch.float64) - MODEL.n // 2) / MODEL.n
    signal = (-0.5 * (place / 0.1) ** 2).exp()
    return signal / signal.norm()


def shift_density() -> Float[Tensor, "16"]:
    """The mixture of two Gaussians, on the shifts."""
    shift = torch.arange(MODEL.n, dtype=torch.float64)
    density = sum(
        weight * (-0.5 * ((shift - mean) / 1.7) ** 2).exp() for weight, mean in ((0.6, 4.5), (0.4, 11.0))
    ) + torch.zeros_like(shift)
    return density / density.sum()


def instance(seed: int, known: bool) -> Instance:
    """Data, a random start and batches of their own for every seed."""
    generator = torch.Generator().manual_seed(seed)
    problem = windowed_problem(generator, known)
    return Instance(problem, random_start(problem, generator), seed)


SETTINGS = {"density estimated": partial(instance, known=False), "density known": partial(instance, known=True)}
"""Instances of a seed, by the setting's name."""


def windowed_problem(generator: torch.Generator, known: bool, count: int = COUNT) -> MRALikelihood:
    """Fresh data.

    Args:
        generator: source of the data.
        known: whether the density is given.
        count: observations.

    Returns:
        The likelihood.
    """
    observations = torch.cat(list(draw_observations(MODEL, pulse(), shift_density(), SIGMA, count, generator)))
    return MRALikelihood(MODEL, observations, SIGMA, shift_density() if known else None)


def random_start(problem: MRALikelihood, generator: torch.Generator) -> Float[Tensor, "d"]:
    """Samples N(0, 1/n) for the signal; the density, where it is estimated, uniform."""
    n = problem.model.n
    signal = torch.randn(n, generator=generator, dtype=torch.float64) / n**0.5
    return problem.vector(signal, torch.full((n,), 1 / n, dtype=torch.float64))

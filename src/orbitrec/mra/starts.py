"""Signals to start iterations from."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.mra.model import PeriodicMRA
from orbitrec.mra.problem import MRAProblem
from orbitrec.mra.spectral import recover_spectral


def starting_signals(problem: MRAProblem, generator: torch.Generator, count: int) -> Iterator[Float[Tensor, "n"]]:
    """``count`` signals: that of the spectral method first, unless observations are windows, and then random ones.

    Random signals have the power spectrum of the data (its mean, for windows) and random phases.
    """
    n = problem.model.n
    power = problem.moments.second[0].diagonal().real.clamp(min=0)
    if isinstance(problem.model, PeriodicMRA):
        yield recover_spectral(problem).signal
        count -= 1
        amplitude = torch.fft.ifftshift(power)[: n // 2 + 1].sqrt()
    else:
        amplitude = power.mean().sqrt().expand(n // 2 + 1)
    for _ in range(count):
        phase = 2 * math.pi * torch.rand(n // 2 + 1, generator=generator, dtype=torch.float64)
        yield torch.fft.irfft(amplitude * torch.exp(1j * phase), n=n, norm="ortho")

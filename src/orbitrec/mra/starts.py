"""Signals from which iterative methods start."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.mra.model import PeriodicMRA
from orbitrec.mra.problem import MRAProblem
from orbitrec.mra.spectral import recover_spectral


def starting_signals(problem: MRAProblem, generator: torch.Generator, count: int) -> Iterator[Float[Tensor, "n"]]:
    """Several signals to start from: the spectral method's, if it applies, then random ones.

    Random signals have random phases and the power spectrum of the data, and the sign that gives them the mean of the
    data; for windows, where only the spectrum's mean is known, that mean at all frequencies and either sign.

    Args:
        problem: whose moments give the power spectrum.
        generator: source of the phases.
        count: how many signals.

    Yields:
        Signals of n samples.
    """
    n = problem.model.n
    power = problem.moments.second[0].diagonal().real.clamp(min=0)
    if isinstance(problem.model, PeriodicMRA):
        yield recover_spectral(problem).signal
        count -= 1
        amplitude = torch.fft.ifftshift(power)[: n // 2 + 1].sqrt()
    else:
        amplitude = power.mean().sqrt().expand(n // 2 + 1)
    mean = float(problem.moments.first[0, n // 2].real) if isinstance(problem.model, PeriodicMRA) else 0.0
    for _ in range(count):
        phase = 2 * math.pi * torch.rand(n // 2 + 1, generator=generator, dtype=torch.float64)
        signal = torch.fft.irfft(amplitude * torch.exp(1j * phase), n=n, norm="ortho")
        yield -signal if mean * float(signal.sum()) < 0 else signal

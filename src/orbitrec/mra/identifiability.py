"""Where theory says that a signal cannot be recovered, or not stably, as seen from the moments before any recovery.

Two moments determine a signal of non-vanishing transform, up to a shift, if the density of shifts is aperiodic (Abbe,
Bendory, Leeb, Pereira, Sharon and Singer 2018); the bispectrum does for any density, again if no frequency vanishes.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orbitrec.mra.model import PeriodicMRA
from orbitrec.mra.problem import MRAProblem

_SEEN = 5.0  # standard errors above which a statistic is taken to differ from zero
_USED = 2.0  # standard errors above which a frequency is worth the noise that it brings
_ROUNDING = 1e-10  # of the largest value: less is zero even without noise


def present_frequencies(problem: MRAProblem, errors: float = _USED) -> Bool[Tensor, "n"]:
    """Whether the power spectrum ``|v̂|²`` is above so many of its standard errors, at each centred frequency."""
    power = problem.moments.second[0].diagonal().real
    error = problem.observed_power / math.sqrt(problem.count)
    return (power > errors * error) & (power > _ROUNDING * power.max())


def density_power(problem: MRAProblem) -> tuple[Float[Tensor, "q"], Float[Tensor, "q"]]:
    """The power ``|ρ̂(q)|²`` of the density of shifts at q = 1 … n//2, and the standard error of each if it were zero.

    Since ``|M²[k, l]|² = |v̂(k)|² |v̂(l)|² |ρ̂(k − l)|²``, it is the sum of the left side over a diagonal divided by the
    sum of the products of powers; the signal's phases do not enter.
    """
    second, n = problem.moments.second[0], problem.model.n
    index = torch.arange(n)
    power = second.diagonal().real.clamp(min=0)
    found, error = [], []
    for q in range(1, n // 2 + 1):
        other = (index + q) % n
        noise = problem.observed_power[other] * problem.observed_power / problem.count
        total = (power[other] * power).sum()
        found.append((second[other, index].abs().square() - noise).sum() / total)
        error.append((2 * noise.square().sum()).sqrt() / total)  # each entry occurs twice, for v is real
    return torch.stack(found), torch.stack(error)


def density_period(problem: MRAProblem) -> int:
    """The period of the density of shifts in samples: n if it is aperiodic, 1 if it looks uniform."""
    power, error = density_power(problem)
    seen = torch.nonzero((power > _SEEN * error) & (power > _ROUNDING)).flatten() + 1
    return problem.model.n // math.gcd(problem.model.n, *seen.tolist())


def signal_checks(problem: MRAProblem) -> tuple[str, ...]:
    """Quality checks of the power spectrum: it is more than noise, and vanishes nowhere below its highest frequency.

    Returns:
        A sentence for each that fails.
    """
    if not isinstance(problem.model, PeriodicMRA):
        return ()
    n = problem.model.n
    order = torch.arange(n) - n // 2
    seen = present_frequencies(problem, _SEEN)
    if not seen.any():
        return ("no frequency of the signal stands out of the noise: more observations are needed",)
    highest = order[seen].abs().max()
    absent = order[(order > 0) & (order < highest) & ~present_frequencies(problem)].tolist()
    if not absent:
        return ()
    return (
        f"the signal's transform cannot be distinguished from zero at {_listed(absent)} of 1 to {n // 2}, "
        "with more beyond: its phase there is unknown, and what depends on it is unstable",
    )


def two_moment_checks(problem: MRAProblem) -> tuple[str, ...]:
    """Quality checks of a recovery by the first two moments: of the density of shifts, then of the signal.

    Returns:
        A sentence for each that fails.
    """
    if not isinstance(problem.model, PeriodicMRA):
        return ()
    period, n = density_period(problem), problem.model.n
    if period == n or not present_frequencies(problem, _SEEN).any():
        return signal_checks(problem)
    shape = "uniform" if period == 1 else f"periodic with a period of {period} of {n} samples"
    return (
        f"the shifts look {shape}, and then two moments do not determine the signal: try bispectrum or em",
        *signal_checks(problem),
    )


def _listed(frequencies: list[int]) -> str:
    return ("frequency " if len(frequencies) == 1 else "frequencies ") + ", ".join(map(str, frequencies))

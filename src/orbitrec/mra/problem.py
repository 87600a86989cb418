"""What a recovery of a signal is given and what it returns, the same for every method."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.moments.analytic import Moments, full_moments
from orbitrec.moments.estimator import SignalMomentAccumulator
from orbitrec.mra.model import MRA, PeriodicMRA

_BATCH = 1 << 16
_ROUNDING = 1e-12  # of the largest power: what exact moments may be wrong by


@dataclass(frozen=True, eq=False)
class MRAProblem:
    """Observations of one signal, and their moments.

    Attributes:
        model: periodic or windowed.
        observations: (N, w), float32 or float64, may be memory-mapped; None where only moments are known.
        sigma: standard deviation of the noise.
        moments: debiased, of the observations, or exact.
        count: N; infinite for exact moments.
    """

    model: MRA
    observations: Float[Tensor, "N w"] | None
    sigma: float
    moments: Moments
    count: int | float

    @classmethod
    def of(cls, model: MRA, observations: Float[Tensor, "N w"], sigma: float) -> "MRAProblem":
        """The problem of observations in memory."""
        sums = SignalMomentAccumulator.of(observations.split(_BATCH))
        return cls(model, observations, sigma, sums.estimate(sigma), len(observations))

    @classmethod
    def exact(cls, model: MRA, signal: Float[Tensor, "n"], density: Float[Tensor, "n"]) -> "MRAProblem":
        """The problem of infinitely many observations, by their moments."""
        return cls(model, None, 0.0, model_moments(model, signal, density), float("inf"))

    def given_observations(self) -> Float[Tensor, "N w"]:
        """The observations, for a method that cannot do without.

        Raises:
            InputError: if only moments are known.
        """
        if self.observations is None:
            raise InputError("this method needs the observations themselves, not only their moments")
        return self.observations

    def given_all_samples(self, method: str) -> PeriodicMRA:
        """The model, for a method that needs whole periods.

        Raises:
            InputError: if the observations are windows.
        """
        if not isinstance(self.model, PeriodicMRA):
            raise InputError(f"the {method} method needs whole periods; for windows use least squares or EM")
        return self.model

    @cached_property
    def observed_power(self) -> Float[Tensor, "w"]:
        """Mean power of observations with their noise at each frequency, ``E |F y|²``."""
        return self.moments.second[0].diagonal().real + self.sigma**2

    @cached_property
    def standard_errors(self) -> Float[Tensor, "w"]:
        """√N standard errors of M¹ at each frequency; products of two are those of M² off its diagonal."""
        power = self.observed_power
        return power.clamp(min=_ROUNDING * float(power.max())).sqrt()


@dataclass(frozen=True, eq=False)
class MRAEstimate:
    """A recovered signal, up to a shift that moves signal and density against each other.

    Attributes:
        signal: n samples.
        density: probabilities of the n shifts.
        passes: passes over the observations after the one for moments.
        seconds: time of the method, moments excluded.
        warnings: where theory says that the recovery is impossible or unstable, a sentence each.
    """

    signal: Float[Tensor, "n"]
    density: Float[Tensor, "n"]
    passes: float = 0.0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


def model_moments(model: MRA, signal: Float[Tensor, "*batch n"], density: Float[Tensor, "*batch n"]) -> Moments:
    """Moments (2.3) of signals seen at shifts of given densities, all coordinates in one block."""
    return full_moments(model.templates(signal), model.group_density(density), model.circle)

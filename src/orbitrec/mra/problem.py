"""What every method of recovering a signal is given, and what it returns."""

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
    """Observations of one signal at unknown shifts, and their first two moments.

    Attributes:
        model: how the signal is seen: periodic or through a window.
        observations: (N, w), float32 or float64, possibly memory-mapped; None where only moments are known.
        sigma: standard deviation of the noise.
        moments: of the observations without the noise's contribution (2.12), or exact.
        count: N; infinite for exact moments.
    """

    model: MRA
    observations: Float[Tensor, "N w"] | None
    sigma: float
    moments: Moments
    count: int | float

    @classmethod
    def of(cls, model: MRA, observations: Float[Tensor, "N w"], sigma: float) -> "MRAProblem":
        """The problem of given observations, whose moments are made here in one pass.

        Args:
            model: :class:`~orbitrec.mra.model.PeriodicMRA` or :class:`~orbitrec.mra.model.WindowedMRA`.
            observations: (N, w), each row a shifted noisy copy of the signal, or a window of one.
            sigma: standard deviation of the noise.

        Returns:
            The problem, for :func:`orbitrec.mra.methods.recover_signal`.
        """
        sums = SignalMomentAccumulator.of(observations.split(_BATCH))
        return cls(model, observations, sigma, sums.estimate(sigma), len(observations))

    @classmethod
    def exact(cls, model: MRA, signal: Float[Tensor, "n"], density: Float[Tensor, "n"]) -> "MRAProblem":
        """The problem of infinitely many observations: the moments (2.3) of a signal and a density of its shifts.

        Args:
            model: how the signal is seen.
            signal: (n,).
            density: probabilities of the n shifts.

        Returns:
            A problem without observations and without noise.
        """
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
        """Mean power of the observations, noise included, at each frequency: ``E |F y|²``."""
        return self.moments.second[0].diagonal().real + self.sigma**2

    @cached_property
    def standard_errors(self) -> Float[Tensor, "w"]:
        """√N times the standard error of M¹ at each frequency; products of two are those of M² off its diagonal."""
        power = self.observed_power
        return power.clamp(min=_ROUNDING * float(power.max())).sqrt()


@dataclass(frozen=True, eq=False)
class MRAEstimate:
    """A recovered signal and density, up to one shift that moves the signal forth and the density back.

    Attributes:
        signal: n samples.
        density: probabilities of the n shifts.
        passes: passes over the observations after the one for moments.
        seconds: time of the method, moments excluded.
        checks: a sentence for each reason that theory gives for the recovery to be impossible or unstable.
    """

    signal: Float[Tensor, "n"]
    density: Float[Tensor, "n"]
    passes: float = 0.0
    seconds: float = 0.0
    checks: tuple[str, ...] = ()


def model_moments(model: MRA, signal: Float[Tensor, "*batch n"], density: Float[Tensor, "*batch n"]) -> Moments:
    """The moments (2.3) of signals that are seen at random shifts, all coordinates in one block.

    Args:
        model: how the signals are seen.
        signal: (…, n).
        density: probabilities of the n shifts, (…, n).

    Returns:
        First and second moments of the observations' centred unitary transforms, without noise.
    """
    return full_moments(model.templates(signal), model.group_density(density), model.circle)

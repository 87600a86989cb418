"""Random problems of multireference alignment as an encoder meets them: signal, density and the moments of both."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft
from orbitrec.moments.analytic import Moments
from orbitrec.mra.families import MixtureLaw
from orbitrec.mra.model import all_shifts

_FEWEST = 100  # observations of a problem: a Poisson number of so many is never zero


@dataclass(frozen=True)
class NoiseLaw:
    """Law of noise level and number of observations: both log-uniform, some problems without noise.

    Attributes:
        sigma: least and greatest noise level σ, of signals of unit mean square.
        count: least and greatest number N of observations.
        exact: fraction of problems whose moments are exact.

    Raises:
        InputError: if a range does not rise from above zero (100 for the observations) or is infinite, or the fraction
            is not one.
    """

    sigma: tuple[float, float] = (0.1, 2.0)
    count: tuple[float, float] = (1e4, 1e6)
    exact: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.sigma[0] <= self.sigma[1] < math.inf:
            raise InputError(f"the noise levels {self.sigma} must be finite and rise from above zero")
        if not _FEWEST <= self.count[0] <= self.count[1] < math.inf:
            raise InputError(f"the numbers of observations {self.count} must be finite and rise from {_FEWEST} or more")
        if not 0 <= self.exact <= 1:
            raise InputError(f"a fraction {self.exact:g} of problems without noise must be between 0 and 1")

    def draw(
        self, size: int, generator: torch.Generator, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Noise levels and numbers of observations of random problems.

        Args:
            size: how many problems.
            generator: source of the random numbers.
            dtype: of the result.

        Returns:
            σ and N; 0 and ∞ where the moments are exact.
        """
        at = torch.rand(3, size, generator=generator, dtype=dtype, device=generator.device)
        sigma, count = (
            low * (high / low) ** u for (low, high), u in zip((self.sigma, self.count), at[:2], strict=True)
        )
        exact = at[2] < self.exact
        return sigma.masked_fill(exact, 0), count.masked_fill(exact, math.inf)


EXACT = NoiseLaw(exact=1.0)
"""No noise: the moments of the thesis's supervised phase."""


@dataclass(frozen=True, eq=False)
class SignalProblems:
    """A batch: what is to be found, and what is known of it.

    Attributes:
        signal: v.
        density: ρ, the probability of a shift by s samples at index s.
        moments: exact, or of N observations in noise.
        sigma: σ, 0 where the moments are exact.
        count: N, ∞ where the moments are exact.
    """

    signal: Float[Tensor, "b n"]
    density: Float[Tensor, "b n"]
    moments: Moments
    sigma: Float[Tensor, "b"]
    count: Float[Tensor, "b"]

    @classmethod
    def draw(
        cls, law: MixtureLaw, n: int, noise: NoiseLaw, size: int, generator: torch.Generator, dtype: torch.dtype
    ) -> "SignalProblems":
        """Independent problems.

        Args:
            law: of signals and densities.
            n: samples of a signal.
            noise: law of the noise.
            size: how many problems.
            generator: source of the random numbers.
            dtype: of all numbers.

        Returns:
            The batch.
        """
        signal, density = law.pairs(size, n, generator, dtype)
        sigma, count = noise.draw(size, generator, dtype)
        return cls(signal, density, sampled_moments(signal, density, sigma, count, generator), sigma, count)

    def exact(self) -> "SignalProblems":
        """The same signals and densities, with exact moments."""
        sigma, count = torch.zeros_like(self.sigma), torch.full_like(self.count, math.inf)
        moments = sampled_moments(self.signal, self.density, sigma, count, torch.Generator(self.signal.device))
        return SignalProblems(self.signal, self.density, moments, sigma, count)

    def select(self, index: Int[Tensor, "i"]) -> "SignalProblems":
        """Some of the problems."""
        m = self.moments
        return SignalProblems(
            self.signal[index],
            self.density[index],
            Moments(m.first[index], m.second[index], m.weights),
            self.sigma[index],
            self.count[index],
        )

    def to(self, device: torch.device) -> "SignalProblems":
        """A copy on another device."""
        m = self.moments
        return SignalProblems(
            self.signal.to(device),
            self.density.to(device),
            Moments(m.first.to(device), m.second.to(device), m.weights.to(device)),
            self.sigma.to(device),
            self.count.to(device),
        )


def sampled_moments(
    signal: Float[Tensor, "b n"],
    density: Float[Tensor, "b n"],
    sigma: Float[Tensor, "b"],
    count: Float[Tensor, "b"],
    generator: torch.Generator,
) -> Moments:
    """Debiased moments (2.12) of N observations, drawn without drawing the observations; exact ones where N = ∞.

    Observations fall on shifts in Poisson numbers c_s. Given those, with z_s the sum of the noise on the c_s copies,

        M̂¹ = Σ_s (c_s R_s v + z_s) / N,    M̂² = Σ_s (c_s R_s v (R_s v)ᵀ + R_s v z_sᵀ + z_s (R_s v)ᵀ) / N + σ² (W/N − I)

    in samples; W is Wishart of N degrees of freedom. It is drawn as Gaussian and independent of z, which is wrong by
    terms of the order 1/N.

    Args:
        signal: v of each problem.
        density: ρ of each problem.
        sigma: σ of each problem.
        count: N of each problem.
        generator: source of the random numbers.

    Returns:
        One block of n frequencies for each problem.
    """
    b, n = signal.shape
    options = {"dtype": signal.dtype, "device": signal.device}
    noisy = count.isfinite()
    views = all_shifts(signal)
    if not bool(noisy.any()):
        return _in_fourier((views.mT @ density[:, :, None]).squeeze(2), views.mT @ (density[:, :, None] * views))
    total = torch.where(noisy, count, 1)[:, None]
    hits = torch.poisson(density * total, generator=generator)
    share = torch.where(noisy[:, None], hits / hits.sum(1, keepdim=True), density)
    spread = torch.where(noisy[:, None], sigma[:, None] * share.sqrt() / total.sqrt(), 0)
    z = spread[:, :, None] * torch.randn(b, n, n, generator=generator, **options)
    first = (views.mT @ share[:, :, None]).squeeze(2) + z.sum(1)
    wishart = torch.randn(b, n, n, generator=generator, **options)
    wishart = torch.where(noisy, sigma.square() / (2 * total[:, 0]).sqrt(), 0)[:, None, None] * (wishart + wishart.mT)
    cross = views.mT @ (share[:, :, None] * views / 2 + z)
    return _in_fourier(first, cross + cross.mT + wishart)


def _in_fourier(first: Float[Tensor, "b n"], second: Float[Tensor, "b n n"]) -> Moments:
    """Moments of samples as moments of their centred unitary transform F: ``F m``, ``F M F*``."""
    n = first.shape[1]
    F = centred_fft(torch.eye(n, dtype=first.dtype, device=first.device), ndim=1)  # symmetric
    m, M = (x.to(F.dtype) for x in (first, second))
    return Moments((m @ F)[:, None], (F @ M @ F.conj())[:, None], first.new_ones(1))

"""The likelihood of periodic and windowed MRA as a finite sum, (4.18): what chapter 4's optimisers are compared on.

The unknowns are the signal's n samples and, unless the density of shifts is known, n logits with ρ = softmax. The
thesis writes the signal by its Fourier coefficients; for a real signal the two differ by an orthogonal map, under which
none of the methods changes.

The E-step for any orbit model, :func:`orbitrec.inference.likelihood.expectation`, gives the same (tested). This one is
kept because an epoch of a small problem is then two real matrix products and a softmax in the signal's own samples: on
3,000 windows of 12 samples of 16 it takes 0.8 ms of one core, the general one, which works with complex modes, 7.5 ms,
and chapter 4's tables are thousands of such epochs. It also has dense curvature.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.mra.model import MRA

_LEAST_PROBABILITY = 2.0**-52  # of a shift that no observation has: F does not see it, and log ρ stays finite


@dataclass(frozen=True, eq=False)
class MRALikelihood:
    """f_j(w) = −log Σ_s exp(log ρ[s] − ‖W R_s v − y_j‖² / 2σ²), w = (v, logits) or, with ρ known, w = v.

    A :class:`~orbitrec.optim.problem.FiniteSum` with an EM map and curvature.

    Attributes:
        model: periodic or windowed.
        observations: (N, w), float32 or float64; may be memory-mapped, for it is only read by chunks.
        sigma: standard deviation of the noise.
        known_density: probabilities of the shifts, all positive; None to estimate them.
        chunk: observations that are in memory at once.

    Raises:
        InputError: if σ is not positive, observations have another length than the model's, or the known density is not
            n positive probabilities.
    """

    model: MRA
    observations: Float[Tensor, "N w"]
    sigma: float
    known_density: Float[Tensor, "n"] | None = None
    chunk: int = 1 << 14

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise InputError(f"a noise level σ of {self.sigma:g} has no likelihood; give a positive one")
        if self.observations.shape[1] != self.model.length:
            raise InputError(
                f"observations have {self.observations.shape[1]} samples and the model {self.model.length}; "
                "give the length they were recorded with"
            )
        rho = self.known_density
        if rho is not None and (len(rho) != self.model.n or not bool((rho > 0).all()) or abs(rho.sum() - 1) > 1e-6):
            raise InputError(f"the known density must be {self.model.n} positive probabilities that sum to 1")

    @property
    def count(self) -> int:
        """Number of observations, N."""
        return len(self.observations)

    @property
    def dimension(self) -> int:
        """n, or 2n with the density unknown."""
        return self.model.n * (1 if self.known_density is not None else 2)

    @property
    def fisher_passes(self) -> float:
        """How many gradients take the time of :meth:`fisher`: 5.5 as measured (n = 16, window 12)."""
        return 6.0

    def parameters(self, w: Float[Tensor, "d"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """The signal and the log density that w stands for."""
        if self.known_density is not None:
            return w, self.known_density.to(w).log()
        return w[: self.model.n], w[self.model.n :].log_softmax(0)

    def vector(self, signal: Float[Tensor, "n"], density: Float[Tensor, "n"]) -> Float[Tensor, "d"]:
        """The vector w of a signal and, where it is unknown, a density."""
        return signal.double() if self.known_density is not None else torch.cat([signal, density.log()]).double()

    def gradient(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "d"]]:
        """Mean value and gradient of the terms in ``index``.

        The gradient is ``σ⁻² Σ_s R_s* (p_s W R_s v − Σ_j p_js y_j / N)`` in the signal, with p the posterior of the
        shifts and p_s its mean, and ρ − p_s in the logits.
        """
        signal, log_density = self.parameters(w)
        value, first, occupancy = self._e_step(w, index)
        by_signal = (self._gathered(occupancy) * signal - first) / self.sigma**2
        if self.known_density is not None:
            return value, by_signal
        return value, torch.cat([by_signal, log_density.exp() - occupancy])

    def expectation(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "s"]]:
        """E-step: the mean value; the mean of the observations shifted back (n) and of the shifts' posterior (n)."""
        value, first, occupancy = self._e_step(w, index)
        return value, torch.cat([first, occupancy])

    def maximisation(
        self,
        statistics: Float[Tensor, "s"],
        w: Float[Tensor, "d"],
        inertia: float = 0.0,
        terms: float | None = None,
    ) -> Float[Tensor, "d"]:
        """M-step (4.19): a weighted mean for every sample of the signal, log mean posterior for the logits.

        There is no prior, so that ``terms`` changes nothing.
        """
        signal, log_density = self.parameters(w)
        first, occupancy = statistics.split(self.model.n)
        weight, present = self._gathered(occupancy), inertia * self._gathered(log_density.exp())
        total = (weight + present).clamp(min=torch.finfo(w.dtype).tiny)
        unseen = weight + present <= 0
        updated = torch.where(unseen, signal, (first + present * signal) / total)
        if self.known_density is not None:
            return updated
        density = (occupancy + inertia * log_density.exp()).clamp(min=_LEAST_PROBABILITY)
        return torch.cat([updated, (density / density.sum()).log()])

    def information(self, w: Float[Tensor, "d"]) -> Float[Tensor, "d d"]:
        """The complete data's information: how often each sample is seen over σ², and ρ for the logits."""
        density = self.parameters(w)[1].exp()
        by_signal = self._gathered(density) / self.sigma**2
        if self.known_density is not None:
            return by_signal.diag()
        return torch.cat([by_signal, density.clamp(min=_LEAST_PROBABILITY)]).diag()

    def hessian(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """Mean Hessian, by automatic differentiation of :meth:`value` forward over reverse, about d gradients' work."""
        of_part = torch.func.hessian(lambda w, y: self.value(w, y).sum())
        return self._mean(index, lambda y: of_part(w, y))

    def fisher(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """Mean outer product of the terms' gradients."""

        def of_part(y: Float[Tensor, "b w"]) -> Float[Tensor, "d d"]:
            gradients = self._term_gradients(w, y)
            return gradients.T @ gradients

        return self._mean(index, of_part)

    def value(self, w: Float[Tensor, "d"], y: Float[Tensor, "b w"]) -> Float[Tensor, "b"]:
        """f_j(w) of given observations, differentiable in w."""
        return -self._scores(w, y).logsumexp(1)

    def _scores(self, w: Float[Tensor, "d"], y: Float[Tensor, "b w"]) -> Float[Tensor, "b n"]:
        signal, log_density = self.parameters(w)
        views = self.model.views(signal)
        energy = views.square().sum(1) + y.square().sum(1, keepdim=True)
        return log_density + (y @ views.T - 0.5 * energy) / self.sigma**2

    def _e_step(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None
    ) -> tuple[float, Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Means over terms of the value, of ``Σ_s R_s* (p_s y)``, and of the posterior p."""
        n, count = self.model.n, self.count if index is None else len(index)
        value, first, occupancy = w.new_zeros(()), w.new_zeros(n, self.model.length), w.new_zeros(n)
        for y in self._parts(index, self.chunk):
            score = self._scores(w, y)
            log_likelihood = score.logsumexp(1, keepdim=True)
            p = score.sub_(log_likelihood).exp_()
            value -= log_likelihood.sum()
            first += p.T @ y
            occupancy += p.sum(0)
        shifted_back = w.new_zeros(n).index_add_(0, self._sample.flatten(), first.flatten())
        return float(value) / count, shifted_back / count, occupancy / count

    def _term_gradients(self, w: Float[Tensor, "d"], y: Float[Tensor, "b w"]) -> Float[Tensor, "b d"]:
        signal, log_density = self.parameters(w)
        p = self._scores(w, y).softmax(1)
        first = torch.einsum("bqi,bi->bq", p[:, self._shift], y)
        weight = p @ (self._sample[:, :, None] == torch.arange(self.model.n)).sum(1).to(p)
        by_signal = (weight * signal - first) / self.sigma**2
        if self.known_density is not None:
            return by_signal
        return torch.cat([by_signal, log_density.exp() - p], dim=1)

    def _mean(
        self, index: Int[Tensor, "b"] | None, of_part: Callable[[Float[Tensor, "b w"]], Float[Tensor, "d d"]]
    ) -> Float[Tensor, "d d"]:
        total = torch.zeros(self.dimension, self.dimension, dtype=torch.float64)
        for y in self._parts(index, max(1, self.chunk // self.dimension)):
            total += of_part(y)
        return total / (self.count if index is None else len(index))

    def _parts(self, index: Int[Tensor, "b"] | None, size: int) -> Iterator[Float[Tensor, "b w"]]:
        for start in range(0, self.count if index is None else len(index), size):
            part = slice(start, start + size)
            yield self.observations[part if index is None else index[part]].double()

    def _gathered(self, by_shift: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """For each sample of the signal, the sum over the shifts that bring it into the window."""
        spread = by_shift[:, None].expand_as(self._sample).flatten()
        return torch.zeros_like(by_shift).index_add_(0, self._sample.flatten(), spread)

    @cached_property
    def _sample(self) -> Int[Tensor, "n w"]:
        """Which sample of the signal place i of the view at shift s shows."""
        return self.model.views(torch.arange(self.model.n, dtype=torch.float64)).long()

    @cached_property
    def _shift(self) -> Int[Tensor, "n w"]:
        """The shift that brings sample q to place i."""
        return self._sample.argsort(0)

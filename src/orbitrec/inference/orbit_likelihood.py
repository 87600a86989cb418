"""The marginal likelihood of cryo-EM as a finite sum over images, in spherical-Bessel coefficients (4.25).

Templates are linear in the coefficients, ``T = C w``, so the complete-data likelihood is quadratic and everything
follows from the E-step's statistics (:class:`orbitrec.inference.likelihood.Statistics`): the gradient is
``C*(second · C w − first)`` and the M-step solves ``C* second C w = C* first``. Projector and circle say on which grid:
polar, or Cartesian as printed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.inference.likelihood import Observations, Statistics, expectation, summed_statistics
from orbitrec.inference.template_bank import TemplateBank
from orbitrec.models.base import Circle, Projector
from orbitrec.optim.conjugate_gradients import solve_symmetric
from orbitrec.runtime.distributed import FEWEST, shards

DENSE = 200
"""Largest basis whose M-step is solved by a dense matrix; conjugate gradients beyond."""


@dataclass(frozen=True, eq=False)
class CryoEMLikelihood:
    """Mean negative log-posterior of a volume given images whose density of rotations is known.

    ``F(w) = (1/N) (Σ_j −log p(y_j | w) + ½ Σ_i precision_i w_i²)``, leaving out what does not depend on w. It is an
    :class:`orbitrec.optim.problem.ExpectationMaximisation`.

    Args:
        projector: templates of a volume.
        circle: their modes and angles.
        log_density: (d, a) log probability of every direction and angle; sums to one.
        observe: the observations of given indices (on whatever computes them, in noise variances of one).
        count: how many there are.
        ctf2_over_noise: (k,) mean of h² over all observations.
        precision: (p,) of a Gaussian prior of the coefficients, zero for maximum likelihood.
        batch: images asked of ``observe`` at a time.
        candidates: (N, c) the directions each image is compared with, others having no mass; all of them if None.
    """

    projector: Projector
    circle: Circle
    log_density: Float[Tensor, "d a"]
    observe: Callable[[Int[Tensor, "b"]], Observations]
    count: int
    ctf2_over_noise: Float[Tensor, "k"]
    precision: Float[Tensor, "p"]
    batch: int = 1024
    candidates: Int[Tensor, "N c"] | None = None

    @property
    def dimension(self) -> int:
        """Number of coefficients."""
        return len(self.projector.basis)

    def statistics(self, w: Float[Tensor, "p"], index: Int[Tensor, "b"] | None = None) -> Statistics:
        """The E-step's sums over the images ``index``; all of them if None."""
        rows = torch.arange(self.count) if index is None else index
        bank = self.bank(w)

        def part_of(own: Int[Tensor, "b"]) -> Statistics:
            listed = None if self.candidates is None else self.candidates[own]
            return expectation(self.observe(own), bank, candidates=listed)[0]

        def sums(shard: Int[Tensor, "b"]) -> Statistics:
            return reduce(Statistics.merge, map(part_of, shard.split(self.batch)))

        return summed_statistics(shards(rows, FEWEST), sums)

    def templates(self, w: Float[Tensor, "p"]) -> Complex[Tensor, "d m k"]:
        """``C w`` in the precision of the observations."""
        return self.projector.templates(w.to(self.log_density.dtype))

    def bank(self, w: Float[Tensor, "p"]) -> TemplateBank:
        """Templates and prior as the E-step wants them."""
        templates = self.templates(w)
        return TemplateBank(templates, self.log_density.to(templates.device), self.circle, self.projector.antipodal)

    def value(self, w: Float[Tensor, "p"], index: Int[Tensor, "b"] | None = None) -> float:
        """Mean value of the terms in ``index``."""
        found = self.statistics(w, index)
        return self._prior(w) - found.log_likelihood / found.count

    def gradient(
        self, w: Float[Tensor, "p"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "p"]]:
        """Mean value and gradient: that of the expected complete-data likelihood (Fisher's identity)."""
        found = self.statistics(w, index)
        residual = self.templates(w) * found.second[:, None] - found.first
        gradient = self.projector.adjoint(residual).double() / found.count + self.precision * w / self.count
        return self._prior(w) - found.log_likelihood / found.count, gradient

    def expectation(
        self, w: Float[Tensor, "p"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "s"]]:
        """Mean value; ``C* first`` and ``second``, flat, for each image."""
        found = self.statistics(w, index)
        right = self.projector.adjoint(found.first).double()
        mean = torch.cat([right, found.second.double().flatten().to(right.device)]) / found.count
        return self._prior(w) - found.log_likelihood / found.count, mean

    def maximisation(
        self, statistics: Float[Tensor, "s"], w: Float[Tensor, "p"], inertia: float = 0.0
    ) -> Float[Tensor, "p"]:
        """The M-step: the normal equations of posterior-weighted least squares."""
        right, weight = statistics[: self.dimension], statistics[self.dimension :].reshape(self._unseen.shape)
        if inertia:
            right = right + inertia * self._normal(w, self._unseen)
            weight = weight + inertia * self._unseen
        return self._solve(right, weight, w)

    def information(self, w: Float[Tensor, "p"]) -> Float[Tensor, "p p"]:
        """Mean information of images whose rotations are known; of large bases the diagonal, for uniform views."""
        prior = self.precision / self.count
        if self.dimension > DENSE:
            return torch.diag(self.projector.uniform_diagonal(self._unseen.sum(0)).double() + prior)
        return self.projector.gram(self._unseen.to(self.log_density.dtype)).double() + torch.diag(prior)

    def _solve(
        self, right: Float[Tensor, "p"], weight: Float[Tensor, "d k"], w: Float[Tensor, "p"]
    ) -> Float[Tensor, "p"]:
        prior = self.precision / self.count
        if self.dimension <= DENSE:
            gram = self.projector.gram(weight.to(self.log_density.dtype)).double()
            return torch.linalg.solve(gram + torch.diag(prior), right)
        diagonal = self.projector.uniform_diagonal(weight.sum(0)) + prior
        return solve_symmetric(
            lambda x: self._normal(x, weight) + prior * x, right,
            start=w, diagonal=diagonal.double(), iterations=30,
            relative_residual=torch.finfo(self.log_density.dtype).eps ** 0.5,
        )  # fmt: skip

    def _normal(self, w: Float[Tensor, "p"], weight: Float[Tensor, "d k"]) -> Float[Tensor, "p"]:
        kind = self.log_density.dtype
        return self.projector.normal(w.to(kind), weight.to(kind)).double()

    @cached_property
    def _unseen(self) -> Float[Tensor, "d k"]:
        """``second`` of one image of which nothing is known but the prior density."""
        return self.log_density.double().exp().sum(1)[:, None] * self.ctf2_over_noise.double()

    def _prior(self, w: Float[Tensor, "p"]) -> float:
        return float((self.precision * w.square()).sum()) / (2 * self.count)

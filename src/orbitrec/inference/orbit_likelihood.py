"""The marginal likelihood of any linear orbit model as a finite sum over observations (4.25).

Templates are linear in the object, ``T = C w``, so the complete-data likelihood is quadratic and everything follows
from the E-step's statistics (:class:`orbitrec.inference.likelihood.Statistics`): the gradient is
``C*(second · C w − first)`` and the M-step solves ``C* second C w = C* first``. Projector and circle decide which
problem this is: cryo-EM on the polar grid, or on the Cartesian one as in the thesis, planar images under rotation,
signals under shifts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.inference.group_density import GroupDensity
from orbitrec.inference.likelihood import Assignment, Observations, Statistics, Sums
from orbitrec.inference.template_bank import Fold, TemplateBank
from orbitrec.models.base import Circle, Projector, SeparableProjector
from orbitrec.optim.conjugate_gradients import solve_symmetric
from orbitrec.runtime.distributed import FEWEST, shards

Recorder = Callable[[Int[Tensor, "b"], Assignment], None]
"""A function that is called with the indices and the posteriors of every batch of an E-step."""


@runtime_checkable
class Prior(Protocol):
    """A Gaussian prior of the object's coefficients, under which they are independent."""

    def precision(self, w: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """Inverse variances (p,) for an M-step from the coefficients w, (p,)."""
        ...

    def energy(self, w: Float[Tensor, "p"]) -> float:
        """Minus the log density of the coefficients w, (p,), up to a constant."""
        ...


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """Inverse variances that are given; zeros make maximum likelihood."""

    inverse_variance: Float[Tensor, "p"]

    @classmethod
    def flat(cls, dimension: int) -> "GaussianPrior":
        """The prior without any effect: all inverse variances are zero."""
        return cls(torch.zeros(dimension, dtype=torch.float64))

    def precision(self, w: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """The given values."""
        return self.inverse_variance

    def energy(self, w: Float[Tensor, "p"]) -> float:
        """``½ Σ w² / variance``."""
        return float((self.inverse_variance * w.square()).sum()) / 2


@dataclass(frozen=True, eq=False)
class ObservationSet:
    """The observations of a likelihood, made batch by batch when an E-step needs them.

    Attributes:
        observe: makes the observations of given indices, in units where the noise variance is one, on any device.
        count: how many there are, N.
        ctf2_over_noise: (k,) mean of h² over all of them.
        batch: how many ``observe`` makes at a time.
        candidates: (N, c) the directions that each is compared with, others having no posterior mass; None for all.
        record: called with the indices and the posteriors of every batch of an E-step.
        counted: whether it is told how many samples of its posterior are significant.
    """

    observe: Callable[[Int[Tensor, "b"]], Observations]
    count: int
    ctf2_over_noise: Float[Tensor, "k"]
    batch: int = 1024
    candidates: Int[Tensor, "N c"] | None = None
    record: Recorder | None = None
    counted: bool = False

    def statistics(self, rows: Int[Tensor, "b"], bank: TemplateBank) -> Statistics:
        """The E-step's sums over the observations ``rows``; the processes share the work."""

        def add(sums: Sums, shard: Int[Tensor, "b"]) -> None:
            for own in shard.split(self.batch):
                listed = None if self.candidates is None else self.candidates[own]
                assigned = sums.add(self.observe(own), listed, counted=self.counted)
                if self.record is not None:
                    self.record(own, assigned)

        return Sums.of_parts(bank, shards(rows, FEWEST), add).statistics()


@dataclass(frozen=True)
class MStep:
    """How the normal equations of an M-step are solved.

    Attributes:
        dense: largest number of unknowns for which the matrix is made and factorised; conjugate gradients beyond.
        iterations: the most of conjugate gradients, from the present point; only a few make a generalised EM step.
        relative_residual: at which they end; the square root of the machine's precision if None.
    """

    dense: int = 200
    iterations: int = 30
    relative_residual: float | None = None


@dataclass(frozen=True, eq=False)
class OrbitLikelihood:
    """Mean negative log-posterior of an object, and of the density of its group where that is not known.

    ``F(w) = (1/N) (Σ_j −log p(y_j | w) + prior energy)``, leaving out what does not depend on w. The unknowns w are the
    object's coefficients, then those of the density. It is an
    :class:`orbitrec.optim.problem.CompleteInformation`.

    Attributes:
        projector: templates of an object, any linear map.
        circle: their modes and angles.
        density: of directions and angles.
        data: the observations.
        prior: of the object's coefficients.
        m_step: how an M-step is solved.
    """

    projector: Projector
    circle: Circle
    density: GroupDensity
    data: ObservationSet
    prior: Prior
    m_step: MStep = MStep()

    @property
    def count(self) -> int:
        """Number of observations, N."""
        return self.data.count

    @property
    def dimension(self) -> int:
        """Coefficients of the object and of the density."""
        return self.projector.dimension + self.density.dimension

    def split(self, w: Float[Tensor, "q"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "u"]]:
        """The object's coefficients and the density's."""
        return w[: self.projector.dimension], w[self.projector.dimension :]

    def statistics(self, w: Float[Tensor, "q"], index: Int[Tensor, "b"] | None = None) -> Statistics:
        """The E-step's sums over the observations ``index``; all of them if None."""
        return self.data.statistics(torch.arange(self.count) if index is None else index, self.bank(w))

    def templates(self, w: Float[Tensor, "q"]) -> Complex[Tensor, "d m k"]:
        """``C w`` in the precision of the density."""
        return self.projector.templates(self.split(w)[0].to(self.density.dtype))

    def bank(self, w: Float[Tensor, "q"]) -> TemplateBank:
        """Templates and density as the E-step wants them."""
        templates, log_density = self.templates(w), self.density.log(self.split(w)[1])
        return TemplateBank(templates, log_density.to(templates.device), self.circle, self._reached)

    @cached_property
    def _reached(self) -> Fold | None:
        reach = self.projector.reach
        return None if reach is None else Fold.of(self.circle, reach, self.density.dtype)

    def value(self, w: Float[Tensor, "q"], index: Int[Tensor, "b"] | None = None) -> float:
        """Mean value of the terms in ``index``."""
        return self._value(w, self.statistics(w, index))

    def gradient(
        self, w: Float[Tensor, "q"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "q"]]:
        """Mean value and gradient: that of the expected complete-data likelihood (Fisher's identity)."""
        found, (x, unknowns) = self.statistics(w, index), self.split(w)
        residual = self.templates(w) * found.second[:, None] - found.first
        of_object = self.projector.adjoint(residual).double() / found.count + self.prior.precision(x) * x / self.count
        of_density = self.density.gradient(unknowns, found.occupancy.double().cpu() / found.count)
        return self._value(w, found), torch.cat([of_object, of_density])

    def expectation(
        self, w: Float[Tensor, "q"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "s"]]:
        """Mean value; of an observation ``C* first``, ``second`` and, for an unknown density, its occupancy, flat."""
        found = self.statistics(w, index)
        right = self.projector.adjoint(found.first).double()
        parts = [right, found.second.double().flatten().to(right.device)]
        if self.density.dimension:
            parts.append(found.occupancy.double().flatten().to(right.device))
        return self._value(w, found), torch.cat(parts) / found.count

    def maximisation(
        self,
        statistics: Float[Tensor, "s"],
        w: Float[Tensor, "q"],
        inertia: float = 0.0,
        terms: float | None = None,
    ) -> Float[Tensor, "q"]:
        """The M-step: the normal equations of posterior-weighted least squares, and the density's own.

        See :meth:`orbitrec.optim.problem.ExpectationMaximisation.maximisation`.
        """
        x, unknowns = self.split(w)
        sizes = [len(x), self._unseen.numel()]
        right, second, occupancy = statistics.split([*sizes, len(statistics) - sum(sizes)])
        weight = second.reshape(self._unseen.shape)
        if inertia:
            right = right + inertia * self._normal(x, self._unseen)
            weight = weight + inertia * self._unseen
        solved = self._solve(right, weight, x, self.prior.precision(x).double() / (terms or self.count))
        by_element = occupancy.reshape(len(weight), -1)
        return torch.cat([solved, self.density.updated(unknowns, by_element, inertia)])

    def information(self, w: Float[Tensor, "q"]) -> Float[Tensor, "q q"]:
        """Mean information of observations whose group elements are known.

        Of large bases it is the diagonal, for a uniform density; for the density's logits it is the density.
        """
        x, unknowns = self.split(w)
        prior = self.prior.precision(x).double() / self.count
        if len(x) > self.m_step.dense:
            of_object = torch.diag(self.projector.uniform_diagonal(self._unseen.sum(0)).double() + prior)
        else:
            of_object = self.projector.gram(self._unseen.to(self.density.dtype)).double() + torch.diag(prior)
        return torch.block_diag(of_object, torch.diag(unknowns.softmax(0)))

    def _solve(
        self,
        right: Float[Tensor, "p"],
        weight: Float[Tensor, "d k"],
        x: Float[Tensor, "p"],
        prior: Float[Tensor, "p"],
    ) -> Float[Tensor, "p"]:
        if isinstance(self.projector, SeparableProjector):
            return self.projector.solve(right, weight, prior)
        if len(x) <= self.m_step.dense:
            gram = self.projector.gram(weight.to(self.density.dtype)).double()
            return torch.linalg.solve(gram + torch.diag(prior), right)
        diagonal = self.projector.uniform_diagonal(weight.sum(0)).double() + prior
        residual = self.m_step.relative_residual
        return solve_symmetric(
            lambda v: self._normal(v, weight) + prior * v,
            right,
            start=x,
            diagonal=diagonal,
            iterations=self.m_step.iterations,
            relative_residual=torch.finfo(self.density.dtype).eps ** 0.5 if residual is None else residual,
        )

    def _normal(self, x: Float[Tensor, "p"], weight: Float[Tensor, "d k"]) -> Float[Tensor, "p"]:
        kind = self.density.dtype
        return self.projector.normal(x.to(kind), weight.to(kind)).double()

    def _value(self, w: Float[Tensor, "q"], found: Statistics) -> float:
        return self.prior.energy(self.split(w)[0]) / self.count - found.log_likelihood / found.count

    @cached_property
    def _unseen(self) -> Float[Tensor, "d k"]:
        """``second`` of one observation of which nothing is known but a known density, or a uniform one."""
        uniform = torch.zeros(self.density.dimension, dtype=torch.float64)
        return self.density.log(uniform).double().exp().sum(1)[:, None] * self.data.ctf2_over_noise.double()

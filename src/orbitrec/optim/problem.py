"""What an optimiser knows of a problem: F(w) = (1/N) Σ f_i(w) of a flat real float64 vector.

Three protocols, each a promise of one more thing: a gradient; an EM map, split into its two steps; curvature. Every
method returns the *mean* over the given terms, ``index = None`` meaning all N, and bounds its own memory by chunks.
"""

from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError


@runtime_checkable
class FiniteSum(Protocol):
    """F(w) = (1/N) Σ f_i(w), with ``count`` N terms and w of ``dimension`` d."""

    @property
    def count(self) -> int:
        """N."""
        ...

    @property
    def dimension(self) -> int:
        """d."""
        ...

    def gradient(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "d"]]:
        """Mean value and gradient of the terms in ``index``."""
        ...


@runtime_checkable
class ExpectationMaximisation(FiniteSum, Protocol):
    """A negative log-likelihood with latent variables, whose EM map is ``maximisation(expectation(w), w)``.

    Expected statistics are means over terms, so those of a union are the weighted mean of those of its parts: shards
    and stored batches need nothing else.
    """

    def expectation(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "s"]]:
        """E-step: mean value F and mean expected sufficient statistics, flat, of the terms in ``index``."""
        ...

    def maximisation(
        self,
        statistics: Float[Tensor, "s"],
        w: Float[Tensor, "d"],
        inertia: float = 0.0,
        terms: float | None = None,
    ) -> Float[Tensor, "d"]:
        """M-step.

        Args:
            statistics: the mean expected statistics, (s,).
            w: the present point; an iterative M-step begins there, and what no term has seen stays there.
            inertia: κ/b adds κ pseudo-observations that agree with w to the b seen, so that what a small batch does
                not see does not run to −∞ or to 0/0. A fixed point stays one.
            terms: how many terms the statistics stand for, against which a prior counts; all N if None.

        Returns:
            The next point, (d,).
        """
        ...


@runtime_checkable
class TwiceDifferentiable(FiniteSum, Protocol):
    """Curvature for second-order metrics; dense, so for small d."""

    @property
    def fisher_passes(self) -> float:
        """What :meth:`fisher` of all terms costs, in passes: as many gradients as take the same time."""
        ...

    def hessian(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """Mean Hessian of the terms in ``index``."""
        ...

    def fisher(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """Mean outer product ∇f_i ∇f_iᵀ of the terms in ``index`` (the empirical Fisher information, of which the
        Hessian at the truth has the same expectation: Berndt, Hall, Hall and Hausman, 1974).
        """
        ...


@runtime_checkable
class CompleteInformation(ExpectationMaximisation, Protocol):
    """An EM problem that knows the geometry of its M-step."""

    def information(self, w: Float[Tensor, "d"]) -> Float[Tensor, "d d"]:
        """S(w), positive definite: ∇F ≈ S (w − Ψ(w)), the complete data's information matrix. Touches no data."""
        ...


def em_map(
    problem: ExpectationMaximisation, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
) -> tuple[float, Float[Tensor, "d"]]:
    """(F, Ψ)(w) of (4.12) on all terms, or (f_I, ψ_I)(w) of (4.15) with one pseudo-observation of inertia."""
    value, statistics = problem.expectation(w, index)
    return value, problem.maximisation(statistics, w, 0.0 if index is None else 1.0 / len(index))


class Counted:
    """A problem that counts the data passes asked of it: a pass is N terms' values and gradients, or one full E-step.

    A Hessian of b terms counts as d b/N, the thesis's rule in 4.5.1; a Fisher matrix as ``fisher_passes`` b/N.
    """

    def __init__(self, problem: FiniteSum) -> None:
        self.problem = problem
        self.passes = 0.0

    @property
    def count(self) -> int:
        """N."""
        return self.problem.count

    @property
    def dimension(self) -> int:
        """d."""
        return self.problem.dimension

    @property
    def fisher_passes(self) -> float:
        """The problem's own."""
        return _as(TwiceDifferentiable, self.problem).fisher_passes

    def gradient(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "d"]]:
        """The problem's own, counted."""
        return self.problem.gradient(w, self._seen(index))

    def expectation(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "s"]]:
        """The problem's own, counted."""
        return _as(ExpectationMaximisation, self.problem).expectation(w, self._seen(index))

    def maximisation(
        self,
        statistics: Float[Tensor, "s"],
        w: Float[Tensor, "d"],
        inertia: float = 0.0,
        terms: float | None = None,
    ) -> Float[Tensor, "d"]:
        """The problem's own: it touches no data."""
        return _as(ExpectationMaximisation, self.problem).maximisation(statistics, w, inertia, terms)

    def hessian(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """The problem's own, counted."""
        return _as(TwiceDifferentiable, self.problem).hessian(w, self._seen(index, float(self.dimension)))

    def fisher(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """The problem's own, counted."""
        return _as(TwiceDifferentiable, self.problem).fisher(w, self._seen(index, self.fisher_passes))

    def information(self, w: Float[Tensor, "d"]) -> Float[Tensor, "d d"]:
        """The problem's own: it touches no data."""
        return _as(CompleteInformation, self.problem).information(w)

    def _seen(self, index: Int[Tensor, "b"] | None, cost: float = 1.0) -> Int[Tensor, "b"] | None:
        """Count the terms and say which of the problem's they are."""
        self.passes += cost * (1.0 if index is None else len(index) / self.count)
        return index


class Subset(Counted):
    """The problem of the terms in ``chosen`` alone."""

    def __init__(self, problem: FiniteSum, chosen: Int[Tensor, "n"]) -> None:
        super().__init__(problem)
        self.chosen = chosen

    @property
    def count(self) -> int:
        """Terms chosen."""
        return len(self.chosen)

    def _seen(self, index: Int[Tensor, "b"] | None, cost: float = 1.0) -> Int[Tensor, "b"]:
        super()._seen(index, cost)
        return self.chosen if index is None else self.chosen[index]


P = TypeVar("P")


def _as(protocol: type[P], problem: FiniteSum) -> P:
    if not isinstance(problem, protocol):
        raise InputError(
            f"{type(problem).__name__} is not {protocol.__name__}, which this solver needs; choose another solver"
        )
    return problem

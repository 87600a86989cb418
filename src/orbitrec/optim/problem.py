"""Problems as optimisers use them: F(w) = (1/N) Σ f_i(w) of a real float64 vector w (section 4.3).

Each protocol has one more ability: a gradient; an EM map, split into its two steps; curvature; the information of the
complete data. Every method returns the *mean* over the given terms, all N if ``index`` is None, and bounds its own
memory by chunks.
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
        """Number of terms, N."""
        ...

    @property
    def dimension(self) -> int:
        """Number of unknowns, d."""
        ...

    def gradient(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "d"]]:
        """Mean value and gradient of some terms.

        Args:
            w: (d,) the point.
            index: (b,) the terms; None for all.

        Returns:
            The mean of f_i(w), and that of ∇f_i(w), (d,).
        """
        ...


@runtime_checkable
class ExpectationMaximisation(FiniteSum, Protocol):
    """A negative log-likelihood with latent variables, whose EM map (4.12) is ``maximisation(expectation(w), w)``.

    Expected statistics are means over terms, so that those of a union are the weighted mean of those of its parts.
    """

    def expectation(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "s"]]:
        """The E-step (4.11) on some terms.

        Args:
            w: (d,) the point.
            index: (b,) the terms; None for all.

        Returns:
            The mean of f_i(w), and the mean expected sufficient statistics, flattened to (s,).
        """
        ...

    def maximisation(
        self,
        statistics: Float[Tensor, "s"],
        w: Float[Tensor, "d"],
        inertia: float = 0.0,
        terms: float | None = None,
    ) -> Float[Tensor, "d"]:
        """The M-step of (4.12): the point of greatest expected complete-data likelihood.

        Args:
            statistics: (s,) the mean expected statistics.
            w: (d,) the present point. An iterative M-step begins there; unknowns that no term depends on stay there.
            inertia: κ/b adds κ pseudo-observations that agree with w to the b of a batch, so that no unknown of which
                the batch knows nothing goes to −∞ or to 0/0. Fixed points are the same.
            terms: how many terms the statistics stand for, which is what a prior is weighed against; all N if None.

        Returns:
            The next point, (d,).
        """
        ...


@runtime_checkable
class TwiceDifferentiable(FiniteSum, Protocol):
    """A finite sum with curvature for second-order metrics. Matrices are dense, so d must be small."""

    @property
    def fisher_passes(self) -> float:
        """Cost of :meth:`fisher` of all terms in passes: the number of gradients that take the same time."""
        ...

    def hessian(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """The mean Hessian of some terms.

        Args:
            w: (d,) the point.
            index: (b,) the terms; None for all.

        Returns:
            The matrix (d, d).
        """
        ...

    def fisher(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """The empirical Fisher information of some terms, the mean of ∇f_i ∇f_iᵀ.

        At the true parameters its expectation is that of the Hessian (Berndt, Hall, Hall and Hausman 1974).

        Args:
            w: (d,) the point.
            index: (b,) the terms; None for all.

        Returns:
            The matrix (d, d).
        """
        ...


@runtime_checkable
class CompleteInformation(ExpectationMaximisation, Protocol):
    """An EM problem with the information matrix of its complete data, which is the geometry of its M-step."""

    def information(self, w: Float[Tensor, "d"]) -> Float[Tensor, "d d"]:
        """The complete data's information matrix S(w), (d, d), for which ∇F ≈ S (w − Ψ(w)).

        It is positive definite, and needs no pass over the data (Dempster, Laird and Rubin 1977).
        """
        ...


def em_map(
    problem: ExpectationMaximisation, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
) -> tuple[float, Float[Tensor, "d"]]:
    """The EM map: Ψ(w) of (4.12) on all terms, or ψ_I(w) of (4.15) on a batch.

    On a batch one pseudo-observation that agrees with w is added to it.

    Args:
        problem: F, a negative log-likelihood with an EM map.
        w: (d,) the point.
        index: (b,) the terms; None for all.

    Returns:
        The mean value of these terms at w, and the image of w, (d,).
    """
    value, statistics = problem.expectation(w, index)
    return value, problem.maximisation(statistics, w, 0.0 if index is None else 1.0 / len(index))


class Counted:
    """A problem that counts the data passes it makes: a pass is N terms' values and gradients, or one full E-step.

    A Hessian of b terms counts as d b/N, the thesis's rule in section 4.5.1; a Fisher matrix as ``fisher_passes`` b/N.
    """

    def __init__(self, problem: FiniteSum) -> None:
        self.problem = problem
        self.passes = 0.0

    @property
    def count(self) -> int:
        """Number of terms, N."""
        return self.problem.count

    @property
    def dimension(self) -> int:
        """Number of unknowns, d."""
        return self.problem.dimension

    @property
    def fisher_passes(self) -> float:
        """That of the problem."""
        return _as(TwiceDifferentiable, self.problem).fisher_passes

    def gradient(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "d"]]:
        """Pass the call on to the problem and count it."""
        return self.problem.gradient(w, self._seen(index))

    def expectation(
        self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None
    ) -> tuple[float, Float[Tensor, "s"]]:
        """Pass the call on to the problem and count it."""
        return _as(ExpectationMaximisation, self.problem).expectation(w, self._seen(index))

    def maximisation(
        self,
        statistics: Float[Tensor, "s"],
        w: Float[Tensor, "d"],
        inertia: float = 0.0,
        terms: float | None = None,
    ) -> Float[Tensor, "d"]:
        """Pass the call on to the problem; it is not counted, since it needs no pass over the data."""
        return _as(ExpectationMaximisation, self.problem).maximisation(statistics, w, inertia, terms)

    def hessian(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """Pass the call on to the problem and count it."""
        return _as(TwiceDifferentiable, self.problem).hessian(w, self._seen(index, float(self.dimension)))

    def fisher(self, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        """Pass the call on to the problem and count it."""
        return _as(TwiceDifferentiable, self.problem).fisher(w, self._seen(index, self.fisher_passes))

    def information(self, w: Float[Tensor, "d"]) -> Float[Tensor, "d d"]:
        """Pass the call on to the problem; it is not counted, since it needs no pass over the data."""
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
        """Number of chosen terms."""
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

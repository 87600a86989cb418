"""Metrics: inverse Hessians, which turn a field into a step. There are several rules for them, and one form.

    H⁻¹ ≈ Q (Λ⁻¹ − γ I) Qᵀ + γ I, then corrected by secant pairs (s, y) through the BFGS formula (4.10)

Without directions Q and without pairs it is γ times the identity. Directions from a subsampled Hessian make SVRG+I
(4.8); pairs from one snapshot to the next (4.9) make SVRG+II and sEM-vr+QN.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.optim.estimators import Snapshot, batch_size, draw
from orbitrec.optim.problem import Counted

_LEAST_CURVATURE = 1e-8  # of the largest: less cannot be distinguished from rounding


class InverseHessian(NamedTuple):
    """An inverse Hessian of the form above.

    Attributes:
        basis: the directions Q.
        inverse: the diagonal of Λ⁻¹.
        rest: γ.
        steps: s of every secant pair, oldest first, all with sᵀy > 0.
        changes: y of every pair: the change of the preconditioned field.
        preconditioner: a matrix that multiplies every field first (e = d), or empty (e = 0) for the identity.
        age: pairs since the last refresh, for rules that do not refresh at every snapshot.
    """

    basis: Float[Tensor, "d r"]
    inverse: Float[Tensor, "r"]
    rest: float
    steps: Float[Tensor, "k d"]
    changes: Float[Tensor, "k d"]
    preconditioner: Float[Tensor, "e e"]
    age: int = 0

    @classmethod
    def scaled_identity(cls, dimension: int, rest: float = 1.0) -> "InverseHessian":
        """The metric γ I that every rule begins with; γ is ``rest``."""
        empty = torch.zeros(dimension, 0, dtype=torch.float64)
        return cls(empty, empty[0], rest, empty.T, empty.T, empty[:0])

    def apply(self, field: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        """The step's direction: H⁻¹ times the preconditioned field."""
        return self._apply(self._preconditioned(field))

    def _preconditioned(self, field: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        return self.preconditioner @ field if len(self.preconditioner) else field

    def _apply(self, vector: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        """The two-loop recursion (Nocedal 1980; Nocedal and Wright 2006, algorithm 7.4)."""
        rho = 1 / (self.steps * self.changes).sum(1)
        alphas = []
        for s, y, r in zip(self.steps.flip(0), self.changes.flip(0), rho.flip(0), strict=True):
            alphas.append(r * (s @ vector))
            vector = vector - alphas[-1] * y
        inner = self.basis.T @ vector
        vector = self.rest * vector + self.basis @ ((self.inverse - self.rest) * inner)
        for s, y, r in zip(self.steps, self.changes, rho, strict=True):
            vector = vector + (alphas.pop() - r * (y @ vector)) * s
        return vector

    def with_pair(self, s: Float[Tensor, "d"], y: Float[Tensor, "d"], memory: int) -> "InverseHessian":
        """Add a secant pair (4.10).

        A pair with too little curvature, sᵀy < 0.2 yᵀH⁻¹y, is damped (Powell 1978, in the inverse form): s moves
        towards H⁻¹y until the ratio is 0.2. A pair of zero length is dropped.

        Args:
            s: (d,) the step between two points.
            y: (d,) the change of the field along it, before the preconditioner.
            memory: how many pairs are kept; the oldest are dropped.

        Returns:
            The matrix with the new pair.
        """
        y = self._preconditioned(y)
        image = self._apply(y)
        expected, seen = float(y @ image), float(s @ y)
        if not 0 < expected < float("inf"):
            return self
        if seen < 0.2 * expected:
            share = 0.8 * expected / (expected - seen)
            s = share * s + (1 - share) * image
        pairs = [torch.cat([old, new[None]])[-memory:] for old, new in ((self.steps, s), (self.changes, y))]
        return self._replace(steps=pairs[0], changes=pairs[1])

    def without_pairs(self) -> "InverseHessian":
        """The matrix without its secant pairs."""
        return self._replace(steps=self.steps[:0], changes=self.changes[:0])


@runtime_checkable
class Metric(Protocol):
    """A rule for the inverse Hessian: how two snapshots update it, and how the problem's curvature refreshes it.

    The form is that of the module's docstring.
    """

    def reported_passes(self, problem: Counted) -> float:
        """Passes that the thesis's rule (section 4.5.1) counts for :meth:`refreshed`, beyond those of the epoch."""
        ...

    def updated(self, inverse: InverseHessian, new: Snapshot, old: Snapshot) -> InverseHessian:
        """Update the metric when the full field is known at two points, whether or not F is lower at the new one.

        Args:
            inverse: the metric so far.
            new: the point that was just evaluated.
            old: the snapshot before.

        Returns:
            The new metric, for instance with one more secant pair (4.9).
        """
        ...

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """Refresh the metric for the steps from an accepted snapshot.

        Args:
            inverse: the metric so far.
            problem: F, which computes curvature and counts the passes.
            at: the snapshot.
            generator: draws the terms whose curvature is computed.

        Returns:
            The new metric, for instance with the directions of a subsampled Hessian (4.8).
        """
        ...


@dataclass(frozen=True)
class Identity:
    """No metric: the step is the field. The other rules inherit the methods that they do not change."""

    def reported_passes(self, problem: Counted) -> float:
        """None, since nothing is computed."""
        return 0.0

    def updated(self, inverse: InverseHessian, new: Snapshot, old: Snapshot) -> InverseHessian:
        """The metric unchanged."""
        return inverse

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """The metric unchanged."""
        return inverse


@dataclass(frozen=True)
class SubsampledNewton(Identity):
    """The leading singular directions of the Hessian of some terms, Newton's step in them.

    This is (4.8), corrected: ``Q_r (Σ_r⁻¹ − σ_{r+1}⁻¹ I) Q_rᵀ + σ_{r+1}⁻¹ I``. Singular values instead of eigenvalues
    let the step go down where F is concave.

    Attributes:
        rank: how many directions.
        share: of the terms, drawn at every snapshot.
    """

    rank: int
    share: float = 0.1

    def reported_passes(self, problem: Counted) -> float:
        """``dB/N``, for a Hessian of B terms."""
        return problem.dimension * batch_size(self.share, problem.count) / problem.count

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """The metric with the directions of a new subsample."""
        index = draw(problem.count, batch_size(self.share, problem.count), generator)
        values, basis = torch.linalg.eigh(problem.hessian(at.w, index))
        order = values.abs().argsort(descending=True)
        sizes = values.abs()[order].clamp(min=_LEAST_CURVATURE * float(values.abs().max()))
        rank = min(self.rank, len(sizes) - 1)
        return inverse._replace(basis=basis[:, order[:rank]], inverse=1 / sizes[:rank], rest=1 / float(sizes[rank]))


@dataclass(frozen=True)
class BFGS(Identity):
    """Secant pairs of snapshots, (4.9) and (4.10), with safeguards that the thesis's form does not have.

    Attributes:
        memory: pairs kept.
        scaled: start from γ = sᵀy/yᵀy of the newest pair (Nocedal and Wright 7.20) instead of the identity.
        of_map: pair Δw with ΔΨ, as the thesis's Algorithm 5 does, instead of with the residual's change.
    """

    memory: int = 100
    scaled: bool = True
    of_map: bool = False

    def updated(self, inverse: InverseHessian, new: Snapshot, old: Snapshot) -> InverseHessian:
        """The metric with one more pair."""
        s, y = new.w - old.w, new.field - old.field
        if self.of_map:
            y = s - y
        if self.scaled and float(s @ y) > 0:
            inverse = inverse._replace(rest=float(s @ y) / float(y @ y))
        return inverse.with_pair(s, y, self.memory)


@dataclass(frozen=True)
class InformationBFGS(BFGS):
    """BFGS for EM residuals, in the geometry of the complete data's information matrix S(w).

    The Jacobian of w − Ψ(w) is ``S⁻¹ ∇²F`` at a solution (Dempster, Laird and Rubin 1977): symmetric in the inner
    product of S and in no other, while a BFGS matrix is symmetric by construction. So the preconditioner S turns fields
    into gradients, and the matrix starts from S⁻¹, which makes the first step that of EM.
    """

    scaled: bool = False

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """The metric of S at the snapshot, which needs no pass over the data."""
        information = problem.information(at.w)
        values, basis = torch.linalg.eigh(information)
        sizes = values.clamp(min=_LEAST_CURVATURE**2 * float(values.max()))
        return inverse._replace(basis=basis.contiguous(), inverse=1 / sizes, preconditioner=information)


@dataclass(frozen=True)
class FisherBFGS(Identity):
    """BFGS pairs on top of the damped empirical Fisher matrix of a few terms, which is refreshed periodically.

    For a likelihood the Fisher matrix is an estimate of the Hessian that needs first derivatives only and is never
    negative; 16 d terms give it to about 25 %, and the pairs correct the rest. Far from a solution it is damped as by
    Levenberg and Marquardt, by ``damping · min(1, ‖∇F‖)`` times its mean eigenvalue. With few terms some eigenvalues
    are poorly known, and with fewer than d terms some are zero: none is taken below ``unseen · (d/terms)³`` times the
    mean, which is 7·10⁻⁵ for 16 d terms.

    Attributes:
        terms: of the Fisher matrix, per unknown.
        period: snapshots between two refreshes of the matrix.
        memory: pairs kept.
        damping: share of the mean eigenvalue, see above.
        unseen: share of the mean eigenvalue, see above.
    """

    terms: int = 16
    period: int = 10
    memory: int = 7
    damping: float = 0.02
    unseen: float = 0.3

    def reported_passes(self, problem: Counted) -> float:
        """The measured passes, divided by the period; the thesis has no such method."""
        return problem.fisher_passes * min(1.0, self.terms * problem.dimension / problem.count) / self.period

    def updated(self, inverse: InverseHessian, new: Snapshot, old: Snapshot) -> InverseHessian:
        """The metric with one more pair."""
        return inverse.with_pair(new.w - old.w, new.field - old.field, self.memory)._replace(age=inverse.age + 1)

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """The metric with a new Fisher matrix, once in a period; otherwise unchanged."""
        if len(inverse.inverse) and inverse.age < self.period:
            return inverse
        index = draw(problem.count, self.terms * problem.dimension, generator)
        values, basis = torch.linalg.eigh(problem.fisher(at.w, index))
        damping = self.damping * min(1.0, float(at.field.norm())) * float(values.mean())
        seen = self.terms if index is not None else problem.count / problem.dimension
        least = self.unseen / seen**3 * float(values.mean())
        sizes = values.clamp(min=least) + damping
        return inverse._replace(basis=basis.contiguous(), inverse=1 / sizes, age=0)

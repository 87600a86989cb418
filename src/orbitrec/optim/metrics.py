"""Metrics: what turns a field into a step. One form of inverse Hessian, and three rules for what it holds.

    H⁻¹ ≈ Q (Λ⁻¹ − γ I) Qᵀ + γ I, then corrected by secant pairs (s, y) through the BFGS formula (4.10)

With no directions and no pairs it is the identity; directions from a subsampled Hessian make SVRG+I (4.8); pairs from
one snapshot to the next make SVRG+II and sEM-vr+QN.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.optim.estimators import Snapshot, batch_size, draw
from orbitrec.optim.problem import Counted

_LEAST_CURVATURE = 1e-8  # of the largest: below it a direction has none that could be told from rounding


class InverseHessian(NamedTuple):
    """The form above: ``basis`` Q and ``inverse`` Λ⁻¹, ``rest`` γ, and pairs, oldest first, with sᵀy > 0.

    ``preconditioner`` multiplies every field first (e = d; with e = 0 it is the identity); ``age`` counts pairs since the last
    refresh, for rules that renew now and then.
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
        """γ I."""
        empty = torch.zeros(dimension, 0, dtype=torch.float64)
        return cls(empty, empty[0], rest, empty.T, empty.T, empty[:0])

    def apply(self, field: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        """H⁻¹ times a field, preconditioned."""
        return self._apply(self._preconditioned(field))

    def _preconditioned(self, field: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        return self.preconditioner @ field if len(self.preconditioner) else field

    def _apply(self, vector: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        """The two-loop recursion (Nocedal 1980)."""
        rho = 1 / (self.steps * self.changes).sum(1)
        in_plane_angles = []
        for s, y, r in zip(self.steps.flip(0), self.changes.flip(0), rho.flip(0), strict=True):
            in_plane_angles.append(r * (s @ vector))
            vector = vector - in_plane_angles[-1] * y
        inner = self.basis.T @ vector
        vector = self.rest * vector + self.basis @ ((self.inverse - self.rest) * inner)
        for s, y, r in zip(self.steps, self.changes, rho, strict=True):
            vector = vector + (in_plane_angles.pop() - r * (y @ vector)) * s
        return vector

    def with_pair(self, s: Float[Tensor, "d"], y: Float[Tensor, "d"], memory: int) -> "InverseHessian":
        """With one more secant pair, the oldest beyond ``memory`` forgotten.

        A pair with too little curvature, sᵀy < 0.2 yᵀH⁻¹y, is damped (Powell 1978, in the inverse form): s moves
        towards H⁻¹y until the ratio is 0.2. A pair of no length is dropped.
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
        """The same before any secant pair."""
        return self._replace(steps=self.steps[:0], changes=self.changes[:0])


@runtime_checkable
class Metric(Protocol):
    """A rule for the inverse Hessian: what it learns from a pair of points, and what it asks of the problem anew."""

    def reported_passes(self, problem: Counted) -> float:
        """The thesis's cost of :meth:`refreshed`, beyond that of the epoch (4.5.1)."""
        ...

    def updated(self, inverse: InverseHessian, new: Snapshot, old: Snapshot) -> InverseHessian:
        """After the full field became known at ``new`` as well as at ``old``, whether or not F is lower there."""
        ...

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """For the steps from an accepted snapshot."""
        ...


@dataclass(frozen=True)
class Identity:
    """No metric: the step is the field. What the other rules leave out, they inherit from here."""

    def reported_passes(self, problem: Counted) -> float:
        """None."""
        return 0.0

    def updated(self, inverse: InverseHessian, new: Snapshot, old: Snapshot) -> InverseHessian:
        """Nothing."""
        return inverse

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """As it is."""
        return inverse


@dataclass(frozen=True)
class SubsampledNewton(Identity):
    """The ``rank`` leading singular directions of the Hessian of ``share`` of the terms.

    As (4.8), corrected: ``Q_r (Σ_r⁻¹ − σ_{r+1}⁻¹ I) Q_rᵀ + σ_{r+1}⁻¹ I``. Singular values, not eigenvalues: where F is
    concave the step still goes down.
    """

    rank: int
    share: float = 0.1

    def reported_passes(self, problem: Counted) -> float:
        """dB/N."""
        return problem.dimension * batch_size(self.share, problem.count) / problem.count

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """A new subsample at every snapshot."""
        index = draw(problem.count, batch_size(self.share, problem.count), generator)
        values, basis = torch.linalg.eigh(problem.hessian(at.w, index))
        order = values.abs().argsort(descending=True)
        sizes = values.abs()[order].clamp(min=_LEAST_CURVATURE * float(values.abs().max()))
        rank = min(self.rank, len(sizes) - 1)
        return inverse._replace(basis=basis[:, order[:rank]], inverse=1 / sizes[:rank], rest=1 / float(sizes[rank]))


@dataclass(frozen=True)
class BFGS(Identity):
    """Secant pairs of snapshots, (4.9) and (4.10), with the safeguards that the reported form lacks.

    Attributes:
        memory: pairs kept.
        scaled: start from γ = sᵀy/yᵀy of the newest pair (Nocedal and Wright 7.20) instead of the identity.
        of_map: pair Δw with ΔΨ, as Algorithm 5 is reported, instead of with the residual's change.
    """

    memory: int = 100
    scaled: bool = True
    of_map: bool = False

    def updated(self, inverse: InverseHessian, new: Snapshot, old: Snapshot) -> InverseHessian:
        """One more pair."""
        s, y = new.w - old.w, new.field - old.field
        if self.of_map:
            y = s - y
        if self.scaled and float(s @ y) > 0:
            inverse = inverse._replace(rest=float(s @ y) / float(y @ y))
        return inverse.with_pair(s, y, self.memory)


@dataclass(frozen=True)
class InformationBFGS(BFGS):
    """BFGS for EM residuals in the one geometry where it fits: that of the complete data's information matrix S(w).

    The Jacobian of w − Ψ(w) is ``S⁻¹ ∇²F`` at a solution (Dempster, Laird and Rubin 1977): symmetric in the inner
    product of S and in no other, while a BFGS matrix is symmetric by construction. So fields are multiplied by S, which
    makes them gradients, and the matrix starts from S⁻¹, which makes the first step EM's own.
    """

    scaled: bool = False

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """S at the snapshot; no data are touched."""
        information = problem.information(at.w)
        values, basis = torch.linalg.eigh(information)
        sizes = values.clamp(min=_LEAST_CURVATURE**2 * float(values.max()))
        return inverse._replace(basis=basis.contiguous(), inverse=1 / sizes, preconditioner=information)


@dataclass(frozen=True)
class FisherBFGS(Identity):
    """BFGS pairs upon the damped empirical Fisher matrix of a few terms, refreshed every ``period`` snapshots.

    For a likelihood the Fisher matrix is an estimate of the Hessian that needs first derivatives only and is never
    negative; 16 d terms give it to about 25 %, and the pairs do the rest. Far from a solution it is damped in the
    manner of Levenberg and Marquardt, by ``damping`` · min(1, ‖∇F‖) of its mean eigenvalue. Fewer terms see some
    directions badly, or not at all when they are fewer than d: no eigenvalue is taken below ``unseen`` (d/terms)³ of
    the mean, 7·10⁻⁵ for 16 d of them.
    """

    terms: int = 16
    period: int = 10
    memory: int = 7
    damping: float = 0.02
    unseen: float = 0.3

    def reported_passes(self, problem: Counted) -> float:
        """Not in the thesis; as counted, spread over the period."""
        return problem.fisher_passes * min(1.0, self.terms * problem.dimension / problem.count) / self.period

    def updated(self, inverse: InverseHessian, new: Snapshot, old: Snapshot) -> InverseHessian:
        """One more pair."""
        return inverse.with_pair(new.w - old.w, new.field - old.field, self.memory)._replace(age=inverse.age + 1)

    def refreshed(
        self, inverse: InverseHessian, problem: Counted, at: Snapshot, generator: torch.Generator
    ) -> InverseHessian:
        """A new matrix below the pairs, if it is time."""
        if len(inverse.inverse) and inverse.age < self.period:
            return inverse
        index = draw(problem.count, self.terms * problem.dimension, generator)
        values, basis = torch.linalg.eigh(problem.fisher(at.w, index))
        damping = self.damping * min(1.0, float(at.field.norm())) * float(values.mean())
        seen = self.terms if index is not None else problem.count / problem.dimension
        least = self.unseen / seen**3 * float(values.mean())
        sizes = values.clamp(min=least) + damping
        return inverse._replace(basis=basis.contiguous(), inverse=1 / sizes, age=0)

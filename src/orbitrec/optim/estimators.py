"""A field, and three estimators of it: on all terms, on a batch, and on a batch with its variance removed.

The field is what a method drives to zero: the gradient ∇F, or the EM residual w − Ψ(w). With a *snapshot* w̃ at which
the full field is known, any batch estimate e_I(w) becomes e_I(w) − e_I(w̃) + e(w̃): the control variate of SVRG (4.7)
and sEM-vr (4.16).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.optim.problem import Counted, em_map

Field = Callable[[Counted, Float[Tensor, "d"], Int[Tensor, "b"] | None], tuple[float, Float[Tensor, "d"]]]


def gradient(
    problem: Counted, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None
) -> tuple[float, Float[Tensor, "d"]]:
    """The field of gradient methods, ∇F of (4.5), or of a batch (4.6).

    Args:
        problem: F, the finite sum.
        w: (d,).
        index: (b,) the terms; None for all.

    Returns:
        Mean value and gradient of these terms at w.
    """
    return problem.gradient(w, index)


def em_residual(
    problem: Counted, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None
) -> tuple[float, Float[Tensor, "d"]]:
    """The field of EM methods, w − Ψ(w) with the map (4.12), or w − ψ_I(w) with that of a batch (4.15).

    Args:
        problem: F, a negative log-likelihood with an EM map.
        w: (d,).
        index: (b,) the terms; None for all.

    Returns:
        Mean value of these terms at w, and the residual.
    """
    value, image = em_map(problem, w, index)
    return value, w - image


class Snapshot(NamedTuple):
    """A point w̃ with the value and full field there."""

    w: Float[Tensor, "d"]
    value: float
    field: Float[Tensor, "d"]


@runtime_checkable
class Estimator(Protocol):
    """An estimator of the field for the steps between two snapshots."""

    def steps(self, count: int) -> int:
        """Number m of inner steps in an epoch, for ``count`` = N terms."""
        ...

    def reported_passes(self, count: int) -> float:
        """Cost of an epoch in passes by the thesis's rule (section 4.5.1), for ``count`` = N terms.

        Of the two batches of a variance-reduced step it counts one.
        """
        ...

    def estimate(
        self, field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, generator: torch.Generator
    ) -> Float[Tensor, "d"]:
        """Estimate the field at a point.

        Args:
            field: computes value and field of some terms.
            problem: F, which counts the passes.
            w: (d,) the point.
            snapshot: an earlier point at which the full field is known.
            generator: draws the terms of a batch.

        Returns:
            The estimate, (d,).
        """
        ...


@dataclass(frozen=True)
class Full:
    """The field itself: one step per epoch, from the snapshot."""

    def steps(self, count: int) -> int:
        """One step."""
        return 1

    def reported_passes(self, count: int) -> float:
        """One pass."""
        return 1.0

    def estimate(
        self, field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, generator: torch.Generator
    ) -> Float[Tensor, "d"]:
        """The field at the snapshot, which is where the one step begins."""
        return snapshot.field


@dataclass(frozen=True)
class Batch:
    """The field of a random batch, (4.6) and (4.14).

    Attributes:
        share: of all terms in a batch.
        inner: steps of an epoch.
    """

    share: float = 0.1
    inner: int = 20

    def steps(self, count: int) -> int:
        """The number ``inner``, whatever the number of terms."""
        return self.inner

    def reported_passes(self, count: int) -> float:
        """mb/N, for m steps on batches of b terms."""
        return self.inner * batch_size(self.share, count) / count

    def estimate(
        self, field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, generator: torch.Generator
    ) -> Float[Tensor, "d"]:
        """The mean field e_I(w) of a new batch."""
        return field(problem, w, draw(problem.count, batch_size(self.share, problem.count), generator))[1]


@dataclass(frozen=True)
class VarianceReduced:
    """The field of a random batch with its variance reduced, e_I(w) − e_I(w̃) + e(w̃), (4.7) and (4.16).

    Attributes:
        share: of all terms in a batch.
        inner: steps of an epoch.
    """

    share: float = 0.1
    inner: int = 20

    def steps(self, count: int) -> int:
        """The number ``inner``, whatever the number of terms."""
        return self.inner

    def reported_passes(self, count: int) -> float:
        """1 + mb/N, for the snapshot and m steps on batches of b terms."""
        return 1 + self.inner * batch_size(self.share, count) / count

    def estimate(
        self, field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, generator: torch.Generator
    ) -> Float[Tensor, "d"]:
        """The variance-reduced field on a new batch; at the snapshot itself it is the full field, without a batch."""
        if w is snapshot.w:
            return snapshot.field
        index = draw(problem.count, batch_size(self.share, problem.count), generator)
        if index is None:
            return field(problem, w, None)[1]
        return reduced(field, problem, w, snapshot, index)


def reduced(
    field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, index: Int[Tensor, "b"]
) -> Float[Tensor, "d"]:
    """The variance-reduced field on a given batch, e_I(w) − e_I(w̃) + e(w̃): (4.7) for gradients, (4.16) for EM.

    Args:
        field: computes value and field of some terms.
        problem: F, the finite sum.
        w: (d,) the point.
        snapshot: w̃ and the full field there.
        index: (b,) the batch.

    Returns:
        The estimate, (d,).
    """
    return field(problem, w, index)[1] - field(problem, snapshot.w, index)[1] + snapshot.field


def batch_size(share: float, count: int) -> int:
    """Number of terms in a batch that is a ``share`` of ``count`` terms, at least one."""
    return max(1, round(share * count))


def draw(count: int, size: int, generator: torch.Generator) -> Int[Tensor, "b"] | None:
    """Draw different terms at random.

    Large problems are sampled by rejection, since a permutation of all terms would cost more than the batch.

    Args:
        count: number of all terms, N.
        size: terms to draw.
        generator: source of the random numbers.

    Returns:
        Indices (size,) of the terms; None for all terms if ``size`` is at least ``count``.
    """
    if size >= count:
        return None
    if size * 8 > count:
        return torch.randperm(count, generator=generator)[:size]
    seen = torch.randint(count, (2 * size + 16,), generator=generator)  # fewer than size different: never
    ordered, first = seen.unique(return_inverse=True)
    position = torch.full((len(ordered),), len(seen)).scatter_reduce_(0, first, torch.arange(len(seen)), "amin")
    return seen[position.sort().values[:size]]

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
    """Value and ∇F(w)."""
    return problem.gradient(w, index)


def em_residual(
    problem: Counted, w: Float[Tensor, "d"], index: Int[Tensor, "b"] | None
) -> tuple[float, Float[Tensor, "d"]]:
    """Value and w − Ψ(w)."""
    value, image = em_map(problem, w, index)
    return value, w - image


class Snapshot(NamedTuple):
    """A point w̃ with the value and full field there."""

    w: Float[Tensor, "d"]
    value: float
    field: Float[Tensor, "d"]


@runtime_checkable
class Estimator(Protocol):
    """How a step between snapshots learns the field; ``steps`` of them make an epoch."""

    def steps(self, count: int) -> int:
        """m, the inner steps of an epoch on N terms."""
        ...

    def reported_passes(self, count: int) -> float:
        """The thesis's cost of an epoch (4.5.1), which counts one of the two batches of a variance-reduced step."""
        ...

    def estimate(
        self, field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, generator: torch.Generator
    ) -> Float[Tensor, "d"]:
        """The field at w."""
        ...


@dataclass(frozen=True)
class Full:
    """The field itself: one step per epoch, from the snapshot."""

    def steps(self, count: int) -> int:
        """One."""
        return 1

    def reported_passes(self, count: int) -> float:
        """One."""
        return 1.0

    def estimate(
        self, field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, generator: torch.Generator
    ) -> Float[Tensor, "d"]:
        """What the snapshot holds."""
        return snapshot.field


@dataclass(frozen=True)
class Batch:
    """The field on a random batch of ``share`` of all terms; ``inner`` steps make an epoch."""

    share: float = 0.1
    inner: int = 20

    def steps(self, count: int) -> int:
        """``inner``."""
        return self.inner

    def reported_passes(self, count: int) -> float:
        """mb/N."""
        return self.inner * batch_size(self.share, count) / count

    def estimate(
        self, field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, generator: torch.Generator
    ) -> Float[Tensor, "d"]:
        """e_I(w)."""
        return field(problem, w, draw(problem.count, batch_size(self.share, problem.count), generator))[1]


@dataclass(frozen=True)
class VarianceReduced:
    """e_I(w) − e_I(w̃) + e(w̃) on a random batch of ``share`` of all terms; ``inner`` steps make an epoch."""

    share: float = 0.1
    inner: int = 20

    def steps(self, count: int) -> int:
        """``inner``."""
        return self.inner

    def reported_passes(self, count: int) -> float:
        """1 + mb/N."""
        return 1 + self.inner * batch_size(self.share, count) / count

    def estimate(
        self, field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, generator: torch.Generator
    ) -> Float[Tensor, "d"]:
        """(4.7) or (4.16); at the snapshot itself both are the field there, and no batch is needed."""
        if w is snapshot.w:
            return snapshot.field
        index = draw(problem.count, batch_size(self.share, problem.count), generator)
        if index is None:
            return field(problem, w, None)[1]
        return reduced(field, problem, w, snapshot, index)


def reduced(
    field: Field, problem: Counted, w: Float[Tensor, "d"], snapshot: Snapshot, index: Int[Tensor, "b"]
) -> Float[Tensor, "d"]:
    """The variance-reduced field on a given batch."""
    return field(problem, w, index)[1] - field(problem, snapshot.w, index)[1] + snapshot.field


def batch_size(share: float, count: int) -> int:
    """Terms in a batch: at least one."""
    return max(1, round(share * count))


def draw(count: int, size: int, generator: torch.Generator) -> Int[Tensor, "b"] | None:
    """``size`` different terms of ``count`` at random, or None for all of them.

    Large problems are sampled by rejection: a permutation of all terms would cost more than the batch.
    """
    if size >= count:
        return None
    if size * 8 > count:
        return torch.randperm(count, generator=generator)[:size]
    seen = torch.randint(count, (2 * size + 16,), generator=generator)  # fewer than size different: never
    ordered, first = seen.unique(return_inverse=True)
    position = torch.full((len(ordered),), len(seen)).scatter_reduce_(0, first, torch.arange(len(seen)), "amin")
    return seen[position.sort().values[:size]]

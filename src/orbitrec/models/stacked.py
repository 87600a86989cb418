"""Several objects of one kind as one: their coefficients one after the other, and so their templates.

K objects seen from D directions are one object with K·D directions, so that everything that is written for one
(:mod:`orbitrec.inference`) serves a mixture of them: an element of the group then also says which object it is of.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from orbitrec.models.base import Projector


@dataclass(frozen=True, eq=False)
class StackedProjector:
    """The :class:`orbitrec.models.base.Projector` of several objects that have the same one each.

    Attributes:
        one: projector of every object, to d directions.
        count: how many objects, K; coefficients (K·p,) and templates (K·d, m, k) are those of the first, the second …
    """

    one: Projector
    count: int

    @property
    def dimension(self) -> int:
        """Number of coefficients of all objects."""
        return self.count * self.one.dimension

    @property
    def reach(self) -> Bool[Tensor, "m k"] | None:
        """The coordinates that templates reach, the same for all."""
        return self.one.reach

    def templates(self, w: Float[Tensor, "p"]) -> Complex[Tensor, "d m k"]:
        """Templates of all objects, one after the other."""
        return torch.cat([self.one.templates(each) for each in w.chunk(self.count)])

    def adjoint(self, x: Complex[Tensor, "d m k"]) -> Float[Tensor, "p"]:
        """The adjoint of every object's templates."""
        return torch.cat([self.one.adjoint(each) for each in x.chunk(self.count)])

    def normal(self, w: Float[Tensor, "p"], weight: Float[Tensor, "d k"]) -> Float[Tensor, "p"]:
        """Every object's normal equations, with its part of the weights."""
        parts = zip(w.chunk(self.count), weight.chunk(self.count), strict=True)
        return torch.cat([self.one.normal(each, own) for each, own in parts])

    def gram(self, weight: Float[Tensor, "d k"]) -> Float[Tensor, "p p"]:
        """Block-diagonal: no template shows two objects."""
        return torch.block_diag(*(self.one.gram(own) for own in weight.chunk(self.count)))

    def uniform_diagonal(self, weight: Float[Tensor, "k"]) -> Float[Tensor, "p"]:
        """That of every object, were the total weight the same for all of them."""
        return self.one.uniform_diagonal(weight / self.count).repeat(self.count)

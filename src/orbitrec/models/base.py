"""The two tensors and the circle that every problem is written in (``docs/mathematics.md``).

Templates ``T[d, m, k]`` and observations ``Y[j, s, m, k]`` (s: known displacements to be marginalised, often one) share
circular modes m and nodes k; rotating by α multiplies mode m by ``exp(−imα)``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from orbitrec.geometry.quadrature import circle_rule


@dataclass(frozen=True)
class Circle:
    """The circle's integer ``modes`` (one for each index m) and its ``angles`` α_i = 2πi/angles.

    One mode 0 and one angle make a problem with no circle: windowed MRA, cryo-EM on the Cartesian grid.
    """

    modes: Int[Tensor, "m"]
    angles: int

    @property
    def in_plane_angles(self) -> Float[Tensor, "a"]:
        """The angles in radians (float64)."""
        return circle_rule(self.angles)

    def synthesis(self, dtype: torch.dtype, device: torch.device | None = None) -> Float[Tensor, "a two_m"]:
        """Rows (cos mα, sin mα) for every m: ``Re Σ_m c_m e^{imα}`` as one product with the pairs (Re c_m, −Im c_m)."""
        phase = self.in_plane_angles[:, None] * self.modes.double().cpu()
        return torch.stack([phase.cos(), phase.sin()], dim=2).flatten(1).to(dtype).to(device)


def circular_coefficients(density: Float[Tensor, "... a"], order: Int[Tensor, "*q"]) -> Complex[Tensor, "..."]:
    """``ρ̂_d(q) = Σ_α ρ[d, α] e^{−iqα}`` at integer orders q: Fourier coefficients of the density on each direction."""
    table = torch.fft.fft(density, dim=-1)
    return table[..., order % density.shape[-1]]


def reached(power: Float[Tensor, "m k"]) -> Bool[Tensor, "m k"]:
    """The coordinates that hold all but a rounding error's share of templates' power.

    A mode m vanishes at nodes with k·radius well below m. Left out are the weakest coordinates as long as their share
    is below ``(100 ε)²``: they move a score, whose standard deviation is the root of the template's power, by 100 ε of
    that.

    Args:
        power: (m, k) mean square of white templates, in the dtype of the work.

    Returns:
        A mask, on the same device.
    """
    weakest, order = power.flatten().double().cpu().sort()
    dropped = order[weakest.cumsum(0) < (100 * torch.finfo(power.dtype).eps) ** 2 * weakest.sum()]
    kept = torch.ones(power.numel(), dtype=torch.bool)
    kept[dropped] = False
    return kept.reshape(power.shape).to(power.device)


@runtime_checkable
class Projector(Protocol):
    """A linear map ``T = C w`` from an object's coefficients to templates, on whatever grid.

    Any linear representation of an object can be the unknown of :class:`orbitrec.inference.orbit_likelihood` through
    one. :class:`LinearProjector` has all of it but ``templates`` and ``adjoint``.
    """

    @property
    def dimension(self) -> int:
        """Number of coefficients."""
        ...

    @property
    def reach(self) -> Bool[Tensor, "m k"] | None:
        """The coordinates that templates reach (:func:`reached`); None for all."""
        ...

    def templates(self, w: Float[Tensor, "p"]) -> Complex[Tensor, "d m k"]:
        """``C w``."""
        ...

    def adjoint(self, x: Complex[Tensor, "d m k"]) -> Float[Tensor, "p"]:
        """``C* x`` for the real inner product ``Re Σ conj(T) x``."""
        ...

    def normal(self, w: Float[Tensor, "p"], weight: Float[Tensor, "d k"]) -> Float[Tensor, "p"]:
        """``C* W C w`` with W diagonal over directions and nodes."""
        ...

    def gram(self, weight: Float[Tensor, "d k"]) -> Float[Tensor, "p p"]:
        """``C* W C`` as a matrix, for small bases."""
        ...

    def uniform_diagonal(self, weight: Float[Tensor, "k"]) -> Float[Tensor, "p"]:
        """Diagonal of ``C* W C`` were the directions uniform with total weight ``weight[k]``."""
        ...


@runtime_checkable
class SeparableProjector(Projector, Protocol):
    """A projector whose normal equations fall apart into systems so small that they are solved at once."""

    def solve(
        self, right: Float[Tensor, "p"], weight: Float[Tensor, "d k"], precision: Float[Tensor, "p"]
    ) -> Float[Tensor, "p"]:
        """Solve ``(C* W C + diag(precision)) w = right``.

        Args:
            right: (p,) the right-hand side.
            weight: (d, k) diagonal of W over directions and nodes.
            precision: (p,) not negative.

        Returns:
            w, (p,), in float64.
        """
        ...


class LinearProjector(ABC):
    """A :class:`Projector` from ``templates`` and its ``adjoint`` alone.

    What follows from the two is computed column by column, which serves small problems; a projector that knows its
    structure overrides it.
    """

    @property
    def reach(self) -> Bool[Tensor, "m k"] | None:
        """The coordinates that templates reach (:func:`reached`); None for all."""
        return None

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Number of coefficients."""

    @abstractmethod
    def templates(self, w: Float[Tensor, "p"]) -> Complex[Tensor, "d m k"]:
        """``C w``."""

    @abstractmethod
    def adjoint(self, x: Complex[Tensor, "d m k"]) -> Float[Tensor, "p"]:
        """``C* x`` for the real inner product ``Re Σ conj(T) x``."""

    def normal(self, w: Float[Tensor, "p"], weight: Float[Tensor, "d k"]) -> Float[Tensor, "p"]:
        """``C* W C w`` with W diagonal over directions and nodes."""
        return self.adjoint(self.templates(w) * weight[:, None])

    def gram(self, weight: Float[Tensor, "d k"]) -> Float[Tensor, "p p"]:
        """``C* W C`` as a matrix."""
        return torch.stack([self.normal(unit, weight) for unit in torch.eye(self.dimension, dtype=weight.dtype)])

    def uniform_diagonal(self, weight: Float[Tensor, "k"]) -> Float[Tensor, "p"]:
        """Diagonal of ``C* W C`` were the directions uniform with total weight ``weight[k]``."""
        columns = (self.templates(unit) for unit in torch.eye(self.dimension, dtype=weight.dtype))
        return torch.stack([(T.abs().square() * weight).sum() / len(T) for T in columns])

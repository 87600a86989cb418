"""The density of the latent group elements, directions and angles: given, or estimated together with the object."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.gridded import mixed_with_uniform


@runtime_checkable
class GroupDensity(Protocol):
    """A density on the finite group of a problem, with ``dimension`` unknowns of its own."""

    @property
    def dimension(self) -> int:
        """Number of unknowns; 0 if the density is known."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the log density, and so of the computations on templates."""
        ...

    def log(self, unknowns: Float[Tensor, "u"]) -> Float[Tensor, "d a"]:
        """The log density.

        Args:
            unknowns: (u,).

        Returns:
            Log probability (d, a) of every direction and angle; the probabilities sum to 1.
        """
        ...

    def gradient(self, unknowns: Float[Tensor, "u"], occupancy: Float[Tensor, "d a"]) -> Float[Tensor, "u"]:
        """The gradient of ``−Σ occupancy · log ρ``, the density's part of the expected complete-data likelihood.

        Args:
            unknowns: (u,) the present ones.
            occupancy: (d, a) mean posterior of the group's elements.

        Returns:
            Derivatives (u,) by the unknowns.
        """
        ...

    def updated(
        self, unknowns: Float[Tensor, "u"], occupancy: Float[Tensor, "d a"], inertia: float
    ) -> Float[Tensor, "u"]:
        """The M-step: the unknowns of greatest expected likelihood, whose density is the mean posterior (4.19).

        Args:
            unknowns: (u,) the present ones.
            occupancy: (d, a) mean posterior of the group's elements.
            inertia: weight of the present density, which is added to the mean posterior.

        Returns:
            The next unknowns, (u,).
        """
        ...


@dataclass(frozen=True, eq=False)
class KnownDensity:
    """A density that is given: ``log_density`` (d, a), whose exponentials sum to 1."""

    log_density: Float[Tensor, "d a"]
    dimension: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """That of the given values."""
        return self.log_density.dtype

    def log(self, unknowns: Float[Tensor, "u"]) -> Float[Tensor, "d a"]:
        """The given values."""
        return self.log_density

    def gradient(self, unknowns: Float[Tensor, "u"], occupancy: Float[Tensor, "d a"]) -> Float[Tensor, "u"]:
        """An empty vector, since there are no unknowns."""
        return unknowns

    def updated(
        self, unknowns: Float[Tensor, "u"], occupancy: Float[Tensor, "d a"], inertia: float
    ) -> Float[Tensor, "u"]:
        """An empty vector, since there are no unknowns."""
        return unknowns


@dataclass(frozen=True)
class EstimatedDirections:
    """A density of directions by its logits, the angle being uniform in each.

    Attributes:
        directions: d.
        angles: a.
        floor: weight of the uniform density that is mixed into every estimate, so that no direction vanishes.
        dtype: of the log density.
    """

    directions: int
    angles: int
    floor: float = 0.0
    dtype: torch.dtype = torch.float64

    @property
    def dimension(self) -> int:
        """One logit for each direction."""
        return self.directions

    def log(self, unknowns: Float[Tensor, "d"]) -> Float[Tensor, "d a"]:
        """``log softmax(logits) − log a``."""
        log_directions = unknowns.log_softmax(0).to(self.dtype) - math.log(self.angles)
        return log_directions[:, None].expand(-1, self.angles).contiguous()

    def gradient(self, unknowns: Float[Tensor, "d"], occupancy: Float[Tensor, "d a"]) -> Float[Tensor, "d"]:
        """``share · softmax − mean posterior``, with the share of observations that are no outliers."""
        return occupancy.sum() * unknowns.softmax(0) - occupancy.sum(1)

    def updated(
        self, unknowns: Float[Tensor, "d"], occupancy: Float[Tensor, "d a"], inertia: float
    ) -> Float[Tensor, "d"]:
        """Log of the mean posterior, mixed with the uniform density."""
        seen = occupancy.sum(1) + inertia * unknowns.softmax(0)
        density = mixed_with_uniform(seen, self.floor)
        return density.clamp(min=torch.finfo(density.dtype).eps).log()


@dataclass(frozen=True)
class EstimatedClasses:
    """A density of directions for each of K objects, and their shares, by the logits of all pairs.

    Attributes:
        classes: K; the elements are the d directions of the first object, of the second …
        directions: d.
        angles: a.
        floor: weight of the uniform density that is mixed into every estimate of directions.
        equal: weight of equal shares that is mixed into the estimated ones. At 1 shares stay equal, so that no object
            is given up while it is still a random one.
        dtype: of the log density.
    """

    classes: int
    directions: int
    angles: int
    floor: float = 0.0
    equal: float = 0.0
    dtype: torch.dtype = torch.float64

    @property
    def dimension(self) -> int:
        """One logit for each direction of each object."""
        return self.classes * self.directions

    @property
    def _joint(self) -> EstimatedDirections:
        return EstimatedDirections(self.dimension, self.angles, 0.0, self.dtype)

    def log(self, unknowns: Float[Tensor, "d"]) -> Float[Tensor, "d a"]:
        """``log softmax(logits) − log a`` over all pairs."""
        return self._joint.log(unknowns)

    def gradient(self, unknowns: Float[Tensor, "d"], occupancy: Float[Tensor, "d a"]) -> Float[Tensor, "d"]:
        """As :meth:`EstimatedDirections.gradient`."""
        return self._joint.gradient(unknowns, occupancy)

    def updated(
        self, unknowns: Float[Tensor, "d"], occupancy: Float[Tensor, "d a"], inertia: float
    ) -> Float[Tensor, "d"]:
        """Log of the mean posterior, object by object, with shares and directions mixed with uniform ones."""
        seen = (occupancy.sum(1) + inertia * unknowns.softmax(0)).reshape(self.classes, -1)
        seen = seen.clamp(min=torch.finfo(seen.dtype).tiny)
        shares = mixed_with_uniform(seen.sum(1), self.equal)
        views = torch.stack([mixed_with_uniform(own, self.floor) for own in seen])
        density = (shares[:, None] * views).flatten()
        return density.clamp(min=torch.finfo(density.dtype).eps).log()

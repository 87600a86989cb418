"""What is known of the group: the density of directions and angles, given, or estimated with the object."""

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
        """Of the log density, and so of the work on templates."""
        ...

    def log(self, unknowns: Float[Tensor, "u"]) -> Float[Tensor, "d a"]:
        """Log probability of every direction and angle; the probabilities sum to 1."""
        ...

    def gradient(self, unknowns: Float[Tensor, "u"], occupancy: Float[Tensor, "d a"]) -> Float[Tensor, "u"]:
        """Gradient of ``−Σ occupancy · log ρ`` for the mean posterior of the group's elements."""
        ...

    def updated(
        self, unknowns: Float[Tensor, "u"], occupancy: Float[Tensor, "d a"], inertia: float
    ) -> Float[Tensor, "u"]:
        """M-step: the unknowns that the mean posterior asks for; ``inertia`` weighs the present density."""
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
        """Empty: there is no unknown."""
        return unknowns

    def updated(
        self, unknowns: Float[Tensor, "u"], occupancy: Float[Tensor, "d a"], inertia: float
    ) -> Float[Tensor, "u"]:
        """Empty: there is no unknown."""
        return unknowns


@dataclass(frozen=True)
class EstimatedDirections:
    """A density of directions by its logits, the angle being uniform in each.

    Attributes:
        directions: d.
        angles: a.
        floor: weight of the uniform density that is mixed into every estimate, so that no direction is given up.
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
        """``softmax − mean posterior``, for an occupancy that sums to 1."""
        return unknowns.softmax(0) - occupancy.sum(1)

    def updated(
        self, unknowns: Float[Tensor, "d"], occupancy: Float[Tensor, "d a"], inertia: float
    ) -> Float[Tensor, "d"]:
        """Log of the mean posterior, mixed with the uniform density."""
        seen = occupancy.sum(1) + inertia * unknowns.softmax(0)
        density = mixed_with_uniform(seen, self.floor)
        return density.clamp(min=torch.finfo(density.dtype).eps).log()

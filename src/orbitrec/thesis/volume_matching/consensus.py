"""The mean of several solutions.

Two moments leave much of a volume open (:mod:`orbitrec.thesis.volume_matching.pseudo_atoms` counts), and what they
leave open a solution has as its start happened to lead it. In the mean over starts that part fades, while what the
moments determine stays: the mean of an ensemble is nearer to the truth than its members (Hansen and Salamon 1990).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.evaluation.alignment import Alignment, align


@runtime_checkable
class VoxelEstimate(Protocol):
    """A volume on voxels and its density of views."""

    @property
    def voxels(self) -> Float[Tensor, "n n n"]:
        """Density, (z, y, x)."""
        ...

    def view_density(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions, which should be spread evenly."""
        ...


@runtime_checkable
class RankedEstimate(VoxelEstimate, Protocol):
    """A solution; the smaller the loss the better."""

    @property
    def loss(self) -> float:
        """What ranks solutions."""
        ...


@dataclass(frozen=True, eq=False)
class Consensus:
    """The mean of members, each moved onto the best of them and then onto the mean of that.

    Attributes:
        voxels: the mean.
        members: what it is the mean of,
        alignments: and how each was moved.
    """

    voxels: Float[Tensor, "n n n"]
    members: Sequence[RankedEstimate]
    alignments: list[Alignment]

    @classmethod
    def of(cls, members: Sequence[RankedEstimate]) -> "Consensus":
        """Of at least one member."""
        mean = min(members, key=lambda member: member.loss).voxels
        alignments: list[Alignment] = []
        for _ in range(2):
            alignments = [align(member.voxels, mean) for member in members]
            moved = [one.apply(member.voxels) for one, member in zip(alignments, members, strict=True)]
            mean = torch.stack(moved).mean(0)
        return cls(mean, members, alignments)

    def view_density(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Mean of the members' probabilities of directions, which should be spread evenly."""
        unit = torch.eye(3, dtype=directions.dtype)
        pairs = zip(self.alignments, self.members, strict=True)
        # Directions of the mean are a member's, rotated; a member's density is asked for at them rotated back.
        return torch.stack([member.view_density(directions @ one.rotated(unit).mT) for one, member in pairs]).mean(0)

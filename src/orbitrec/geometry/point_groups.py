"""Point groups of rotations: cyclic Cn with its axis along z, dihedral Dn with a two-fold axis along x as well."""

import math
import re
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.rotations import rotation_vector_to_matrix

_HIGHEST_FOLD = 60


@dataclass(frozen=True)
class PointGroup:
    """Cn, or Dn if ``dihedral``, in RELION's setting."""

    fold: int = 1
    dihedral: bool = False

    @classmethod
    def named(cls, name: str) -> "PointGroup":
        """The group of a name such as C4 or D2.

        Raises:
            InputError: if no group has that name.
        """
        found = re.fullmatch(r"([CcDd])(\d{1,2})", name.strip())
        if found is None or not 1 <= int(found[2]) <= _HIGHEST_FOLD or found[0].upper() == "D1":
            raise InputError(f"there is no point group {name!r} here; give C1, C2, C3 … or D2, D3 …")
        return cls(int(found[2]), found[1].upper() == "D")

    def __str__(self) -> str:
        return f"{'D' if self.dihedral else 'C'}{self.fold}"

    @property
    def order(self) -> int:
        """Number of rotations."""
        return self.fold * (2 if self.dihedral else 1)

    def matrices(self) -> Float[Tensor, "g 3 3"]:
        """All rotations of the group, the identity first (float64)."""
        vectors = torch.zeros(self.fold, 3, dtype=torch.float64)
        vectors[:, 2] = 2 * math.pi / self.fold * torch.arange(self.fold, dtype=torch.float64)
        about_z = rotation_vector_to_matrix(vectors)
        if not self.dihedral:
            return about_z
        return torch.cat([about_z, about_z @ torch.diag(about_z.new_tensor([1.0, -1.0, -1.0]))])


NO_SYMMETRY = PointGroup()
"""C1, the group of the identity alone."""

"""The finite groups of rotations: Cn, Dn, T, O and I, with their axes where RELION has them.

A group is what the rotations about two of its axes generate. Molecules are chiral, so no group has mirrors.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.rotations import rotation_vector_to_matrix

_HIGHEST_FOLD = 60
_GOLDEN = (1 + math.sqrt(5)) / 2
_SAME = 1e-6


class Axis(NamedTuple):
    """An axis of rotation.

    Attributes:
        fold: n of the smallest rotation about it, 2π/n.
        direction: a vector along it, x, y, z, of any length.
    """

    fold: int
    direction: tuple[float, float, float]

    def unit(self) -> Float[Tensor, "3"]:
        """The unit vector along it (float64)."""
        return torch.nn.functional.normalize(torch.tensor(self.direction, dtype=torch.float64), dim=0)

    def rotation(self) -> Float[Tensor, "3 3"]:
        """The rotation by 2π/n about it."""
        return rotation_vector_to_matrix(2 * math.pi / self.fold * self.unit())


_Z = (0.0, 0.0, 1.0)
_POLYHEDRAL = {
    "T": (Axis(3, _Z), Axis(2, (0.0, math.sqrt(2), 1.0))),
    "O": (Axis(4, _Z), Axis(3, (1.0, 1.0, 1.0))),
    "I1": (Axis(5, (_GOLDEN, 0.0, -1.0)), Axis(3, (_GOLDEN**2, 1.0, 0.0))),
    "I2": (Axis(5, (_GOLDEN, 1.0, 0.0)), Axis(3, (1.0, _GOLDEN**2, 0.0))),
    "I3": (Axis(5, _Z), Axis(2, (-1.0, 0.0, _GOLDEN))),
    "I4": (Axis(5, _Z), Axis(2, (1.0, 0.0, _GOLDEN))),
}
_POLYHEDRAL["I"] = _POLYHEDRAL["I2"]
_MIRRORED = re.compile(r"([CD]\d+)[VH]|([TOI][1-4]?)[HD]|S\d+|CI|CS")


@dataclass(frozen=True)
class PointGroup:
    """A group of rotations that leave a particle as it is.

    Attributes:
        name: RELION's.
        axes: those whose rotations generate the group: the axis of highest fold, and another unless it is the only one.
    """

    name: str = "C1"
    axes: tuple[Axis, ...] = ()

    @classmethod
    def cyclic(cls, fold: int) -> "PointGroup":
        """Cn, with its axis along z."""
        return cls(f"C{fold}", (Axis(fold, _Z),) if fold > 1 else ())

    @classmethod
    def dihedral(cls, fold: int) -> "PointGroup":
        """Dn, with its axis along z and a two-fold one along x."""
        return cls(f"D{fold}", (Axis(fold, _Z), Axis(2, (1.0, 0.0, 0.0))))

    @classmethod
    def named(cls, name: str) -> "PointGroup":
        """The group of a name such as C4, D2, O or I1; I is I2, as for RELION.

        Raises:
            InputError: if no group of rotations has that name.
        """
        given = name.strip().upper()
        if given in _POLYHEDRAL:
            return cls(given, _POLYHEDRAL[given])
        mirrored = _MIRRORED.fullmatch(given)
        if mirrored is not None:
            rotations = mirrored[1] or mirrored[2]
            advice = f"give the group of its rotations, {rotations}" if rotations else "give a group of rotations"
            raise InputError(f"{name!r} has mirror images in it, and molecules have a hand; {advice}")
        found = re.fullmatch(r"([CD])(\d{1,2})", given)
        if found is None or not 1 <= int(found[2]) <= _HIGHEST_FOLD or given == "D1":
            raise InputError(
                f"there is no point group {name!r} here; give C1, C2, C3 … or D2, D3 … up to {_HIGHEST_FOLD}, T, O or I"
            )
        return cls.dihedral(int(found[2])) if found[1] == "D" else cls.cyclic(int(found[2]))

    def __str__(self) -> str:
        return self.name

    @property
    def order(self) -> int:
        """Number of rotations."""
        return len(self._matrices)

    @property
    def polyhedral(self) -> bool:
        """Whether it is T, O or I: no axis is at right angles to all others or alone."""
        return self.name in _POLYHEDRAL

    def generators(self) -> list[Float[Tensor, "3 3"]]:
        """The smallest rotations about the group's axes."""
        return [axis.rotation() for axis in self.axes]

    def matrices(self) -> Float[Tensor, "g 3 3"]:
        """All rotations of the group, the identity first (float64)."""
        return self._matrices.clone()

    @cached_property
    def _matrices(self) -> Float[Tensor, "g 3 3"]:
        found = [torch.eye(3, dtype=torch.float64)]
        for element in found:  # the list grows while products are new: breadth first
            for generator in self.generators():
                product = element @ generator
                if float((torch.stack(found) - product).abs().amax((1, 2)).min()) > _SAME:
                    found.append(product)
        return torch.stack(found)

    def nearest_normalising(self, rotation: Float[Tensor, "3 3"], *, mirrored: bool = False) -> Float[Tensor, "3 3"]:
        """The rotation Q nearest to a given one that moves the group's axes on to its axes, ``Q G Q⁻¹ = G``.

        Two maps that have the group in its standard setting differ by such a rotation. About z there are all, and those
        after a half turn about x, for Cn; for the others a finite group, such as O for T.

        Args:
            rotation: near such a rotation.
            mirrored: whether Q follows the mirror x → −x, as in :mod:`orbitrec.evaluation.alignment`.
        """
        if self.order == 1:
            return rotation
        turned = torch.diag(rotation.new_tensor([1.0, -1.0, -1.0]))
        if self.name.startswith("C"):
            over = turned if float(rotation[2, 2]) < 0 else torch.eye(3).to(rotation)
            about = rotation @ over
            angle = torch.atan2(about[1, 0] - about[0, 1], about[0, 0] + about[1, 1])
            return rotation_vector_to_matrix(angle * rotation.new_tensor(_Z)) @ over
        # x → −x takes the axes of I3 to those of I4, and a half turn about x takes them back.
        after = turned if mirrored and self.name in {"I3", "I4"} else torch.eye(3).to(rotation)
        found = self._normaliser().matrices().to(rotation) @ after
        return found[int((found * rotation).sum((1, 2)).argmax())]

    def _normaliser(self) -> "PointGroup":
        """Of T, O, I and Dn, in the same setting."""
        if self.name == "D2":
            return PointGroup.named("O")
        if self.name == "T":
            return PointGroup("O about T's axes", (Axis(3, _Z), Axis(4, self.axes[1].direction)))
        return self if self.polyhedral else PointGroup.dihedral(2 * self.axes[0].fold)

    def stepwise(self) -> tuple[Float[Tensor, "h 3 3"], Float[Tensor, "c 3 3"]]:
        """The group in two steps: every element is ``h c`` for one h and one c.

        The h permute the axes x, y, z up to signs, so they map a cubic lattice to itself, and sums over them need no
        interpolation.

        Returns:
            The subgroup of such h, with whole entries, and one c of each coset.
        """
        group = self._matrices
        whole = (group - group.round()).abs().amax((1, 2)) < _SAME
        lattice, cosets = group[whole].round(), []
        for element in group:
            reached = [lattice @ other for other in cosets]
            if not any(float((each - element).abs().amax((1, 2)).min()) < _SAME for each in reached):
                cosets.append(element)
        return lattice, torch.stack(cosets)


NO_SYMMETRY = PointGroup()
"""C1, the group of the identity alone."""

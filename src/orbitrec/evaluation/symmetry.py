"""The symmetry of a map: where its axes are, and how symmetric about them it is."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.evaluation.alignment import Alignment
from orbitrec.evaluation.rigid_fit import Candidates, RigidFit
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import rotation_vector_to_matrix

_AXES_DEGREE = 30
"""Degree of the design of axes that are tried: some 500 directions, 9° apart."""
_AROUND = 120
"""Places of a second axis about the first that are tried."""
_SAME_ANGLE = math.radians(10)
_CYCLES = (6, 12)


@dataclass(frozen=True)
class Axes:
    """How a map is brought to a group's standard setting: ``v(Rᵀ(x − s))`` has its axes where the group has them.

    Attributes:
        rotation: R.
        shift_px: s in voxels, x, y, z.
        score: mean correlation of the map's shells up to 12 cycles per box with those of its rotated copies, weighted
            by their points: near 0 without symmetry. A perfectly symmetric map has 1 only if it has content in all
            these shells: those without count as 0.
    """

    rotation: Float[Tensor, "3 3"]
    shift_px: Float[Tensor, "3"]
    score: float

    def standard(self, volume: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
        """The map in the group's setting."""
        return Alignment(self.rotation, self.shift_px, False, 1.0).apply(volume)


def find_axes(volume: Float[Tensor, "n n n"], group: PointGroup) -> Axes:
    """The axes about which a map is most nearly symmetric.

    Every axis of a design is scored by the map's copy rotated by 2π/f about it, at the best shift (f is the fold of the
    group's first axis), and the best are refined. The second axis is then looked for at its angle to the first.

    Args:
        volume: the map, (n, n, n), z, y, x.
        group: the point group, not C1.

    Returns:
        The motion to the group's standard setting, and how symmetric the map is.
    """
    n = len(volume)
    fits = _fits(volume)
    directions = spherical_design(_AXES_DEGREE)
    first, *others = group.axes
    main, rotation, shift = _best(fits, directions[: len(directions) // 2], 2 * math.pi / first.fold)
    rotations, shifts, across = [rotation], [shift], torch.linalg.svd(main[None]).Vh[1:]
    second, unit = across[0], first.unit()
    target = torch.linalg.svd(unit[None]).Vh[1]
    for other in others:
        target, cosine = other.unit(), float(unit @ other.unit())
        around = 2 * math.pi / _AROUND * torch.arange(_AROUND, dtype=torch.float64)
        ring = torch.stack([around.cos(), around.sin()], dim=1) @ across
        ring = cosine * main + math.sqrt(1 - cosine**2) * ring
        second, rotation, shift = _best(fits, ring, 2 * math.pi / other.fold)
        second = second if cosine < 1e-6 or float(second @ main) > 0 else -second
        rotations, shifts = [*rotations, rotation], [*shifts, shift]
    standard = _frame(unit, target).mT @ _frame(main, second)
    # A rotation Q about an axis through p moves the map by (1 − Q) p.
    stacked = torch.cat([torch.eye(3, dtype=torch.float64) - each for each in rotations])
    centre = torch.linalg.pinv(stacked, rtol=1e-3) @ torch.cat(shifts)
    return Axes(standard, -n * standard @ centre, _score(fits[-1], group, standard, centre))


def symmetrised(volume: Float[Tensor, "n n n"], group: PointGroup, axes: Axes | None = None) -> Float[Tensor, "n n n"]:
    """The mean of a map's rotated copies.

    Args:
        volume: the map.
        group: the point group.
        axes: where the map has the group's axes; in the standard setting if None.

    Returns:
        The map's average over the group, in the map's own place.
    """
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    rotation, shift = (eye, zero) if axes is None else (axes.rotation, axes.shift_px)
    total = torch.zeros_like(volume)
    for element in group.matrices():
        # To the standard setting, rotated there, and back: x → Rᵀ g (R x + s) − Rᵀ s.
        copy = rotation.mT @ element @ rotation
        total += Alignment(copy, rotation.mT @ (element @ shift - shift), False, 1.0).apply(volume)
    return total / group.order


def symmetry_score(volume: Float[Tensor, "n n n"], group: PointGroup) -> float:
    """How symmetric a map is about the axes of a group in its standard setting: :attr:`Axes.score`."""
    centre = torch.zeros(3, dtype=torch.float64)
    return _score(_fits(volume)[-1], group, torch.eye(3, dtype=torch.float64), centre)


def _fits(volume: Float[Tensor, "n n n"]) -> list[RigidFit]:
    return [RigidFit.of(volume, volume, min(cycles, len(volume) // 2 - 1)) for cycles in _CYCLES]


def _frame(main: Float[Tensor, "3"], second: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Rows: the part of the second vector at right angles to the main one, their product, the main one."""
    x = second - (second @ main) * main
    x = x / x.norm()
    return torch.stack([x, torch.linalg.cross(main, x), main])


def _best(
    fits: list[RigidFit], axes: Float[Tensor, "a 3"], angle: float
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Axis, rotation and shift (in boxes) of the rotated copy that agrees best, about an axis near one of ``axes``."""
    found = fits[0].scan(rotation_vector_to_matrix(angle * axes), handedness=False).best_of_each_handedness(6)
    start = found
    for fit in fits:
        found = fit.refined(found)
    cosine = (found.matrix.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    # The refinement may have gone to the identity, which fits every map.
    stayed = (cosine.clamp(-1, 1).acos() - angle).abs() < _SAME_ANGLE
    found = Candidates(
        torch.where(stayed[:, None, None], found.matrix, start.matrix),
        torch.where(stayed[:, None], found.shift, start.shift),
        torch.where(stayed, found.score, -math.inf),
    )
    agreement = fits[-1].agreement(found.matrix, found.shift)
    best = int(torch.where(stayed, agreement, agreement - 2).argmax())
    Q = found.matrix[best]
    axis = torch.linalg.eigh((Q + Q.mT) / 2).eigenvectors[:, -1]  # of the eigenvalue 1
    return axis, rotation_vector_to_matrix(_sense(Q, axis) * angle * axis), found.shift[best]


def _sense(Q: Float[Tensor, "3 3"], axis: Float[Tensor, "3"]) -> float:
    """1 if the rotation is right-handed about its axis, else −1."""
    skew = torch.stack([Q[2, 1] - Q[1, 2], Q[0, 2] - Q[2, 0], Q[1, 0] - Q[0, 1]])
    return 1.0 if float(skew @ axis) >= 0 else -1.0


def _score(
    fit: RigidFit, group: PointGroup, standard: Float[Tensor, "3 3"], centre: Float[Tensor, "3"]
) -> float:  # fmt: skip
    copies = standard.mT @ group.matrices()[1:] @ standard
    return float(fit.agreement(copies, centre - copies @ centre).mean())

"""The fit of one map to another at one resolution: a scan of rotations, then Levenberg–Marquardt in six parameters.

Lengths are in boxes and frequencies in cycles per box here, so that nothing depends on how finely a map is sampled:
a candidate is an orthogonal matrix Q (determinant −1 for a mirrored map) and a shift t, and predicts the reference's
transform at the lattice point j as ``e^{-2πi j·t} v̂(Qᵀj)`` times an unknown scale per shell.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.grids import pixels, radii, shell_indices
from orbitrec.geometry.rotations import geodesic_distance, rotation_vector_to_matrix
from orbitrec.optim.levenberg_marquardt import Damping, LocalModel, Point, minimise
from orbitrec.volumes.voxel import VoxelVolume

_SHIFT_GRID = 16  # points of the scan's shift grid along an axis; holds ±7 cycles
_CHUNK = 256
_STEPS = 12
_DISTINCT = math.radians(20)
_FLOOR = 1e-6  # of 1 − FSC²: what single precision resolves
_SETTLED = 1e-3  # of the log-likelihood: 0.05 standard errors
_DAMPING = Damping(start=1e-3, floor=1.0)  # the floor only keeps the matrix regular where maps have nothing in common


@dataclass(frozen=True)
class Candidates:
    """Orthogonal matrices Q, shifts t in boxes (xyz) and their scores; larger is better."""

    matrix: Float[Tensor, "c 3 3"]
    shift: Float[Tensor, "c 3"]
    score: Float[Tensor, "c"]

    @staticmethod
    def identity() -> "Candidates":
        """The one candidate that does not move the map."""
        one = torch.eye(3, dtype=torch.float64)[None]
        return Candidates(one, torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))

    def __getitem__(self, index: Tensor) -> "Candidates":
        return Candidates(self.matrix[index], self.shift[index], self.score[index])

    def best_of_each_handedness(self, keep: int) -> "Candidates":
        """The ``keep`` best proper and the ``keep`` best improper candidates, best first, no two within 20°."""
        proper = torch.linalg.det(self.matrix) > 0
        return self[torch.cat([self._distinct(chosen, keep) for chosen in (proper, ~proper)])]

    def _distinct(self, chosen: Tensor, keep: int) -> Int[Tensor, "..."]:
        order = self.score.argsort(descending=True)
        order = order[chosen[order]]
        kept: list[int] = []
        while len(order) and len(kept) < keep:
            kept.append(int(order[0]))
            order = order[geodesic_distance(self.matrix[order], self.matrix[kept[-1]]) > _DISTINCT]
        return torch.tensor(kept, dtype=torch.long)


@dataclass(frozen=True)
class RigidFit:
    """Two maps of one box, compared on the reference's lattice points up to ``cycles``.

    Only half of the lattice is kept (j_x ≥ 0); ``weight`` counts the other half of a real map's transform.

    Attributes:
        moving: the map to move, band-limited to little more than ``cycles``.
        reference: the reference's transform at the lattice points.
        jacobian: its derivative when the reference is rotated by a rotation vector and shifted.
        lattice: the points j in xyz order, without the origin.
        shell: round(|j|) − 1.
        weight: 2, and 1 on the plane j_x = 0, which holds its own mirror image.
    """

    moving: VoxelVolume
    reference: Complex[Tensor, "k"]
    jacobian: Complex[Tensor, "k 6"]
    lattice: Int[Tensor, "k 3"]
    shell: Int[Tensor, "k"]
    weight: Float[Tensor, "k"]

    @staticmethod
    def of(moving: Float[Tensor, "n n n"], reference: Float[Tensor, "n n n"], cycles: int) -> "RigidFit":
        """The fit of two maps on the same grid, in single precision.

        The derivative of the reference's transform is the transform of ``−i x v(x)``.

        Args:
            moving: the map to move, (n, n, n), z, y, x.
            reference: the map that stays, (n, n, n).
            cycles: highest frequency used, in cycles per box; less than ``n // 2``.

        Returns:
            The fit, at no position yet.
        """
        n = reference.shape[0]
        axis = torch.arange(-cycles, cycles + 1)
        lattice = torch.cartesian_prod(axis[cycles:], axis, axis)
        radius, shell = (values[cycles:].flatten() for values in (radii(len(axis), 3), shell_indices(len(axis), 3)))
        ball = (radius > 0) & (radius <= cycles)
        lattice, shell = lattice[ball], shell[ball] - 1
        x = pixels(n, reference.dtype)
        moments = torch.stack([reference, reference * x, reference * x[:, None], reference * x[:, None, None]])
        value, *slopes = centred_fft(moments.float(), ndim=3)[:, *(lattice + n // 2).flip(1).unbind(1)]
        gradient = 2 * math.pi / n * torch.stack([-1j * slope for slope in slopes], dim=-1)
        in_rotation = torch.linalg.cross(gradient, lattice.to(gradient.dtype))
        in_shift = -2j * math.pi * value[:, None] * lattice
        # Four cycles to spare keep the band limit's ripple away from the points that are used.
        coarse = VoxelVolume(moving.float()).resampled(min(n, 2 * (cycles + 4)))
        weight = 1.0 + (lattice[:, 0] > 0).float()
        return RigidFit(coarse, value, torch.cat([in_rotation, in_shift], dim=-1), lattice, shell, weight)

    def scan(self, rotations: Float[Tensor, "r 3 3"], handedness: bool) -> Candidates:
        """All given rotations, each at the best shift of a coarse grid.

        The score is ``Σ_s N_s FSC_s``: shells are scaled to equal power per point, so that the low frequencies, which
        all orientations share, do not hide the differences.

        Args:
            rotations: to try, (r, 3, 3).
            handedness: try their negatives, the mirrored map, as well.

        Returns:
            One candidate for each, in no particular order.
        """
        count = self._sum(self.weight)
        target = self.reference * (count / self._power(self.reference)).sqrt()[self.shell]
        z, y, x = (self.lattice.flip(1) % _SHIFT_GRID).unbind(1)
        signs = (1, -1) if handedness else (1,)
        found = []
        for rotated in rotations.split(_CHUNK):
            moved = self.moving.fourier(self._points(rotated))
            moved = moved * (count / self._power(moved)).sqrt()[..., self.shell]
            for sign in signs:
                spectrum = moved.new_zeros(len(rotated), _SHIFT_GRID, _SHIFT_GRID, _SHIFT_GRID // 2 + 1)
                spectrum[:, z, y, x] = target * (moved.conj() if sign > 0 else moved)
                score, at = torch.fft.irfftn(spectrum, dim=(1, 2, 3), norm="forward").flatten(1).max(1)
                grid = torch.stack(torch.unravel_index(at, (_SHIFT_GRID,) * 3)[::-1], dim=1)
                shift = (grid.double() / _SHIFT_GRID + 0.5) % 1 - 0.5
                found.append(Candidates(sign * rotated, shift, score.double()))
        return Candidates(
            torch.cat([c.matrix for c in found]),
            torch.cat([c.shift for c in found]),
            torch.cat([c.score for c in found]),
        )

    def agreement(self, matrix: Float[Tensor, "c 3 3"], shift: Float[Tensor, "c 3"]) -> Float[Tensor, "c"]:
        """The mean over all lattice points of their shell's correlation, which is 0 where a shell has no power."""
        moved = self._transform(matrix, shift)
        cross = self._sum(self.weight * (moved.conj() * self.reference).real)
        correlation = cross / (self._power(moved) * self._power(self.reference)).sqrt()
        count = self._sum(self.weight)
        return (correlation * count).sum(-1) / count.sum()

    def refined(self, start: Candidates) -> Candidates:
        """Candidates of greater likelihood near the given ones, by Levenberg–Marquardt on all of them at once.

        The score is ``−½ Σ_s N_s log(1 − FSC_s²)``, the log-likelihood of the reference given the moved map when every
        shell has its own unknown scale and white noise, both at their best values. It needs neither the noise level nor
        the sharpening.
        """

        def model(candidate: Point) -> LocalModel:
            score, normal, slope = self._linearised(*candidate)
            return LocalModel(-score, -slope, normal)

        place = (start.matrix, start.shift)
        (matrix, shift), misfit = minimise(model, _moved, place, steps=_STEPS, damping=_DAMPING, settled=_SETTLED)
        return Candidates(matrix, shift, -misfit)

    def _linearised(
        self, matrix: Float[Tensor, "c 3 3"], shift: Float[Tensor, "c 3"]
    ) -> tuple[Float[Tensor, "c"], Float[Tensor, "c 6 6"], Float[Tensor, "c 6"]]:
        """Score, Gauss–Newton matrix and gradient in a further (rotation vector, shift) of the moved map."""
        moved = self._transform(matrix, shift)
        count, power, target = self._sum(self.weight), self._power(moved), self._power(self.reference)
        cross = self._sum(self.weight * (moved.conj() * self.reference).real).clamp(min=0)
        unexplained = (1 - cross.square() / (power * target)).clamp(min=_FLOOR)
        scale, precision = (cross / target)[..., self.shell], (count / (power * unexplained))[..., self.shell]
        root = (self.weight * precision).sqrt()
        residual = torch.view_as_real(root * (scale * self.reference - moved)).flatten(1)
        rows = torch.view_as_real((root * scale)[..., None] * self.jacobian).transpose(2, 3).flatten(1, 2)
        return -0.5 * (count * unexplained.log()).sum(-1), rows.mT @ rows, (rows.mT @ residual[..., None]).squeeze(-1)

    def _transform(self, matrix: Float[Tensor, "c 3 3"], shift: Float[Tensor, "c 3"]) -> Complex[Tensor, "c k"]:
        """The moved map's transform at the lattice points, ``e^{-2πi j·t} v̂(Qᵀj)``."""
        phase = (-2j * math.pi * (self.lattice.double() @ shift[..., None]).squeeze(-1)).exp()
        return phase.to(torch.complex64) * self.moving.fourier(self._points(matrix))

    def _points(self, matrix: Float[Tensor, "c 3 3"]) -> Float[Tensor, "c k 3"]:
        """``Qᵀj`` as radians per pixel of the moving map."""
        return (2 * math.pi / self.moving.n * (self.lattice.to(matrix.dtype) @ matrix)).to(self.moving.grid.dtype)

    def _power(self, values: Complex[Tensor, "... k"]) -> Float[Tensor, "... s"]:
        """Power per shell, never zero."""
        return self._sum(self.weight * values.abs().square()).clamp(min=1e-30)

    def _sum(self, values: Float[Tensor, "... k"]) -> Float[Tensor, "... s"]:
        """Sum over the points of each shell, in double precision."""
        shells = int(self.shell.max()) + 1
        out = torch.zeros(*values.shape[:-1], shells, dtype=torch.float64)
        return out.index_add_(-1, self.shell, values.double())


def _moved(place: Point, step: Float[Tensor, "c 6"]) -> Point:
    """Candidates rotated further by a rotation vector, then shifted."""
    (matrix, shift), small = place, rotation_vector_to_matrix(step[:, :3])
    return small @ matrix, (small @ shift[..., None]).squeeze(-1) + step[:, 3:]

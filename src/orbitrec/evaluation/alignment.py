"""Alignment of two maps over rotation, shift and handedness.

Both maps are compared on the reference's Fourier lattice, where nothing of the reference is interpolated: for an
orthogonal matrix Q and a shift s the moved map has the transform ``e^{-ik·s} v̂(Qᵀk)``, exact by a non-uniform FFT.
A mirrored copy costs nothing more, since ``v̂(−k)`` is the conjugate of ``v̂(k)`` for a real map.

The search is in two parts. At low resolution every rotation of a quasi-uniform grid on SO(3) is scored for both
handednesses at all shifts at once, by one small FFT: neither the shift nor a centre of mass has to be known first (a
map whose mean is near zero has no usable one). The best distinct candidates are then refined by Levenberg–Marquardt in
all six parameters at rising resolution, and the best of both handednesses is kept.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.evaluation.rigid_fit import Candidates, RigidFit
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import frequency_vectors, radii
from orbitrec.geometry.rotations import quaternion_to_matrix
from orbitrec.volumes.voxel import VoxelVolume

# Resolutions of the search, in cycles per box, and the candidates of each handedness that enter each of them. With six
# cycles and 2304 rotations (about 19° apart) refinement can reach every peak.
_FLATTENING_CYCLES = 6
_CYCLES = (6, 12, 24)
_CANDIDATES = (8, 3, 1)
_ROTATIONS = 2304


@dataclass(frozen=True)
class Alignment:
    """How a map is moved onto a reference: mirror first, then rotate, then shift.

    ``aligned(x) = moving(F Rᵀ (x − s))`` with ``R = rotation``, ``s = shift_px`` and ``F = diag(−1, 1, 1)`` for a
    mirrored map (x → −x), the identity otherwise; x, s and the columns R acts on are in xyz order, in pixels from the
    origin at index ``n // 2``.

    Attributes:
        rotation: R, a proper rotation.
        shift_px: s, in pixels of the maps that were aligned.
        mirrored: whether the two maps are of opposite handedness.
        correlation: Pearson correlation of the aligned map with the reference over the whole box.
    """

    rotation: Float[Tensor, "3 3"]
    shift_px: Float[Tensor, "3"]
    mirrored: bool
    correlation: float

    def apply(self, volume: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
        """The volume moved onto the reference, by trigonometric interpolation.

        Beyond its box a map is taken to have its background's value, the median; frequencies that the rotation takes
        from outside the Nyquist cube are zero.
        """
        return _moved(volume, self.rotation @ _mirror(self.mirrored), self.shift_px, volume.shape[0])

    def rotated(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d 3"]:
        """The viewing directions (d, 3) of the moving map as directions of the aligned one.

        A map that is reflected in the origin has the same views, each rotated by 180° in its plane. So the directions
        of a mirrored map are transformed by the negative of the reflection.
        """
        matrix = (self.rotation @ _mirror(self.mirrored)).to(directions)
        return directions @ (-matrix if self.mirrored else matrix).mT


def align(
    moving: Float[Tensor, "_ _ _"],
    reference: Float[Tensor, "_ _ _"],
    *,
    handedness: bool = True,
    search: bool = True,
) -> Alignment:
    """The rotation, shift and reflection that bring one map onto another.

    Maximises the likelihood of the reference when every Fourier shell of the moved map has its own unknown scale and
    white noise, ``−½ Σ_s N_s log(1 − FSC_s²)`` with N_s lattice points in shell s. So neither sharpening, noise nor the
    overall scale of either map matters. Contrast does: a map and its negative are not aligned, since the FSC has to be
    positive.

    Args:
        moving: the map to move, (n, n, n), z, y, x, on the reference's grid (:func:`resampled` brings it there).
        reference: the map that stays, (n, n, n).
        handedness: consider the mirrored map as well.
        search: try all rotations. Without it the fit starts from where the maps are, which finds small motions only.

    Returns:
        The motion; its ``apply`` moves a map, its ``correlation`` says how well the maps agree.

    Raises:
        InputError: if the maps are not cubes of one size of at least 8 voxels, or one of them is constant.
    """
    n = reference.shape[0]
    if moving.shape != reference.shape or reference.shape != (n, n, n) or n < 8:
        raise InputError(
            f"maps to align must be cubes of one size of at least 8 voxels, not {tuple(moving.shape)} and "
            f"{tuple(reference.shape)}; resample one of them first"
        )
    for name, grid in (("moving", moving), ("reference", reference)):
        if not float(grid.std()) > 0:
            raise InputError(f"the {name} map is constant or not finite and cannot be aligned; check the file")

    source, target = _standardised(moving), _flattened(_standardised(reference))
    fits = [RigidFit.of(source, target, min(cycles, n // 2 - 1)) for cycles in _CYCLES]
    found = fits[0].scan(_super_fibonacci(_ROTATIONS), handedness) if search else Candidates.identity()
    for fit, keep in zip(fits, _CANDIDATES, strict=True):
        found = fit.refined(found.best_of_each_handedness(keep))
    best = int(found.score.argmax())
    matrix, shift = found.matrix[best], found.shift[best] * n
    mirrored = bool(torch.linalg.det(matrix) < 0)
    aligned = _moved(moving, matrix, shift, n)
    correlation = torch.corrcoef(torch.stack([aligned.flatten(), reference.flatten()]))[0, 1]
    return Alignment(matrix @ _mirror(mirrored), shift, mirrored, float(correlation))


def resampled(
    volume: Float[Tensor, "m m m"], voxel_size_A: float, n: int, new_voxel_size_A: float
) -> Float[Tensor, "n n n"]:
    """A map on a grid of another size and voxel size, band-limited, with its integral kept.

    A field of view larger than the new one is first cut around the origin; a smaller one is padded with the background.
    Frequencies beyond the old Nyquist limit are zero. The ratio of the voxel sizes need not be a whole number.

    Args:
        volume: the map, (m, m, m).
        voxel_size_A: its voxel size in Å.
        n: voxels along an edge of the new grid.
        new_voxel_size_A: its voxel size in Å.

    Returns:
        The map on the new grid, (n, n, n).
    """
    scale = voxel_size_A / new_voxel_size_A
    field = min(volume.shape[0], math.ceil(n / scale))
    cut = VoxelVolume(volume).to_grid(field)
    return _moved(cut, scale * torch.eye(3, dtype=volume.dtype), volume.new_zeros(3), n)


def _moved(
    volume: Float[Tensor, "m m m"], matrix: Float[Tensor, "3 3"], shift_px: Float[Tensor, "3"], n: int
) -> Float[Tensor, "n n n"]:
    """The map ``v(A⁻¹(x − s)) / |det A|`` on n³ voxels: its transform is ``e^{-ik·s} v̂(Aᵀk)``."""
    matrix, shift_px = matrix.to(volume.dtype), shift_px.to(volume.dtype)
    background = volume.median()
    points = frequency_vectors(n, 3, volume.dtype)
    rotated = points @ matrix
    inside = (rotated.abs() <= math.pi * (1 + 1e-6)).all(-1)
    phase = -points[inside] @ shift_px
    spectrum = torch.zeros(n, n, n, dtype=torch.complex(phase, phase).dtype)
    values = VoxelVolume(volume - background).fourier(rotated[inside]) / n**1.5
    spectrum[inside] = torch.polar(torch.ones_like(phase), phase) * values
    return centred_ifft(spectrum, ndim=3).real + background / torch.linalg.det(matrix).abs()


def _standardised(volume: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
    """The map with zero background, so that a rotated box has no edges, and unit variance, for single precision."""
    return (volume - volume.median()) / volume.std()


def _flattened(volume: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
    """The map with its solvent weighted down where its local power P is no more than the background's, b.

    Noise far from the origin changes fastest when a map is rotated, so it would dominate the likelihood's curvature and
    slow the refinement down. The factor ``1/(1 + (3b/P)⁴)`` does not change a map without noise. b is the median of P,
    since a particle fills less than half of its box.
    """
    n = volume.shape[0]
    blur = torch.exp(-0.5 * (radii(n, 3, volume.dtype) / _FLATTENING_CYCLES).square())
    smooth = centred_ifft(blur * centred_fft(volume - volume.mean(), 3), 3).real
    power = centred_ifft(blur * centred_fft(smooth.square(), 3), 3).real.clamp(min=0)
    background = 3 * power.median() / power.clamp(min=torch.finfo(power.dtype).tiny)
    return volume / (1 + background.pow(4))


def _mirror(mirrored: bool) -> Float[Tensor, "3 3"]:
    """Reflection x → −x for a mirrored map, the identity otherwise."""
    return torch.diag(torch.tensor([-1.0 if mirrored else 1.0, 1.0, 1.0], dtype=torch.float64))


def _super_fibonacci(count: int) -> Float[Tensor, "count 3 3"]:
    """Quasi-uniform rotations: super-Fibonacci spirals (Alexa, CVPR 2022, algorithm 1)."""
    s = torch.arange(count, dtype=torch.float64) + 0.5
    inner, outer = (s / count).sqrt(), (1 - s / count).sqrt()
    alpha, beta = 2 * math.pi * s / math.sqrt(2), 2 * math.pi * s / 1.533751168755204288118041413
    return quaternion_to_matrix(
        torch.stack([inner * alpha.sin(), inner * alpha.cos(), outer * beta.sin(), outer * beta.cos()], dim=-1)
    )

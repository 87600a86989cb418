"""Alignment of two maps over rotation, shift and hand.

Both maps are compared on the reference's Fourier lattice, where nothing of the reference is interpolated: for an
orthogonal matrix Q and a shift s the moved map has the transform ``e^{-ik·s} v̂(Qᵀk)``, exact by a non-uniform FFT.
A mirrored copy costs nothing more, since ``v̂(−k)`` is the conjugate of ``v̂(k)`` for a real map.

The search is in two parts. At low resolution every rotation of a quasi-uniform grid on SO(3) is scored for both hands
at all shifts at once, by one small FFT: neither the shift nor a centre of mass has to be known first (a map whose mean
is near zero has no usable one). The best distinct candidates then climb the likelihood by Gauss–Newton in all six
parameters at rising resolution, and the best of both hands is kept.
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

# Resolutions of the search, in cycles per box, and the candidates of each hand that enter each of them. Six cycles and
# 2304 rotations (about 19° apart) leave every peak within reach of the climb.
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
        mirrored: whether the two maps are of opposite hands.
        correlation: Pearson correlation of the aligned map with the reference over the whole box.
    """

    rotation: Float[Tensor, "3 3"]
    shift_px: Float[Tensor, "3"]
    mirrored: bool
    correlation: float

    def apply(self, volume: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
        """The volume moved onto the reference, interpolated exactly (trigonometrically).

        Beyond its box the map goes on at its background, the median; frequencies that the rotation takes from outside
        the Nyquist cube are zero.
        """
        return _moved(volume, self.rotation @ _mirror(self.mirrored), self.shift_px, volume.shape[0])

    def rotated(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d 3"]:
        """Viewing directions of the moving map as directions of the aligned one.

        A map reflected in the origin has the same views, each rotated by 180° in its plane, so a mirrored map's
        directions go with the reflection's negative.
        """
        matrix = (self.rotation @ _mirror(self.mirrored)).to(directions)
        return directions @ (-matrix if self.mirrored else matrix).mT


def align(
    moving: Float[Tensor, "..."], reference: Float[Tensor, "..."], *, hand: bool = True, search: bool = True
) -> Alignment:
    """Rotation, shift and (if ``hand``) mirror that bring ``moving`` onto ``reference``.

    Maximises the likelihood of shells with unknown scale and noise, ``−½ Σ_s N_s log(1 − FSC_s²)`` (N_s lattice points
    in shell s), so neither sharpening nor noise of either map matters, and the maps' overall scale does not either.
    Maps of opposite contrast are not aligned: the FSC has to be positive.

    Args:
        moving: the map to move, (n, n, n) in z, y, x order, on the reference's grid.
        reference: the map that stays.
        hand: try the mirrored map as well.
        search: look at every rotation; without it the fit climbs from where the maps are, which is for small drifts.

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
    found = fits[0].scan(_super_fibonacci(_ROTATIONS), hand) if search else Candidates.identity()
    for fit, keep in zip(fits, _CANDIDATES, strict=True):
        found = fit.refined(found.best_of_each_hand(keep))
    best = int(found.score.argmax())
    matrix, shift = found.matrix[best], found.shift[best] * n
    mirrored = bool(torch.linalg.det(matrix) < 0)
    aligned = _moved(moving, matrix, shift, n)
    correlation = torch.corrcoef(torch.stack([aligned.flatten(), reference.flatten()]))[0, 1]
    return Alignment(matrix @ _mirror(mirrored), shift, mirrored, float(correlation))


def resampled(
    volume: Float[Tensor, "m m m"], voxel_size_A: float, n: int, new_voxel_size_A: float
) -> Float[Tensor, "n n n"]:
    """The map on ``n³`` voxels of another size, band-limited, with its integral kept.

    A field of view larger than the new one is first cut around the origin; a smaller one is padded with the background.
    Frequencies beyond the old Nyquist limit are zero. Any two voxel sizes will do, not only whole ratios.
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
    """Zero background and unit variance: a constant cube rotated is not constant, and single precision has its range."""
    return (volume - volume.median()) / volume.std()


def _flattened(volume: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
    """The map with its solvent rotated down where its local power P is no more than the background's, b.

    Noise far from the origin changes fastest as a map turns, so it would dominate the likelihood's curvature and slow
    the climb down; the factor ``1/(1 + (3b/P)⁴)`` leaves a map without noise as it is. b is the median of P: a particle
    fills less than half of its box.
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

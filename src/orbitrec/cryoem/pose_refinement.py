"""Continuous pose refinement: Levenberg–Marquardt on the likelihood of each particle's rotation and shift.

For one particle the log-likelihood of a pose is ``Re⟨Y, T⟩ − ½ ⟨h² T, T⟩`` with the template T on its polar circle.
With ``R ← R exp([δ]×)`` and points ``q₀ = (kx, ky, 0)`` the template moves by ``δ · (q₀ × Rᵀ∇v̂(R q₀))`` and, with the
shift, by ``−i k T``; ``∇v̂`` is the transform of ``−i x v(x)``. Value and gradient come from one interpolation of four
grids.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from orbitrec.cryoem.preprocess import ParticleModes, Progress
from orbitrec.cryoem.search.pose_search import Posterior
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import rotation_vector_to_matrix
from orbitrec.io.particle_table import ParticleStatistics
from orbitrec.optim.levenberg_marquardt import Damping, LocalModel, Point, minimise
from orbitrec.runtime.distributed import fill_in, share
from orbitrec.volumes.spherical_bessel import SphericalBesselVolume

_DAMPING = Damping(start=1e-2, decrease=3.0, increase=10.0, ridge=1e-6)

OVERSAMPLING = 3
"""Fourier samples per Nyquist interval of the ball; with the sinc² correction the error is about 1 % of a template."""


class SliceInterpolator:
    """``v̂`` and ``∇v̂`` anywhere below ``k_max``, by trilinear interpolation of oversampled grids.

    The grids belong to a lattice with the Nyquist frequency 1.25 k_max, so that the cost does not depend on the stack's
    box.

    Args:
        volume: v; its basis gives k_max.
        device: where the grids are, and where points must be.
    """

    def __init__(self, volume: SphericalBesselVolume, device: str = "cpu") -> None:
        basis = volume.basis
        self._pixel = 0.8 * math.pi / basis.k_max  # lattice spacing in pixels of the stack
        scaled = basis.rescaled(self._pixel)
        n = 2 * math.ceil(scaled.radius + 1)
        self._size = OVERSAMPLING * n
        # Orthonormal functions shrink by pixel^{3/2} in amplitude when lengths shrink by pixel; integrals by pixel³.
        grid = SphericalBesselVolume(scaled, volume.coefficients).to_grid(n).to(torch.float32) * self._pixel**1.5
        axis = torch.arange(n, dtype=torch.float32) - n // 2
        # Linear interpolation multiplies the density by sinc² along each axis: divided out beforehand.
        taper = torch.sinc(axis / self._size).square()
        grid = grid / (taper[:, None, None] * taper[:, None] * taper)
        x = axis * self._pixel
        fields = torch.stack([grid, x * grid, x[:, None] * grid, x[:, None, None] * grid]).to(torch.complex64)
        fields[1:] *= -1j
        padded = pad(fields, [self._size // 2 - n // 2, self._size - n - (self._size // 2 - n // 2)] * 3)
        axes = (-3, -2, -1)
        spectrum = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(padded, dim=axes), dim=axes), dim=axes)
        self._half = math.ceil(basis.k_max * self._pixel * self._size / (2 * math.pi))
        low, count = self._size // 2 - self._half, 2 * self._half + 1
        for dim in axes:
            spectrum = spectrum.narrow(dim, low, count)
        grid = torch.view_as_real(spectrum.contiguous()).permute(0, 4, 1, 2, 3).flatten(0, 1)[None].contiguous()
        self._grid = grid.to(device)

    def __call__(self, points: Float[Tensor, "b p 3"]) -> tuple[Complex[Tensor, "b p"], Complex[Tensor, "b p 3"]]:
        """Transform and gradient at frequency vectors (xyz, radians per pixel of the stack)."""
        scale = self._pixel * self._size / (2 * math.pi) / self._half
        where = (points * scale).to(torch.float32)[None, None].flatten(2, 3)[:, :, :, None]
        sampled = grid_sample(self._grid, where, mode="bilinear", align_corners=True)
        values = sampled.reshape(4, 2, *points.shape[:-1])
        fields = torch.complex(values[:, 0], values[:, 1])
        return fields[0], fields[1:].movedim(0, -1)


@dataclass(frozen=True)
class Poses:
    """The poses of particles.

    Attributes:
        rotations: (N, 3, 3) RELION's rotation of each.
        shifts_px: (N, 2) displacement (x, y) of its content, in pixels.
        statistics: what else is known of it.
    """

    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    statistics: ParticleStatistics


@dataclass(frozen=True)
class FittedPoses:
    """The poses of particles that fit a map best, and how their images compare with its projections there.

    Attributes:
        rotations: (N, 3, 3) RELION's rotation of each.
        shifts_px: (N, 2) displacement (x, y) of its content, in pixels.
        cross_correlation: (N,) ``Re⟨Y, T⟩`` of image and projection at the pose.
        slice_power: (N,) ``½ ⟨h² T, T⟩`` of the projection.
    """

    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    cross_correlation: Float[Tensor, "N"]
    slice_power: Float[Tensor, "N"]

    @property
    def log_likelihood(self) -> Float[Tensor, "N"]:
        """(N,) of each image at its pose, over that of noise alone."""
        return self.cross_correlation - self.slice_power

    def joined(self, posterior: Posterior) -> Poses:
        """The poses with what the search before found of the particles."""
        fit = {"cross_correlation": self.cross_correlation, "slice_power": self.slice_power}
        return Poses(self.rotations, self.shifts_px, ParticleStatistics(**vars(posterior), **fit))


def refine_poses(
    data: ParticleModes,
    grid: PolarGrid,
    volume: SphericalBesselVolume,
    rotations: Float[Tensor, "N 3 3"],
    shifts_px: Float[Tensor, "N 2"],
    *,
    steps: int = 4,
    chunk: int = 256,
    progress: Progress = lambda count: None,
) -> FittedPoses:
    """Poses of greater likelihood near given ones, by Levenberg–Marquardt for each particle separately.

    The likelihood and its derivatives are those of the module's docstring. A step that does not raise a particle's
    likelihood is not taken, and its damping grows tenfold.

    Args:
        data: the particles, in circular modes.
        grid: the part of their polar grid that is used.
        volume: the map that they are compared with.
        rotations: (N, 3, 3) where to begin.
        shifts_px: (N, 2) where to begin: displacement (x, y) of each image's content, in pixels.
        steps: the most steps that are tried.
        chunk: particles at once.
        progress: called with the number of particles after each chunk.

    Returns:
        Those of all particles, on the CPU.
    """
    interpolate = SliceInterpolator(volume, data.device)
    count = len(data)
    found = FittedPoses(
        torch.zeros_like(rotations), torch.zeros_like(shifts_px), torch.zeros(count), torch.zeros(count)
    )
    for rows in share(torch.arange(len(data)).split(chunk)):
        problem = _PoseProblem.of(data, grid, interpolate, rows)
        better = problem.refined(rotations[rows].to(data.device), shifts_px[rows].to(data.device), steps)
        for whole, part in zip(vars(found).values(), vars(better).values(), strict=True):
            whole[rows] = part.cpu()
        progress(len(rows))
    fill_in(*vars(found).values())
    return found


@dataclass(frozen=True, eq=False)
class _PoseProblem:
    interpolate: SliceInterpolator
    points: Float[Tensor, "p 2"]
    observed: Complex[Tensor, "b p"]
    weight: Float[Tensor, "p"]
    power: Float[Tensor, "b p"]

    @classmethod
    def of(
        cls, data: ParticleModes, grid: PolarGrid, interpolate: SliceInterpolator, rows: Int[Tensor, "b"]
    ) -> "_PoseProblem":
        modes, power = data.seen(rows, grid)
        circle = grid.to_circle(modes)
        weight = (grid.scale.square() / grid.half_circle).to(power).expand(grid.half_circle, -1)
        power = power[:, None].expand(-1, grid.half_circle, -1)
        points = grid.points.reshape(-1, 2).to(power)
        return cls(interpolate, points, circle.flatten(1), weight.reshape(-1), power.flatten(1))

    def refined(self, rotations: Float[Tensor, "b 3 3"], shifts: Float[Tensor, "b 2"], steps: int) -> FittedPoses:
        """The poses of greater likelihood that Levenberg–Marquardt finds."""

        def model(pose: Point) -> LocalModel:
            value, gradient, hessian = self.linearised(*pose)
            return LocalModel(-value, -gradient, hessian)

        (rotations, shifts), _ = minimise(model, _moved, (rotations, shifts), steps=steps, damping=_DAMPING)
        return FittedPoses(rotations, shifts, *self._terms(self._centred(shifts), self._slices(rotations)[0]))

    def linearised(
        self, rotations: Float[Tensor, "b 3 3"], shifts: Float[Tensor, "b 2"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b 5"], Float[Tensor, "b 5 5"]]:
        """Log-likelihood, its gradient in (δ, shift) and the Gauss–Newton Hessian."""
        x, y = self.points.unbind(-1)
        template, field = self._slices(rotations)
        gx, gy, gz = torch.einsum("bji,bpj->bpi", rotations.to(field.dtype), field).unbind(-1)
        rotated = torch.stack([y * gz, -x * gz, x * gy - y * gx, -1j * x * template, -1j * y * template], dim=1)
        moved = self._centred(shifts)
        residual = (moved - self.power * template) * self.weight
        cross, power = self._terms(moved, template)
        gradient = torch.einsum("bap,bp->ba", rotated.conj(), residual).real
        weighted = torch.view_as_real(rotated * (self.power * self.weight).sqrt()[:, None]).flatten(2)
        return cross - power, gradient, weighted @ weighted.mT

    def _terms(
        self, moved: Complex[Tensor, "b p"], template: Complex[Tensor, "b p"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """``Re⟨Y, T⟩`` and ``½ ⟨h² T, T⟩``."""
        power = (self.power * self.weight * torch.view_as_real(template).square().sum(-1)).sum(1)
        return (moved * self.weight * template.conj()).real.sum(1), power / 2

    def _slices(self, rotations: Float[Tensor, "b 3 3"]) -> tuple[Complex[Tensor, "b p"], Complex[Tensor, "b p 3"]]:
        """``v̂`` and ``∇v̂`` on the slices of these rotations."""
        return self.interpolate(torch.einsum("bij,pj->bpi", rotations.to(torch.float32)[:, :, :2], self.points))

    def _centred(self, shifts: Float[Tensor, "b 2"]) -> Complex[Tensor, "b p"]:
        """The images with their content moved back by the shifts."""
        phase = shifts.to(torch.float32) @ self.points.mT
        return self.observed * torch.polar(torch.ones_like(phase), phase)


def _moved(pose: Point, step: Float[Tensor, "b 5"]) -> Point:
    """Rotated by ``R exp([δ]×)`` and shifted."""
    (rotations, shifts), step = pose, step.double()
    return rotations @ rotation_vector_to_matrix(step[:, :3]), shifts + step[:, 3:]

"""What the particles' orientations do to the map, and whether the particles look as their orientations say.

* How evenly the slices of the views sample Fourier space (Baldwin and Lyumkis, Prog. Biophys. Mol. Biol. 150, 2020).
* How far the maps of two half-sets agree in each direction: their correlation in cones, and its area ratio cFAR.
* Averages of similar views beside the map's projections. A few viewing directions are chosen that many particles share
  and that lie apart. The particles nearest to each are corrected for their CTF, centred, rotated in their plane and
  averaged; the map is projected along the same direction.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

from orbitrec.evaluation.fsc import FSC, edge_of_both
from orbitrec.evaluation.masks import soft_sphere
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import (
    frequency_vectors,
    pixel_vectors,
    radial_frequencies,
    shell_frequencies,
    shell_indices,
)
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import direction_frames
from orbitrec.io.particles import ParticleStack
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.voxel import VoxelVolume

FOURIER_RADIUS = 50.0
"""Radius in Fourier voxels of the sphere on which slices are counted: Baldwin and Lyumkis's choice."""
MOST_SLICES = 10_000
"""So many particles are counted, as they do: more change nothing but the time."""
FEWEST_PASSES = 100
"""Slices of uniform views that pass a direction; few particles are counted on a smaller sphere, to keep chance out."""
HALF_ANGLE_DEG = 20.0
"""Of the cones of a directional FSC, as in 3DFSC (Tan et al., Nat. Methods 14, 2017) and in cryoSPARC."""
FEWEST_POINTS = 20
"""Of a shell in a cone, conjugates counted: the correlation of fewer is chance, and would end a curve at its start."""
HALF_MAP_THRESHOLD = 0.143

_CONES_DEGREE = 21  # 122 axes, 13° apart
_SAMPLED_DIRECTIONS = 5000
_POINTS_AT_ONCE = 4096
_ROWS_AT_ONCE = 64  # whose products with all directions stay in the processor's cache
_DIRECTIONS_DEGREE = 23  # candidate directions 13° apart
_CONE_DEG = 10.0
_APART_DEG = 35.0
_RIDGE = 0.1  # of the CTF's square, where it vanishes


@dataclass(frozen=True, eq=False)
class FourierSampling:
    """How many slices pass each direction of Fourier space.

    Attributes:
        directions: unit vectors (D, 3), spread evenly over half a sphere: the other half has the same slices.
        slices: their number, (D,).
    """

    directions: Float[Tensor, "D 3"]
    slices: Int[Tensor, "D"]

    @property
    def unsampled(self) -> float:
        """Share of the directions that no slice passes."""
        return float((self.slices == 0).double().mean())

    @property
    def scf_star(self) -> float:
        """The sampling compensation factor SCF*: 1 for uniform views, 8/π² for side views, near 0 with an empty cone.

        By so much uneven views lower the map's signal-to-noise ratio. Where slices pass, ``1/SCF = mean(S) mean(1/S)``.
        Where none does, a direction counts as if two did, ``1/SCF* = 1/SCF + mean(S)/2 · q/(1 − q)``, q being the share
        of such directions: so the program of Baldwin and Lyumkis computes it.
        """
        slices, unsampled = self.slices.double(), self.unsampled
        inverse = slices.mean() * (1 / slices[slices > 0]).mean()
        return float(1 / (inverse + slices.mean() / 2 * unsampled / (1 - unsampled)))


def fourier_sampling(rotations: Float[Tensor, "N 3 3"], group: Float[Tensor, "g 3 3"] | None = None) -> FourierSampling:
    """How many of the particles' slices pass each direction of Fourier space.

    The slice of a view v is a slab one Fourier voxel thick: on the sphere of radius k it covers the directions d with
    ``|d · v| < 1/2k``.

    Args:
        rotations: RELION's rotation of every particle, (N, 3, 3); more than :data:`MOST_SLICES` are thinned evenly.
        group: rotations of the map's point group, (g, 3, 3); every particle is counted at its g equivalent views.

    Returns:
        The numbers of slices at 5,000 directions, or at fewer that stand for as many where there is a symmetry.
    """
    rows = torch.linspace(0, len(rotations) - 1, min(len(rotations), MOST_SLICES), dtype=torch.float64).round().long()
    views = rotations[rows.to(rotations.device), :, 2].detach().cpu().double()
    order = 1 if group is None else len(group)
    if group is not None:
        views = (group.double() @ views.T).mT.flatten(0, 1)
    directions = _half_sphere(max(_SAMPLED_DIRECTIONS // order, 500))
    radius = min(FOURIER_RADIUS, max(1.0, len(views) / (2 * FEWEST_PASSES)))
    across, slices = directions.float().T.contiguous(), torch.zeros(len(directions))
    for part in views.float().split(_ROWS_AT_ONCE):
        slices += (part @ across).abs_().lt_(0.5 / radius).sum(0)
    return FourierSampling(directions, slices.long())


def _half_sphere(count: int) -> Float[Tensor, "count 3"]:
    """Unit vectors along a spiral that advances by the golden angle: evenly spread over the half z > 0."""
    index = torch.arange(count, dtype=torch.float64)
    z, longitude = (index + 0.5) / count, math.pi * (3 - math.sqrt(5)) * index
    across = (1 - z.square()).sqrt()
    return torch.stack([across * longitude.cos(), across * longitude.sin(), z], dim=1)


@dataclass(frozen=True, eq=False)
class ConicalFSC:
    """The correlation of two maps in double cones around D axes.

    Attributes:
        axes: of the cones, unit vectors (D, 3).
        frequency: shell radii in radians per pixel, (s,).
        value: correlation of each shell within each cone, (D, s).
    """

    axes: Float[Tensor, "D 3"]
    frequency: Float[Tensor, "s"]
    value: Float[Tensor, "D s"]

    def curve(self, axis: int) -> FSC:
        """The correlation in one cone."""
        return FSC(self.frequency, self.value[axis])

    def cutoffs_A(self, voxel_size_A: float, threshold: float = HALF_MAP_THRESHOLD) -> Float[Tensor, "D"]:
        """The resolution along every axis, where its curve first falls below the threshold (:meth:`FSC.cutoff_A`).

        Args:
            voxel_size_A: of both maps, in Å.
            threshold: of the correlation.
        """
        cutoffs = [self.curve(axis).cutoff_A(threshold, voxel_size_A) for axis in range(len(self.axes))]
        return torch.tensor(cutoffs, dtype=torch.float64)

    def extremes_A(self, voxel_size_A: float) -> tuple[float, float]:
        """The finest and the coarsest resolution along an axis, at 0.143; ∞ where an axis has none."""
        cutoffs = self.cutoffs_A(voxel_size_A)
        return float(cutoffs.min()), float(cutoffs.max())

    def areas(self) -> Float[Tensor, "D"]:
        """The area under every curve up to where it first falls below 0.143, each shell weighted by its own area s²."""
        shells = torch.arange(len(self.frequency), dtype=torch.float64)
        last = 2 * math.pi / self.cutoffs_A(1.0) / float(self.frequency[1])
        inside = (last[:, None] - shells + 0.5).clamp(0, 1)
        return (inside * shells.square() * self.value).sum(1)

    @property
    def area_ratio(self) -> float:
        """CFAR: the smallest area under a curve over the largest, 1 for a map that is as good in all directions.

        So cryoSPARC's guide describes it (*Orientation Diagnostics*), which calls below 0.5 anisotropic; SIMPLE
        computes the same. 0 where no curve has an area.
        """
        areas = self.areas()
        return float(areas.min() / areas.max()) if float(areas.max()) > 0 else 0.0


def conical_fsc(
    a: Float[Tensor, "_ _ _"],
    b: Float[Tensor, "_ _ _"],
    axes: Float[Tensor, "D 3"] | None = None,
    half_angle_deg: float = HALF_ANGLE_DEG,
) -> ConicalFSC:
    """The Fourier shell correlation of two maps within double cones, one around each axis.

    A small shell that has fewer than :data:`FEWEST_POINTS` in a cone takes the correlation of the whole shell there.

    Args:
        a: one map, (n, n, n), z, y, x.
        b: the other, (n, n, n).
        axes: of the cones, unit vectors (D, 3); None takes 122 that are 13° apart.
        half_angle_deg: between a cone's axis and its surface; 90° is the usual correlation.

    Returns:
        Correlations of the shells s = 0 … n // 2 in every cone, in float64.

    Raises:
        InputError: if the maps are not cubes of one size.
    """
    n = edge_of_both(a, b)
    if axes is None:
        design = spherical_design(_CONES_DEGREE)
        axes = design[: len(design) // 2]
    points, terms, counts = _shells(a.detach().cpu().double(), b.detach().cpu().double())
    value = []
    for at, term in zip(points.split(counts), terms.split(counts), strict=True):
        sums = torch.zeros(len(axes), 4, dtype=torch.float64)
        for part, of in zip(at.split(_POINTS_AT_ONCE), term.split(_POINTS_AT_ONCE), strict=True):
            sums += (axes.float() @ part.T).abs_().ge_(math.cos(math.radians(half_angle_deg)) - 1e-6) @ of
        sums[sums[:, 0] < FEWEST_POINTS] = term.double().sum(0)
        power = sums[:, 2] * sums[:, 3]
        value.append(torch.where(power > 0, sums[:, 1] / power.clamp(min=1e-300).sqrt(), 0.0))
    return ConicalFSC(axes.double(), shell_frequencies(n), torch.stack(value, dim=1))


def _shells(
    a: Float[Tensor, "n n n"], b: Float[Tensor, "n n n"]
) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 4"], list[int]]:
    """The points of half of Fourier space shell by shell, without the corners.

    Their directions, the terms 1, Re â b̂*, |â|² and |b̂|² of the sums over them, each twice where its conjugate is left
    out, and the number of points on every shell.
    """
    n = len(a)
    half = torch.cat([torch.arange(n // 2, n), torch.arange(1 - n % 2)])  # kx ≥ 0, and −n/2 of an even box
    weight = torch.full((n, n, len(half)), 2.0, dtype=torch.float64)
    weight[..., 0] = 1
    weight[..., (n + 1) // 2 :] = 1
    shell = shell_indices(n, 3)[..., half].flatten()
    order = shell.argsort()[: int((shell <= n // 2).sum())]
    x, y = (centred_fft(grid / grid.norm(), ndim=3)[..., half].flatten()[order] for grid in (a, b))
    terms = torch.stack([torch.ones_like(x.real), (x * y.conj()).real, x.abs().square(), y.abs().square()], dim=1)
    points = torch.nn.functional.normalize(frequency_vectors(n, 3)[..., half, :].flatten(0, 2)[order], dim=1)
    counts = torch.bincount(shell)[: n // 2 + 1].tolist()
    return points.float(), (terms * weight.flatten()[order, None]).float(), counts


@dataclass(frozen=True, eq=False)
class ViewAverages:
    """Averages and projections of V views, the most populated first.

    Attributes:
        directions: unit vectors (V, 3).
        counts: particles in each average.
        averages: of the particles, (V, n, n), dense positive.
        projections: of the map, (V, n, n), through the same filter.
        correlations: of each average with its projection within the particle's disc.
    """

    directions: Float[Tensor, "V 3"]
    counts: Int[Tensor, "V"]
    averages: Float[Tensor, "V n n"]
    projections: Float[Tensor, "V n n"]
    correlations: Float[Tensor, "V"]


def view_averages(
    stack: ParticleStack,
    rotations: Float[Tensor, "N 3 3"],
    shifts_px: Float[Tensor, "N 2"],
    volume: Float[Tensor, "n n n"],
    *,
    radius_px: float,
    k_max: float,
    dense_is_dark: bool,
    views: int = 8,
    most: int = 150,
) -> ViewAverages:
    """Averages of particles with similar views, and the map's projections along the same directions.

    Args:
        stack: the particles.
        rotations: RELION's rotation matrix of each particle, (N, 3, 3).
        shifts_px: displacement (x, y) of each image's content in pixels, (N, 2).
        volume: the map in the box of the stack, dense positive, (n, n, n).
        radius_px: of the particle; images are compared and shown within it.
        k_max: the highest frequency shown, in radians per pixel.
        dense_is_dark: whether dense parts of the particles are dark in the images.
        views: the most directions.
        most: the most particles that are read for each direction.

    Returns:
        One average and one projection for each direction.
    """
    rotations = rotations.detach().cpu().double()
    directions = popular_directions(rotations[:, :, 2], views)
    frames = direction_frames(directions)
    clean = ParticleSimulation(
        VoxelVolume(volume.detach().cpu().float()), stack.n, stack.pixel_size_A, frames, torch.zeros(len(frames), 2)
    ).clean(torch.arange(len(frames)))
    k = radial_frequencies(stack.n, dtype=torch.float32)
    low_pass = 0.5 + 0.5 * torch.cos(math.pi * ((k / k_max - 0.9) / 0.2).clamp(0, 1))
    disc = soft_sphere(stack.n, radius_px)[stack.n // 2].float()
    counts, averages, projections = [], [], []
    for frame, projection in zip(frames, clean, strict=True):
        cosine = rotations[:, :, 2] @ frame[:, 2]
        rows = cosine.argsort(descending=True)[:most]
        rows = rows[cosine[rows] > math.cos(math.radians(_CONE_DEG))].sort().values
        total, seen = _aligned_sum(stack, rows, rotations[rows], shifts_px[rows].cpu().double(), frame)
        filters = low_pass / (seen + _RIDGE)
        counts.append(len(rows))
        averages.append(_filtered(total / len(rows), filters) * (-1 if dense_is_dark else 1) * disc)
        projections.append(_filtered(projection, filters * seen) * disc)
    pairs = torch.stack(averages), torch.stack(projections)
    correlations = torch.stack([_correlation(a[disc > 0.5], b[disc > 0.5]) for a, b in zip(*pairs, strict=True)])
    return ViewAverages(directions, torch.tensor(counts), *pairs, correlations)


def popular_directions(seen: Float[Tensor, "N 3"], views: int) -> Float[Tensor, "V 3"]:
    """The directions that most particles are seen from, the most populated first.

    Args:
        seen: the particles' viewing directions, unit vectors (N, 3).
        views: the most directions that are returned.

    Returns:
        Directions (V, 3), ordered by how many particles are within 10°, no two within 35° of each other. Opposite
        directions show mirror images of each other and count as near.
    """
    candidates = spherical_design(_DIRECTIONS_DEGREE)
    cone = math.cos(math.radians(_CONE_DEG))
    counts = sum((part.double() @ candidates.T > cone).sum(0) for part in seen.split(4096))
    assert isinstance(counts, Tensor)
    chosen: list[Tensor] = []
    while len(chosen) < views and int(counts.max()) > 0:
        chosen.append(candidates[int(counts.argmax())])
        near = (candidates @ chosen[-1]).abs() > math.cos(math.radians(_APART_DEG))
        counts = counts.masked_fill(near, 0)
    return torch.stack(chosen)


def _aligned_sum(
    stack: ParticleStack,
    rows: Int[Tensor, "b"],
    rotations: Float[Tensor, "b 3 3"],
    shifts_px: Float[Tensor, "b 2"],
    frame: Float[Tensor, "3 3"],
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]]:
    """The sum of images times their CTF, moved to the direction's frame; the mean square CTF at every frequency."""
    n = stack.n
    images = stack.images(rows)
    seen = torch.ones(n, n)
    if stack.ctf is not None:
        ctf = stack.ctf.select(rows)
        shells = shell_indices(n)
        k = shell_frequencies(n, int(shells.max()) + 1)
        seen = ctf.radial_square(k, stack.pixel_size_A).mean(0)[shells].float()
        once = torch.where(stack.premultiplied[rows][:, None, None], 1.0, ctf.on_grid(n, stack.pixel_size_A))
        images = centred_ifft(centred_fft(images) * once).real
    # R ≈ frame · Rz(a) shows the frame's picture rotated by −a and displaced by s: it is read at Rz(−a) x + s.
    relative = frame.T @ rotations
    angle = torch.atan2(relative[:, 1, 0] - relative[:, 0, 1], relative[:, 0, 0] + relative[:, 1, 1])
    x, y = pixel_vectors(n).unbind(-1)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    points = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1) + shifts_px[:, None, None]
    grid = ((2 * (points + n // 2) + 1) / n - 1).float()
    moved = grid_sample(images[:, None], grid, mode="bicubic", align_corners=False, padding_mode="border")
    return moved.sum((0, 1)), seen


def _filtered(image: Float[Tensor, "n n"], gain: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return centred_ifft(centred_fft(image) * gain).real


def _correlation(a: Float[Tensor, "p"], b: Float[Tensor, "p"]) -> Float[Tensor, ""]:
    return torch.corrcoef(torch.stack([a, b]))[0, 1]

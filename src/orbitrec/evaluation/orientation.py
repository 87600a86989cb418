"""Whether particles look as their orientations say: averages of similar views beside the map's projections.

A few viewing directions are chosen that many particles share and that lie apart. The particles nearest to each are
corrected for their CTF, centred, rotated in their plane and averaged; the map is projected along the same direction.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

from orbitrec.evaluation.masks import soft_sphere
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import pixel_vectors, radial_frequencies, shell_frequencies, shell_indices
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import direction_frames
from orbitrec.io.particles import ParticleStack
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.voxel import VoxelVolume

_DIRECTIONS_DEGREE = 23  # candidate directions 13° apart
_CONE_DEG = 10.0
_APART_DEG = 35.0
_RIDGE = 0.1  # of the CTF's square, where it vanishes


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

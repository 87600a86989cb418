"""Isosurfaces of maps, seen along parallel rays and shaded by the density's gradient.

Each pixel's ray is followed to the first place where the interpolated density passes the level (Levoy, IEEE Computer
Graphics and Applications 8, 1988): no mesh is made, so nothing but torch is needed.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, normalize

from orbitrec.volumes.voxel import VoxelVolume

SMOOTH_BOX = 96
"""Smaller boxes are band-limited to this size first: on coarse voxels linear interpolation shows facets."""
_SAMPLES_ACROSS = 1.5  # along a ray, for each voxel
_SUPERSAMPLED = 2  # rays of a pixel in x and in y
_LIGHT = (-0.45, 0.55, 0.70)  # towards the light: left, up, viewer


def fine_grid(volume: Float[Tensor, "n n n"], size: int | None = None) -> Float[Tensor, "m m m"]:
    """The volume in float32, band-limited to a box of ``size``, by default at least ``SMOOTH_BOX``; values are kept."""
    volume = volume.detach().cpu().float()
    n = len(volume)
    m = max(n, SMOOTH_BOX) if size is None else size
    return volume if m == n else VoxelVolume(volume).resampled(m).grid * (m / n) ** 3


def surface_level(volume: Float[Tensor, "n n n"], share: float) -> float:
    """The level that a ``share`` of all voxels exceeds, so that maps of any scale enclose the same volume."""
    values = volume.flatten()
    kept = max(1, min(len(values) - 1, round(share * len(values))))
    return float(values.kthvalue(len(values) - kept).values)


def surface_share(volume: Float[Tensor, "n n n"]) -> float:
    """Share of voxels above Otsu's threshold between particle and solvent (IEEE Trans. SMC 9, 1979).

    The threshold is that of the voxels that stand out of the background, above the mean of the map.
    """
    values = volume.flatten().double()
    values = values[values > values.mean()].sort().values
    count = torch.arange(1, len(values) + 1, dtype=values.dtype)
    below = values.cumsum(0)
    above = below[-1] - below
    rest = (len(values) - count).clamp(min=1)
    between = count * rest * (below / count - above / rest).square()
    return float(len(values) - between[:-1].argmax()) / volume.numel()


def render_isosurface(
    volume: Float[Tensor, "n n n"],
    level: float,
    rotation: Float[Tensor, "3 3"],
    size: int,
    colour: tuple[float, float, float],
    width: float = 1.0,
) -> Float[Tensor, "size size 4"]:
    """A picture of the surface ``volume = level``.

    Args:
        volume: density (z, y, x), the inside above ``level``.
        level: of the surface.
        rotation: its columns are the picture's right, its up and the direction to the viewer, in the map's xyz.
        size: pixels of an edge.
        colour: of the surface, red, green, blue in [0, 1].
        width: edge of the picture, in boxes.

    Returns:
        Red, green, blue and opacity in [0, 1]; the first row is on top.
    """
    frame, fine = rotation.float(), size * _SUPERSAMPLED
    depth = width * torch.linspace(1, -1, round(_SAMPLES_ACROSS * width * len(volume)))
    axis = width * torch.linspace(-1, 1, fine)
    front = _first_crossing(volume, level, frame, depth, fine)
    up, right = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    points = torch.stack([right, up, front.nan_to_num()], dim=-1)
    normal = _outward(volume, points @ frame.T) @ frame
    solid = front.isfinite().float()[..., None]
    shade = _shaded(normal, front.nan_to_num()[..., None] / width, torch.tensor(colour)) * solid
    return avg_pool2d(torch.cat([shade, solid], -1).permute(2, 0, 1), _SUPERSAMPLED).permute(1, 2, 0).clamp(0, 1)


def _first_crossing(
    volume: Float[Tensor, "n n n"], level: float, frame: Float[Tensor, "3 3"], depth: Float[Tensor, "d"], fine: int
) -> Float[Tensor, "fine fine"]:
    """Where each ray first passes the level, along the direction to the viewer; NaN for a ray that misses.

    The volume is rotated once, on as many planes as rays have samples. It is bilinear within a plane, and linear
    between a ray's last sample outside and its first inside.
    """
    front = torch.full((fine, fine), torch.nan)
    before: Tensor | None = None
    up, right = torch.meshgrid(depth, -depth, indexing="ij")
    for z in depth:
        plane = _sampled(volume, torch.stack([right, up, z.expand_as(up)], -1) @ frame.T) - level
        above = interpolate(plane[None, None], size=(fine, fine), mode="bilinear", align_corners=True)[0, 0]
        outside = above if before is None else before
        step = above / (above - outside).clamp(min=1e-12) * (depth[0] - depth[1])
        front = torch.where(front.isnan() & (above > 0), z + (step if before is not None else 0), front)
        before = above
    return front


def _shaded(
    normal: Float[Tensor, "*shape 3"], height: Float[Tensor, "*shape 1"], colour: Float[Tensor, "3"]
) -> Float[Tensor, "*shape 3"]:
    """Ambient and diffuse light and a gloss (Blinn's half vector); what is far (``height`` −1) is darker than at 1."""
    light = normalize(torch.tensor(_LIGHT), dim=0)
    half = normalize(light + torch.tensor([0.0, 0.0, 1.0]), dim=0)
    diffuse = (normal @ light).clamp(min=0)[..., None]
    gloss = 0.25 * diffuse * (normal @ half).clamp(min=0)[..., None].pow(24)
    return (0.36 + 0.68 * diffuse) * (0.72 + 0.28 * (height + 0.6).clamp(0, 1)) * colour + gloss


def _sampled(volume: Float[Tensor, "n n n"], points: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape"]:
    """Trilinear values at points in half boxes from the origin; the edge's values outside."""
    n = len(volume)
    index = points * n / 2 + n // 2
    scaled = (2 * index + 1) / n - 1
    flat = scaled.reshape(1, 1, 1, -1, 3)
    values = grid_sample(volume[None, None], flat, align_corners=False, padding_mode="border")
    return values.reshape(points.shape[:-1])


def _outward(volume: Float[Tensor, "n n n"], points: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
    """Unit normals, against the gradient."""
    step = 2.0 * torch.eye(3) / len(volume)
    slopes = [_sampled(volume, points - move) - _sampled(volume, points + move) for move in step]
    return normalize(torch.stack(slopes, -1), dim=-1)

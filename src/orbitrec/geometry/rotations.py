"""SO(3): RELION's ZYZ Euler angles, matrices, geodesic distance, random draws.

``R = Rz(rot) Ry(tilt) Rz(psi)`` acts on xyz columns, and the projection with angles (rot, tilt, psi) has the
transform ``v̂(R·(kx, ky, 0))`` (``docs/conventions.md``; checked against RELION's own projections). The viewing
direction is ``R e_z``; the in-plane angle of the group sum is ``α = −psi``.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def _about_z(angle: Float[Tensor, "..."]) -> Float[Tensor, "... 3 3"]:
    c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, o, s, c, o, o, o, i], dim=-1).unflatten(-1, (3, 3))


def _about_y(angle: Float[Tensor, "..."]) -> Float[Tensor, "... 3 3"]:
    c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, o, s, o, i, o, -s, o, c], dim=-1).unflatten(-1, (3, 3))


def euler_to_matrix(angles_deg: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """Rotation matrices of RELION's (rot, tilt, psi) in degrees (intrinsic ZYZ)."""
    rot, tilt, psi = torch.deg2rad(angles_deg).unbind(-1)
    return _about_z(rot) @ _about_y(tilt) @ _about_z(psi)


def matrix_to_euler(rotation: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3"]:
    """RELION's (rot, tilt, psi) in degrees, tilt in [0, 180]; at the poles rot is 0."""
    sin_tilt = torch.hypot(rotation[..., 0, 2], rotation[..., 1, 2])
    tilt = torch.atan2(sin_tilt, rotation[..., 2, 2])
    pole = sin_tilt < 8 * torch.finfo(rotation.dtype).eps
    rot = torch.atan2(rotation[..., 1, 2], rotation[..., 0, 2])
    psi = torch.atan2(rotation[..., 2, 1], -rotation[..., 2, 0])
    # On a pole only rot ± psi is defined: R = Ry(0 or π) Rz(psi) has the column (∓sin psi, cos psi) in y.
    psi = torch.where(pole, torch.atan2(rotation[..., 1, 0], rotation[..., 1, 1]), psi)
    rot = torch.where(pole, torch.zeros_like(rot), rot)
    return torch.rad2deg(torch.stack([rot, tilt, psi], dim=-1))


def direction_frames(directions: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """The rotation with psi = 0 that looks along each unit vector: ``Rz(rot) Ry(tilt)``."""
    x, y, z = directions.unbind(-1)
    return _about_z(torch.atan2(y, x)) @ _about_y(torch.atan2(torch.hypot(x, y), z))


def in_plane(psi: Float[Tensor, "..."]) -> Float[Tensor, "... 3 3"]:
    """``Rz(psi)``, psi in radians: as a right factor it rotates an image in its own plane."""
    return _about_z(psi)


def geodesic_distance(a: Float[Tensor, "... 3 3"], b: Float[Tensor, "... 3 3"]) -> Float[Tensor, "..."]:
    """Angle in radians of the rotation that takes ``a`` to ``b``.

    From the chord ``‖a − b‖_F = 2√2 sin(θ/2)``, which keeps its accuracy at small angles where arccos of the trace
    does not.
    """
    chord = (a - b).square().sum((-2, -1)).sqrt() / math.sqrt(8)
    return 2 * torch.asin(chord.clamp(max=1.0))


def random_rotations(
    count: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "count 3 3"]:
    """Rotations uniform on SO(3), from normalised Gaussian quaternions.

    Args:
        count: number of rotations.
        generator: source of the draws.
        dtype: real dtype of the result.

    Returns:
        Rotation matrices.
    """
    q = torch.randn(count, 4, generator=generator, dtype=dtype)
    return quaternion_to_matrix(q / q.norm(dim=-1, keepdim=True))


def quaternion_to_matrix(q: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = q.unbind(-1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    ).unflatten(-1, (3, 3))  # fmt: skip


def rotation_vector_to_matrix(vector: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """``exp([v]×)``: the rotation by ‖v‖ radians about v; differentiable at zero."""
    half = vector / 2
    # sinc(t/π) = sin t / t is smooth at 0, unlike a division by the norm.
    norm = half.square().sum(-1, keepdim=True).add(torch.finfo(vector.dtype).tiny).sqrt()
    q = torch.cat([norm.cos(), half * torch.sinc(norm / math.pi)], dim=-1)
    return quaternion_to_matrix(q)


def mirrored_views(rotations: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3 3"]:
    """``M R Z`` with M = diag(−1, 1, 1), Z = diag(1, 1, −1): how ``v(−x, y, z)`` is seen as v is from R.

    M alone is no rotation; Z makes it one and leaves the plane of the slice alone, so that images and shifts stay.
    """
    rows, columns = (rotations.new_tensor(signs) for signs in ([-1.0, 1.0, 1.0], [1.0, 1.0, -1.0]))
    return rotations * rows[:, None] * columns

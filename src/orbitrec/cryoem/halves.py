"""Two half-sets of particles that are worked on apart, so that their agreement measures what is right."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from orbitrec.cryoem.pose_refinement import Poses
from orbitrec.cryoem.search.multiresolution import PosedVolume
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.rotations import mirrored_views
from orbitrec.io.particle_table import ParticleStatistics


@dataclass(frozen=True)
class Placed:
    """Poses of one half-set in the frame of the other.

    Attributes:
        poses: of its particles.
        agreement: correlation of the two maps at the resolution of the search, once they are aligned.
    """

    poses: Poses
    agreement: float


def placed(poses: Poses, own: PosedVolume, other: PosedVolume, *, apart: bool) -> Placed:
    """Poses of one half-set in the frame of the other.

    The map m of these poses becomes ``m(Rᵀ(x − s))``, which is seen from ``R R_j``, moved by minus s in that view; a
    mirrored one is mirrored first. Under a symmetry its axes stay those of the standard setting.

    Args:
        poses: of the particles of the half-set.
        own: the volume that they belong to.
        other: the volume of the other half-set.
        apart: whether the two had starts of their own, so that their frames and hands have nothing in common; otherwise
            the maps have drifted apart by a little.

    Returns:
        The poses, and how far the volumes agree.
    """
    moving, pixel = own.level.density(own.model)
    motion = align(moving, other.level.density(other.model)[0], handedness=apart, search=apart)
    group = own.level.basis.group
    rotations = mirrored_views(poses.rotations) if motion.mirrored else poses.rotations
    rotations = group.nearest_normalising(motion.rotation, mirrored=motion.mirrored) @ rotations
    along = group.matrices().mean(0) @ motion.shift_px  # the group's rotations leave only these shifts as they are
    moved = torch.einsum("bji,j->bi", rotations, pixel * along)[:, :2]
    moved_poses = replace(poses, rotations=rotations, shifts_px=poses.shifts_px - moved)
    return Placed(moved_poses, motion.correlation)


def joined(halves: Int[Tensor, "N"], poses: tuple[Poses, Poses]) -> Poses:
    """The poses of all particles in their order, from those of half-set 1 and of half-set 2."""
    order = torch.cat([(halves == half).nonzero().flatten() for half in (1, 2)]).argsort()
    first, second = poses
    known = zip(vars(first.statistics).values(), vars(second.statistics).values(), strict=True)
    return Poses(
        torch.cat([first.rotations, second.rotations])[order],
        torch.cat([first.shifts_px, second.shifts_px])[order],
        ParticleStatistics(*(torch.cat(pair)[order] for pair in known)),
    )

"""Poses of one half-set in the frame of the other."""

import math
from dataclasses import replace

import pytest
import torch

from orbitrec.cryoem.halves import joined, placed
from orbitrec.cryoem.pose_refinement import Poses
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.multiresolution import PosedVolume
from orbitrec.cryoem.search.pose_search import ParticleState
from orbitrec.cryoem.search.starts import fitted_coefficients
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.particle_table import ParticleStatistics
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.gaussians import GaussianMixture

N, RADIUS = 40, 14.0
GRID = PolarGrid.for_radius(N, 20.0 / RADIUS, RADIUS)
LEVEL = ResolutionLevel.at(GRID, RADIUS, 20.0)


def mixture() -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    centers = 4.0 * torch.randn(8, 3, generator=generator, dtype=torch.float64)
    return GaussianMixture(centers, torch.full((8,), 1.5, dtype=torch.float64), torch.ones(8, dtype=torch.float64))


def posed(volume: GaussianMixture) -> PosedVolume:
    model = VolumeAndViews(fitted_coefficients(LEVEL, volume), LEVEL.uniform_views())
    empty = torch.zeros(0)
    return PosedVolume(LEVEL, model, ParticleState(torch.zeros(0, 2), 1.0), empty.view(0, 3, 3), empty.view(0, 2))


@pytest.mark.parametrize("mirrored", [False, True])
def test_particles_look_the_same_in_the_other_frame(mirrored):
    """Images of the moved volume under the given poses are those of the volume under the poses that come back."""
    here = mixture()
    rotations, shifts = random_poses(12, torch.Generator().manual_seed(2), shift_px=1.0)
    motion, moved = random_poses(1, torch.Generator().manual_seed(3))[0][0], torch.tensor([1.5, -0.7, 0.4]).double()
    centres = here.centers @ motion.mT + moved
    if mirrored:
        centres = centres * torch.tensor([-1.0, 1.0, 1.0]).double()
    there = GaussianMixture(centres, here.widths, here.weights)
    zeros = torch.zeros(12)
    nothing = ParticleStatistics(zeros, zeros, zeros, zeros.long(), zeros, zeros)
    found = placed(Poses(rotations, shifts, nothing), posed(there), posed(here), apart=True)
    assert found.agreement > 0.99
    seen = ParticleSimulation(there, N, 1.0, rotations, shifts).clean(torch.arange(12), torch.float64)
    again = ParticleSimulation(here, N, 1.0, found.poses.rotations, found.poses.shifts_px)
    difference = again.clean(torch.arange(12), torch.float64) - seen
    assert float(difference.norm() / seen.norm()) < 0.1


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", ["C3", "D2", "O"])
def test_a_symmetric_half_keeps_its_axes(name, mirrored):
    """Wherever the alignment ends, poses move by a rotation that maps the axes on themselves, exactly."""
    group, generator = PointGroup.named(name), torch.Generator().manual_seed(6)
    atoms = 3.0 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    atoms = torch.cat([atoms @ turn.mT for turn in group.matrices()])
    count = len(atoms)
    volume = GaussianMixture(atoms, torch.full((count,), 1.5).double(), torch.ones(count).double())
    level = ResolutionLevel.at(GRID, RADIUS, 20.0, group)
    model = VolumeAndViews(fitted_coefficients(level, volume), level.uniform_views())
    mirror = torch.diag(torch.tensor([-1.0 if mirrored else 1.0, 1.0, 1.0]).double())
    moved = replace(volume, centers=atoms @ mirror)
    other = VolumeAndViews(fitted_coefficients(level, moved), level.uniform_views())
    empty = torch.zeros(0)
    own, there = (
        PosedVolume(level, each, ParticleState(torch.zeros(0, 2), 1.0), empty.view(0, 3, 3), empty.view(0, 2))
        for each in (model, other)
    )
    rotations, shifts = random_poses(6, generator, shift_px=1.0)
    zeros = torch.zeros(6)
    nothing = ParticleStatistics(zeros, zeros, zeros, zeros.long(), zeros, zeros)
    found = placed(Poses(rotations, shifts, nothing), own, there, apart=True)
    assert found.agreement > 0.98
    elements = group.matrices()
    # Equivalent poses stay equivalent: for g R and R, Q g Q⁻¹ is in the group.
    turned = placed(Poses(elements[-1] @ rotations, shifts, nothing), own, there, apart=True)
    between = turned.poses.rotations @ found.poses.rotations.mT
    assert float((between[:, None] - elements).abs().amax((2, 3)).amin(1).max()) < 1e-9
    if name != "C3":
        assert torch.allclose(found.poses.shifts_px, shifts)


def test_particles_come_back_in_their_order():
    halves = torch.tensor([2, 1, 1, 2, 1])
    number = torch.arange(5, dtype=torch.float64)

    def part(half: int) -> Poses:
        own = number[halves == half]
        known = ParticleStatistics(own, -own, own, own.long(), own, own)
        return Poses(own[:, None, None].expand(-1, 3, 3), own[:, None].expand(-1, 2), known)

    together = joined(halves, (part(1), part(2)))
    assert torch.equal(together.rotations[:, 1, 2], number)
    assert torch.equal(together.statistics.log_likelihood, number)
    assert torch.equal(together.shifts_px[:, 0], number)
    assert torch.equal(together.statistics.inlier_probability, -number)
    assert math.isclose(float(together.rotations[3, 0, 0]), 3.0)

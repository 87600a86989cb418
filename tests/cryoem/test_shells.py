"""A shell under O: a sphere but for a few per cent of its power, within a box that the usual ball does not fit."""

import torch

from orbitrec.cryoem.config import AbInitioConfig, Schedule
from orbitrec.cryoem.pipeline import initial_model
from orbitrec.evaluation.poses import angular_errors
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import write_star
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.voxel import VoxelVolume

N, PIXEL_A, COUNT, RADIUS_PX = 36, 3.0, 300, 12.0
O = PointGroup.named("O")
SCHEDULE = Schedule(
    start_bandwidth=9.0, start_steps=30, settle_steps=5, settle_batch=300, select_bandwidth=11.0, select_steps=15,
    bandwidths=(11.0,), passes=2, batch=200,
)  # fmt: skip


def test_views_of_a_shell_are_found(tmp_path):
    """The usual ball ends at 11.25 px, the shell at 13: cut off, and begun at low energy, all poses were at chance."""
    generator = torch.Generator().manual_seed(2)
    subunit = torch.nn.functional.normalize(torch.tensor([[0.9, 0.35, 0.1]], dtype=torch.float64), dim=1)
    centers = RADIUS_PX * torch.cat([subunit @ turn.mT for turn in O.matrices()])
    background = RADIUS_PX * torch.nn.functional.normalize(
        torch.randn(600, 3, generator=generator, dtype=torch.float64), dim=1
    )
    weights = torch.cat([torch.full((24,), 12.0), torch.full((600,), 1.7)]).double()
    shell = GaussianMixture(torch.cat([centers, background]), torch.full((624,), 1.3).double(), weights)
    rotations, shifts = random_poses(COUNT, generator, shift_px=0.5)
    simulation = ParticleSimulation(VoxelVolume(shell.to_grid(N)), N, PIXEL_A, rotations, shifts)
    noise = (simulation.signal_variance() / 2.0) ** 0.5
    with StackWriter(tmp_path / "particles.mrcs", COUNT, N, PIXEL_A) as writer:
        for images in simulation.images(None, generator):
            writer.write(images + noise * torch.randn(images.shape, generator=generator))
    write_star(tmp_path / "particles.star", particle_tables("particles.mrcs", COUNT, N, PIXEL_A))
    stack = ParticleStack.open(tmp_path / "particles.star", ctf=False)
    found = initial_model(stack, AbInitioConfig(schedule=SCHEDULE, group=O, matched=0, random=3))
    assert RADIUS_PX < found.radius_px < RADIUS_PX + 4 * 1.3
    errors = angular_errors(found.rotations, rotations, O)
    # A third of random poses is within 20° modulo O.
    assert float((errors < 5).double().mean()) > 0.6

"""Our projections against RELION's own: axes, rotations, origins, CTF (docs/conventions.md)."""

import pytest
import torch

from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.voxel import VoxelVolume


def correlations(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = (x - x.mean((-2, -1), keepdim=True) for x in (a, b))
    return (a * b).sum((-2, -1)) / (a.square().sum((-2, -1)) * b.square().sum((-2, -1))).sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "least"), [("clean", 0.999), ("shifted", 0.999), ("ctf_shifted", 0.998)])
def test_projections_are_relions(shared_data, name, least, dtype):
    stack = ParticleStack.open(shared_data / "reference" / "relion" / f"emd_0409_{name}.star", ctf="ctf" in name)
    grid, pixel_size_A = read_map(shared_data / "maps" / "emd_0409_64.mrc")
    rotations, shifts_px = stack.poses()
    ours = ParticleSimulation(VoxelVolume(grid.to(dtype)), 64, pixel_size_A, rotations, shifts_px, stack.ctf)
    rows = torch.arange(len(stack))
    assert len(stack) == 24
    assert float(correlations(ours.clean(rows, dtype), stack.images(rows)).min()) > least


@pytest.mark.parametrize("n", [64, 65])
def test_projections_are_relions_in_even_and_odd_boxes(shared_data, n):
    stack = ParticleStack.open(shared_data / "reference" / "rln_proj" / f"rln_proj_{n}_centered.star", ctf=False)
    grid, _ = read_map(shared_data / "maps" / "ribosome_70s_65.mrc", voxel_size_A=1.0)
    rotations, shifts_px = stack.poses()
    # The even set is of the same field of view in 64 voxels. In an odd box RELION puts the image's origin at
    # (n + 1)/2, one pixel past ours; relion_project 3.1.3 writes the same images today.
    shifts_px = shifts_px + n % 2
    ours = ParticleSimulation(VoxelVolume(grid).resampled(n), n, 1.0, rotations, shifts_px)
    rows = torch.arange(len(stack))
    assert len(stack) == 4
    assert float(correlations(ours.clean(rows), stack.images(rows)).min()) > 0.999

"""Fixtures shared by all tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orbitrec.io.mrc import StackWriter
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import write_star
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.phantoms import protein_phantom
from orbitrec.volumes.voxel import VoxelVolume


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of maps, particles and oracles kept beside the repository; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}")
    return folder


@pytest.fixture(scope="session")
def mixed_particles() -> Callable[[Path, int, int], Path]:
    """particles.star of two phantoms, one compact and one a rod, in turn: of (folder, box, particles)."""

    def made(folder: Path, n: int, count: int) -> Path:
        folder.mkdir()
        generator = torch.Generator().manual_seed(1)
        compact = protein_phantom(40, 0.22 * n, torch.Generator().manual_seed(5)).to_grid(n).float()
        places = torch.linspace(-0.27 * n, 0.27 * n, 12, dtype=torch.float64)
        bent = torch.stack([0.1 * n * (places / (0.27 * n)).square(), torch.zeros(12), places], 1).double()
        weights = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)
        rod = GaussianMixture(bent, torch.full((12,), 0.05 * n, dtype=torch.float64), weights).to_grid(n).float()
        images = torch.empty(count, n, n)
        for place, grid in enumerate((compact, rod)):
            own = torch.arange(place, count, 2)
            poses = random_poses(len(own), generator, shift_px=1.0)
            clean = ParticleSimulation(VoxelVolume(grid), n, 3.0, *poses, None).clean(torch.arange(len(own)))
            images[own] = clean / clean.std()
        images += torch.randn(images.shape, generator=generator)
        with StackWriter(folder / "particles.mrcs", count, n, 3.0) as stack:
            stack.write(images)
        write_star(folder / "particles.star", particle_tables("particles.mrcs", count, n, 3.0))
        return folder / "particles.star"

    return made

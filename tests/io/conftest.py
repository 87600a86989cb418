"""Small particle sets on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orbitrec.io.mrc import StackWriter
from orbitrec.io.particle_table import ParticleStatistics
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import write_star
from orbitrec.models.ctf import CTFParameters

WriteParticles = Callable[..., Path]
MadeStatistics = Callable[[int], ParticleStatistics]


@pytest.fixture
def write_particles(tmp_path: Path) -> WriteParticles:
    """``write(images, name)``: writes name.star and name.mrcs in tmp_path with a CTF, returns the STAR file."""

    def write(images: Tensor, name: str = "particles") -> Path:
        count, n, _ = images.shape
        with StackWriter(tmp_path / f"{name}.mrcs", count, n, 1.5) as stack:
            stack.write(images)
        value = torch.ones(count, dtype=torch.float64)
        ctf = CTFParameters(
            defocus_u_A=1e4 * value + torch.arange(count),
            defocus_v_A=9e3 * value,
            defocus_angle_deg=30 * value,
            voltage_kV=300 * value,
            cs_mm=2.7 * value,
            amplitude_contrast=0.1 * value,
            phase_shift_deg=0 * value,
        )
        write_star(tmp_path / f"{name}.star", particle_tables(f"{name}.mrcs", count, n, 1.5, ctf=ctf))
        return tmp_path / f"{name}.star"

    return write


@pytest.fixture
def made_statistics() -> MadeStatistics:
    """``made(count)``: what a run might know of so many particles, no two alike."""

    def made(count: int) -> ParticleStatistics:
        generator = torch.Generator().manual_seed(4)
        probability = torch.rand(2, count, generator=generator)
        values = torch.randn(2, count, generator=generator)
        samples = torch.randperm(count, generator=generator) + 1
        return ParticleStatistics(20 * values[0], *probability, samples, 15 + 5 * values[1], 5 + 5 * probability[0])

    return made

"""Starts from moments land near the truth; random ones are faint."""

import math

import pytest
import torch

from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel
from orbitrec.cryoem.search.starts import moment_starts, random_starts, seeded_spheres
from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import write_star
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.phantoms import protein_phantom

N, RADIUS, PIXEL_A = 32, 10.0, 3.0


@pytest.fixture(scope="module")
def truth():
    return protein_phantom(30, radius=7.0, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def stack(truth, tmp_path_factory):
    """3,000 particles seen unevenly at an SNR near 1 without CTF."""
    folder = tmp_path_factory.mktemp("stack")
    generator = torch.Generator().manual_seed(1)
    views = VonMisesFisherMixture.random(generator)
    rotations, shifts = random_poses(3000, generator, views=views, shift_px=0.5)
    simulation = ParticleSimulation(truth, N, PIXEL_A, rotations, shifts)
    scale = simulation.signal_variance() ** 0.5
    with StackWriter(folder / "particles.mrcs", 3000, N, PIXEL_A) as writer:
        for images in simulation.images(None, generator):
            writer.write(images / scale + torch.randn(images.shape, generator=generator))
    write_star(folder / "particles.star", particle_tables("particles.mrcs", 3000, N, PIXEL_A))
    return ParticleStack.open(folder / "particles.star", ctf=False), scale


@pytest.fixture(scope="module")
def level():
    return ResolutionLevel.at(PolarGrid.for_radius(N, 0.9, RADIUS + 3), RADIUS, 8.0)


def test_moment_starts_have_the_shape_and_the_scale_of_the_truth(truth, stack, level):
    images, scale = stack
    (start,) = moment_starts(images, torch.arange(len(images)), level, 1, torch.Generator().manual_seed(2))
    assert start.kind == "moments"
    assert float(start.model.log_views.exp().sum()) == pytest.approx(1, abs=1e-4)
    found = level.volume(start.model).to_grid(N).double()
    # What a level of this bandwidth can hold of the truth: the same basis, by orthonormal projection on the lattice.
    wanted = truth.to_grid(N).double() / scale
    aligned = align(found, wanted)
    assert aligned.correlation > 0.6
    # The images' total density fixes the scale; a factor of the lattice's pixel would show as 1.5 or more.
    assert float(found.sum() / wanted.sum()) == pytest.approx(1, abs=0.3)


def test_none_asked_none_made(stack, level):
    assert moment_starts(stack[0], torch.arange(len(stack[0])), level, 0, torch.Generator()) == []


def test_random_starts_differ_and_are_faint(level):
    power = torch.full((level.grid.node_count,), 2.0)
    first, second = random_starts(level, power, 2, torch.Generator().manual_seed(0))
    templates = level.projector.templates(first.model.coefficients)
    energy = (templates.abs().square().sum(1).mean(0) * power).sum()
    assert float(energy) == pytest.approx(0.5, rel=1e-4)
    assert not torch.equal(first.model.coefficients, second.model.coefficients)
    assert first.kind == "random"
    assert first.model.log_views.exp().sum() == pytest.approx(1, abs=math.ulp(1) * 1e10)


@pytest.mark.parametrize("n", [32, 33])
def test_seeded_spheres_are_the_particles_mean_and_a_tenth_of_something_else(n):
    """A Gaussian ball, whose images are all alike, in white noise: its transform is known."""
    group, width, generator = PointGroup.named("O"), 3.0, torch.Generator().manual_seed(4)
    level = ResolutionLevel.at(PolarGrid.for_radius(n, 1.6, RADIUS + 3), RADIUS, 16.0, group)
    grid, count = level.grid, 3000
    modes = torch.zeros(count, grid.max_mode + 1, grid.node_count, dtype=torch.complex64)
    clean = 10 * grid.scale * torch.exp(-0.5 * (grid.nodes * width).square())
    modes[:, 0] = clean + torch.randn(count, grid.node_count, generator=generator) / 2**0.5
    filters, index = torch.ones(1, grid.node_count), torch.zeros(count, dtype=torch.long)
    data = ParticleModes(grid, modes, filters, index, NoiseSpectrum.white(n, 1.0), PIXEL_A)
    centres = torch.zeros(count, 2, dtype=torch.float64)
    first, second = (each.model for each in seeded_spheres(level, data, centres, 2, generator))
    round_part = level.basis.lm == 0
    assert torch.equal(first.coefficients[round_part], second.coefficients[round_part])
    assert not torch.equal(first.coefficients, second.coefficients)
    power = first.coefficients.double().square()
    assert float(power[~round_part].sum() / power.sum()) == pytest.approx(0.1, rel=1e-4)
    sphere = torch.where(round_part, first.coefficients, 0.0)
    found = level.projector.templates(sphere)[:, 0].real.double()
    # 2,000 particles leave a standard error of 0.016 on each node; the basis holds the ball to a per cent.
    assert float((found - clean).abs().max()) < 0.02 * float(clean.max()) + 5 * 0.016

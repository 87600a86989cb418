import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.preprocess import ParticleModes, preprocess
from orbitrec.errors import InputError
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import direction_frames
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import write_star
from orbitrec.models.cryoem import polar_templates
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.voxel import VoxelVolume

PIXEL_A, K_MAX, RADIUS = 3.0, 1.3, 10.0
TOLERANCE = 2e-2  # relative; measured 1.6e-2 at 32 px and 3e-3 at 33 px
ATOMS = GaussianMixture(
    torch.tensor([[3.0, -1.5, 2.0], [-2.0, 3.0, 0.5], [0.0, -3.0, -2.5]], dtype=torch.float64),
    torch.tensor([1.6, 2.0, 1.8], dtype=torch.float64),
    torch.tensor([300.0, 450.0, 240.0], dtype=torch.float64),
)


def defocus(count: int, astigmatism_A: float, micrographs: int = 3) -> CTFParameters:
    one = torch.ones(count, dtype=torch.float64)
    mean = 5000 + 700 * (torch.arange(count) % micrographs).double()
    return CTFParameters(
        mean + astigmatism_A, mean - astigmatism_A, 37 * one, 300 * one, 2 * one, 0.1 * one, 0 * one
    )  # fmt: skip


def on_disk(folder: Path, images: Tensor, ctf: CTFParameters | None = None) -> ParticleStack:
    count, n, _ = images.shape
    with StackWriter(folder / "p.mrcs", count, n, PIXEL_A) as stack:
        stack.write(images.float())
    write_star(folder / "p.star", particle_tables("p.mrcs", count, n, PIXEL_A, ctf=ctf))
    return ParticleStack.open(folder / "p.star", ctf=ctf is not None)


def with_cancelling_noise(simulation: ParticleSimulation, noise: NoiseSpectrum) -> Tensor:
    """Every image twice, with opposite noise: half the sum of their modes is free of it to rounding."""
    clean = simulation.clean(torch.arange(len(simulation)), torch.float64)
    draws = noise.sample(len(simulation), torch.Generator().manual_seed(8), torch.float64)
    return torch.cat([clean + draws, clean - draws])


def noiseless(data: ParticleModes) -> Tensor:
    half = len(data) // 2
    return (data.modes[:half] + data.modes[half:]) / 2


def simulated(n: int, count: int, astigmatism_A: float | None) -> ParticleSimulation:
    rotations, shifts_px = random_poses(count, torch.Generator().manual_seed(n), shift_px=1.0)
    ctf = None if astigmatism_A is None else defocus(count, astigmatism_A)
    volume = VoxelVolume(ATOMS.to_grid(n))
    return ParticleSimulation(volume, n, PIXEL_A, rotations, shifts_px, ctf)


def doubled(ctf: CTFParameters | None) -> CTFParameters | None:
    return None if ctf is None else ctf.select(torch.arange(2 * len(ctf)) % len(ctf))


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("astigmatism_A", [None, 0.0, 400.0])
def test_modes_are_filtered_slices_at_the_true_pose(tmp_path, n, astigmatism_A):
    """``Y = c² v̂(R(kx, ky, 0)) e^{−ik·s} / S`` on the polar circle, up to what the ripples of the estimated spectrum
    and the CTF, in the microscope and again in the filter, spread beyond the box."""
    count, variance = 40, 4.0
    simulation = simulated(n, count, astigmatism_A)
    images = with_cancelling_noise(simulation, NoiseSpectrum.white(n, variance))
    data = preprocess(on_disk(tmp_path, images, doubled(simulation.ctf)), K_MAX, RADIUS)
    grid = data.grid
    assert (grid.box, grid.k_max, len(data)) == (n, K_MAX, 2 * count)
    # The white noise's level, from the corners of 80 images; its lowest shells are the worst known.
    assert data.noise.pixel_variance == pytest.approx(variance, rel=0.03)
    assert torch.allclose(data.noise.shells[3:] / variance, torch.ones(1, dtype=torch.float64), rtol=0.1)

    points = torch.cat([grid.points, torch.zeros(*grid.points.shape[:2], 1, dtype=torch.float64)], dim=-1)
    slices = simulation.volume.fourier(torch.einsum("bij,pkj->bpki", simulation.rotations, points))
    slices = slices * torch.exp(-1j * torch.einsum("pkc,bc->bpk", grid.points, simulation.shifts_px))
    if simulation.ctf is not None:
        slices = slices * simulation.ctf.evaluate(grid.points, PIXEL_A).square()
    expected = grid.from_circle(slices) / data.noise.at(grid.nodes)
    error = (noiseless(data) - expected).abs().square().sum((1, 2)).sqrt()
    assert float((error / expected.abs().square().sum((1, 2)).sqrt()).max()) < TOLERANCE


@pytest.mark.parametrize("n", [32, 33])
def test_modes_are_filter_power_times_templates(tmp_path, n):
    """Without astigmatism ``Y = h² T`` moved by the shift: what the likelihood takes them for."""
    simulation = simulated(n, 24, 0.0)
    images = with_cancelling_noise(simulation, NoiseSpectrum.white(n, 4.0))
    data = preprocess(on_disk(tmp_path, images, doubled(simulation.ctf)), K_MAX, RADIUS)
    assert data.filters.shape == (3, data.grid.node_count)
    directions = simulation.rotations[:, :, 2]
    templates = polar_templates(simulation.volume, data.grid, directions)
    # The pose's in-plane angle is psi, the group's α = −psi; mode m of a template rotated by α carries exp(−imα).
    turn = direction_frames(directions).mT @ simulation.rotations
    psi = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
    rotated = templates * torch.exp(1j * psi[:, None] * torch.arange(data.grid.max_mode + 1))[:, :, None]
    rows = torch.arange(len(simulation))
    expected = data.ctf2_over_noise(rows).double()[:, None] * data.grid.moved(rotated, simulation.shifts_px)
    error = (noiseless(data) - expected).abs().square().sum((1, 2)).sqrt()
    assert float((error / expected.abs().square().sum((1, 2)).sqrt()).max()) < TOLERANCE


@pytest.mark.parametrize("with_ctf", [False, True])
@pytest.mark.parametrize("n", [32, 33])
def test_the_score_of_noise_has_the_variance_the_likelihood_takes(tmp_path, n, with_ctf):
    """For noise alone ``Re Σ Y conj T`` has variance ``Σ h² |T|²``.

    Both spectra, true and estimated, are in the prediction, so the estimate's own error is not.
    """
    count, noise = 1500, NoiseSpectrum.coloured(n).scaled(3.0)
    images = noise.sample(count, torch.Generator().manual_seed(5))
    data = preprocess(on_disk(tmp_path, images, defocus(count, 300.0) if with_ctf else None), K_MAX, RADIUS)
    nodes = data.grid.nodes
    ratio = noise.at(nodes) / data.noise.at(nodes)
    assert float((ratio[nodes > 0.6] - 1).abs().max()) < 0.1
    templates = polar_templates(ATOMS, data.grid, spherical_design(5))
    for weighted in (templates, templates * nodes.square()):
        score = torch.einsum("bmk,dmk->bd", data.modes.to(torch.complex128), weighted.conj()).real
        power = data.ctf2_over_noise(torch.arange(count)).double().mean(0)
        found = score.var(0) / (weighted.abs().square().sum(1) @ (power * ratio))
        assert bool(((found - 1).abs() < 5 * math.sqrt(2 / count)).all())
        assert float(found.mean()) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("n", [32, 33])
def test_coloured_noise_is_whitened(tmp_path, n):
    """For noise alone the variance of Y is h² G, G the Gram matrix of unit white noise on the grid."""
    count, noise = 1500, NoiseSpectrum.coloured(n).scaled(3.0)
    data = preprocess(on_disk(tmp_path, noise.sample(count, torch.Generator().manual_seed(5))), K_MAX, RADIUS)
    nodes = data.grid.nodes
    gram = torch.diagonal(data.grid.noise_gram(), dim1=1, dim2=2).real
    ratio = noise.at(nodes) / data.noise.at(nodes)
    found = data.modes.abs().double().square().mean(0) / (data.filters.double() * ratio * gram)
    # |complex normal|² has its mean as standard deviation, √2 of it for the real mode 0; a spectrum that bends within
    # the box's resolution 2π/n blurs by some per cent more. High modes of low nodes lie beyond the box.
    standard_error = torch.full((9, 1), 1 / math.sqrt(count), dtype=torch.float64)
    standard_error[0] *= math.sqrt(2)
    middle = (nodes > 0.6) & (nodes < 1.2)
    assert bool(((found[:9, middle] - 1).abs() < 5 * standard_error + 0.05).all())
    assert float(found[:9, middle].mean()) == pytest.approx(1, abs=0.04)


def test_chunks_change_only_the_rounding(tmp_path):
    simulation = simulated(32, 20, 300.0)
    images = with_cancelling_noise(simulation, NoiseSpectrum.white(32, 4.0))
    stack = on_disk(tmp_path, images, doubled(simulation.ctf))
    done: list[int] = []
    whole, parts = preprocess(stack, K_MAX, RADIUS), preprocess(stack, K_MAX, RADIUS, chunk=7, progress=done.append)
    assert sum(done) == len(stack) == len(parts)
    assert torch.allclose(whole.modes, parts.modes, atol=1e-4 * float(whole.modes.abs().max()))
    assert torch.equal(whole.filter_index, parts.filter_index)


@pytest.mark.parametrize("n", [32, 33])
def test_observations_are_moved_back_by_centres_and_shifts(tmp_path, n):
    simulation = simulated(n, 12, None)
    still = ParticleSimulation(simulation.volume, n, PIXEL_A, simulation.rotations, torch.zeros(12, 2).double())
    noise = NoiseSpectrum.white(n, 4.0)
    moved = noiseless(data := preprocess(on_disk(tmp_path, with_cancelling_noise(simulation, noise)), K_MAX, RADIUS))
    data = ParticleModes(data.grid, moved, data.filters, data.filter_index[:12], data.noise, data.pixel_size_A)
    unmoved = data.grid.from_images(still.clean(torch.arange(12))) / data.noise.at(data.grid.nodes).float()
    part = data.grid.truncated(1.0, 8.0)
    wanted = unmoved[:, : part.max_mode + 1, : part.node_count]
    rows = torch.tensor([7, 2, 9])
    shifts = torch.tensor([[0.0, 0.0], [1.0, -0.5]], dtype=torch.float64)
    truth = simulation.shifts_px[rows]
    alone = data.observations(rows, part, truth, shifts[:1], torch.zeros(1))
    both = data.observations(rows, part, truth - shifts[1], shifts, torch.zeros(2))
    scale = float(wanted.abs().max())
    assert alone.modes.shape == (3, 1, part.max_mode + 1, part.node_count)
    assert torch.allclose(alone.modes[:, 0], wanted[rows], atol=TOLERANCE * scale)
    assert torch.allclose(both.modes[:, 1], wanted[rows], atol=TOLERANCE * scale)
    assert not torch.allclose(both.modes[:, 0], wanted[rows], atol=1e-1 * scale)
    own = data.observations(rows, part, truth - shifts[1], shifts[1].expand(3, 1, 2), torch.zeros(1))
    assert torch.allclose(own.modes, both.modes[:, 1:], atol=1e-6 * scale)
    assert torch.equal(both.ctf2_over_noise, data.ctf2_over_noise(rows)[:, : part.node_count])


def test_bad_images_are_refused(tmp_path):
    images = torch.randn(30, 32, 32, generator=torch.Generator().manual_seed(1))
    images[21, 3, 4] = math.nan
    with pytest.raises(InputError, match=r"row 22 .*NaN or infinite"):
        preprocess(on_disk(tmp_path, images), K_MAX, RADIUS, chunk=8)


def test_a_constant_image_is_refused(tmp_path):
    images = torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(1))
    images[4] = 2.0
    with pytest.raises(InputError, match=r"row 5 .*constant"):
        preprocess(on_disk(tmp_path, images), K_MAX, RADIUS)

import math

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.centring import _mode_zero_after_shift, centre, centre_from_coarse_to_fine, shift_grid
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.geometry.polar import PolarGrid
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.base import Volume
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.phantoms import protein_phantom

COUNT = 300


def blobs(*centers: tuple[float, float, float], width: float) -> GaussianMixture:
    count = len(centers)
    return GaussianMixture(
        torch.tensor(centers, dtype=torch.float64),
        torch.full((count,), width, dtype=torch.float64),
        torch.full((count,), 100.0, dtype=torch.float64),
    )


def particles(volume: Volume, snr: float, shift_px: float, n: int = 32, seed: int = 1) -> tuple[ParticleModes, Tensor]:
    """``COUNT`` white-noise images of ``volume``, without CTF, and their true shifts; ``snr`` 0 for noise alone."""
    generator = torch.Generator().manual_seed(seed)
    rotations, shifts_px = random_poses(COUNT, generator, shift_px=shift_px)
    simulation = ParticleSimulation(volume, n, 1.0, rotations, shifts_px)
    noise = NoiseSpectrum.white(n, simulation.signal_variance() / (snr or 1.0))
    images = noise.sample(COUNT, generator) + (simulation.clean(torch.arange(COUNT)) if snr else 0.0)
    grid, power = PolarGrid.for_radius(n, 1.5, 13.0), 1 / noise.pixel_variance
    filters, index = torch.full((1, grid.node_count), power), torch.zeros(COUNT, dtype=torch.long)
    return ParticleModes(grid, grid.from_images(images) * power, filters, index, noise, 1.0), shifts_px


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize(("n", "snr"), [(32, 0.05), (33, 0.2), (32, 1.0)])
def test_a_round_particle_is_centred_to_the_stated_residual(n, snr):
    # The model is exact here, so the errors' spread is the posterior's, or the lattice's cell where that is wider.
    truth = 1.2
    data, shifts_px = particles(blobs((0.0, 0.0, 0.0), width=3.0), snr, truth, n)
    found = centre(data, 0.9, prior_px=2.0)
    error = found.centres - shifts_px
    assert rms(error) == pytest.approx(found.residual_px, rel=0.2)
    assert bool((error.mean(0).abs() < 5 * found.residual_px / math.sqrt(COUNT)).all())
    # 2N coordinates drawn with variance σ² and each seen through a posterior of variance r².
    standard_error = (truth**2 + found.residual_px**2) / truth / math.sqrt(2 * 2 * COUNT)
    assert abs(found.prior_px - truth) < 4 * standard_error


@pytest.mark.parametrize("snr", [0.2, 1.0])
def test_a_phantom_is_centred(snr):
    # Its projections are not round, so the errors exceed the posterior's spread; the centre of mass is at the origin.
    truth = 1.5
    data, shifts_px = particles(protein_phantom(20, 9.0, torch.Generator().manual_seed(3)), snr, truth)
    found = centre_from_coarse_to_fine(data, [0.6, 0.9, 1.2], prior_px=1.6)
    error = found.centres - shifts_px
    error = error - error.mean(0)
    assert rms(error) < 1.6 * found.residual_px
    assert rms(error) < 0.35 * rms(shifts_px)
    assert found.prior_px == pytest.approx(truth, rel=0.15)


def test_noise_alone_is_left_where_it_is():
    prior_px = 1.6
    data, _ = particles(blobs((0.0, 0.0, 0.0), width=3.0), 0.0, prior_px)
    found = centre(data, 0.9, prior_px=prior_px)
    assert rms(found.centres) < 0.2 * prior_px
    assert 0.8 * prior_px < found.residual_px <= found.prior_px <= 1.05 * prior_px
    assert bool(found.profile.isfinite().all())


@pytest.mark.parametrize("k_max", [0.4, 0.9])
@pytest.mark.parametrize("snr", [0.1, 5.0])
def test_centred_particles_stay_centred(snr, k_max):
    # Their fitted width falls to what the lattice can tell, not to zero.
    data, _ = particles(blobs((0.0, 0.0, 0.0), width=3.0), snr, 0.0)
    found = centre(data, k_max, prior_px=1.6)
    cell = 0.8 / k_max / math.sqrt(12)
    assert found.prior_px == pytest.approx(cell, rel=1e-6)
    assert found.residual_px == pytest.approx(cell, rel=1e-6)
    assert rms(found.centres) < cell


def test_centring_keeps_the_fit_before_it_locks_on_to_a_part():
    # Two balls melt into one at 0.6 radians per pixel; at 0.9 a radial template sits on either of them.
    data, shifts_px = particles(blobs((4.0, 0.0, 0.0), (-4.0, 0.0, 0.0), width=1.5), 1.0, 0.7)
    coarse, fine = (centre(data, k_max, prior_px=1.0) for k_max in (0.6, 0.9))
    assert fine.prior_px > 1.5 * coarse.prior_px
    assert fine.residual_px < coarse.residual_px  # it is sure of itself
    assert rms(fine.centres - shifts_px) > 2 * rms(coarse.centres - shifts_px)
    kept = centre_from_coarse_to_fine(data, [0.6, 0.9, 1.2], prior_px=1.0)
    assert torch.equal(kept.centres, coarse.centres)
    assert (kept.prior_px, kept.residual_px) == (coarse.prior_px, coarse.residual_px)


def test_centring_goes_on_while_the_fit_sharpens():
    data, _ = particles(blobs((0.0, 0.0, 0.0), width=2.0), 0.2, 1.2)
    finest = centre(data, 1.2, prior_px=2.0)
    assert torch.equal(centre_from_coarse_to_fine(data, [0.6, 0.9, 1.2], prior_px=2.0).centres, finest.centres)
    assert finest.residual_px < centre(data, 0.6, prior_px=2.0).residual_px


@pytest.mark.parametrize(("radius", "step"), [(4.0, 1.0), (4.8, 0.89), (0.5, 1.0)])
def test_the_lattice_of_shifts(radius, step):
    shifts = shift_grid(radius, step)
    rows = {tuple(row) for row in shifts.tolist()}
    assert (0.0, 0.0) in rows
    assert {(-x, -y) for x, y in rows} == rows == {(y, x) for x, y in rows}
    assert float(shifts.norm(dim=1).max()) <= radius * (1 + 1e-9)
    # All lattice points of the disc: each stands for one cell.
    reach = int(radius / step) + 1
    inside = sum(math.hypot(i, j) * step <= radius for i in range(-reach, reach + 1) for j in range(-reach, reach + 1))
    assert len(shifts) == len(rows) == inside


@pytest.mark.parametrize("n", [24, 25])
def test_mode_zero_after_a_shift_is_that_of_the_shifted_image(n):
    grid = PolarGrid.for_radius(n, 1.5, 16.0)
    axis = torch.arange(n, dtype=torch.float64) - n // 2
    envelope = torch.exp(-(axis.square()[:, None] + axis.square()) / (2 * 2.5**2))
    images = envelope * torch.randn(3, n, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    modes = grid.from_images(images)
    back = shift_grid(2.0, 0.7)
    exact = grid.shift(modes, -back)[:, :, 0]
    rows = _mode_zero_after_shift(grid, back)
    found = torch.einsum("scmk,bmkc->bsk", rows, torch.view_as_real(modes))
    assert float(exact.imag.abs().max()) < 1e-12 * float(exact.abs().max())
    assert float((found - exact.real).abs().max()) < 1e-6 * float(exact.abs().max())

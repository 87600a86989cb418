import math
import shutil
import subprocess

import pytest
import torch

from oracles import cartesian_templates
from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.io.mrc import read_map, write_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import write_star
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation, random_defocus, random_poses
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.phantoms import protein_phantom
from orbitrec.volumes.voxel import VoxelVolume


def simulation(n: int, count: int, ctf: bool = True, seed: int = 0) -> ParticleSimulation:
    generator = torch.Generator().manual_seed(seed)
    volume = protein_phantom(20, 0.3 * n, generator)
    rotations, shifts_px = random_poses(count, generator, shift_px=1.5)
    return ParticleSimulation(
        volume, n, 3.0, rotations, shifts_px, random_defocus(count, generator, 3) if ctf else None
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [32, 33])
def test_blobs_appear_where_the_pose_puts_them(n, dtype):
    # An isotropic Gaussian at c projects to one of the same width at (Rᵀc)_xy, displaced by s.
    generator = torch.Generator().manual_seed(1)
    rotations, shifts_px = random_poses(4, generator, shift_px=1.0)
    volume = GaussianMixture(
        torch.tensor([[5.0, -2.0, 3.0], [-4.0, 4.0, 0.0]]).double(),
        torch.tensor([1.7, 2.0]).double(),
        torch.tensor([1.0, 2.0]).double(),
    )
    images = ParticleSimulation(volume, n, 1.0, rotations, shifts_px).clean(torch.arange(4), dtype)
    assert images.dtype == dtype
    x = torch.arange(n, dtype=torch.float64) - n // 2
    for image, rotation, shift in zip(images, rotations, shifts_px, strict=True):
        expected = torch.zeros(n, n, dtype=torch.float64)
        for center, width, weight in zip(volume.centers @ rotation, volume.widths, volume.weights, strict=True):
            distance = (x - center[0] - shift[0]).square() + (x[:, None] - center[1] - shift[1]).square()
            expected += weight * torch.exp(-distance / (2 * width**2)) / (2 * math.pi * width**2)
        assert torch.allclose(image.double(), expected, atol=2e-6)


def test_half_plane_and_whole_plane_give_one_image():
    sim = simulation(33, 3, ctf=False)
    still = ParticleSimulation(sim.volume, 33, 3.0, sim.rotations, torch.zeros(3, 2).double())
    whole = centred_ifft(cartesian_templates(sim.volume, 33, sim.rotations).reshape(3, 33, 33)).real
    assert torch.allclose(still.clean(torch.arange(3), torch.float64), whole, atol=1e-12)


@pytest.mark.parametrize("n", [32, 33])
def test_ctf_multiplies_the_transform(n):
    with_ctf, without = simulation(n, 7), simulation(n, 7, ctf=False)
    rows = torch.tensor([6, 0, 3])
    ctf = with_ctf.ctf.select(rows).on_grid(n, 3.0, torch.float64)
    expected = centred_ifft(ctf * centred_fft(without.clean(rows, torch.float64))).real
    # The Nyquist line of an even box is its own mirror image, and products on it do not commute with taking real parts.
    tolerance = 1e-12 if n % 2 else 1e-6
    assert torch.allclose(with_ctf.clean(rows, torch.float64), expected, atol=tolerance)


@pytest.mark.parametrize("coloured", [False, True])
def test_signal_to_noise_ratio_is_the_one_written_down(coloured):
    n, count, snr = 32, 300, 0.1
    sim = simulation(n, count)
    shape = NoiseSpectrum.coloured(n) if coloured else NoiseSpectrum.white(n, 1.0)
    noise = shape.scaled(sim.signal_variance() / snr)
    images = torch.cat(list(sim.images(noise, torch.Generator().manual_seed(9), chunk=64)))
    clean = sim.clean(torch.arange(count))
    x = torch.arange(n) - n // 2
    disc = (x[:, None] ** 2 + x**2).sqrt() <= 0.45 * n
    signal = torch.stack([image[disc].var(correction=0) for image in clean]).mean()
    per_image = (images - clean).double().square().mean((-2, -1))
    assert images.shape == (count, n, n)
    standard_error = float(per_image.std()) / math.sqrt(count)
    assert abs(float(per_image.mean()) - float(signal) / snr) < 5 * standard_error


def test_without_noise_the_images_are_clean():
    sim = simulation(16, 5)
    images = torch.cat(list(sim.images(None, torch.Generator(), chunk=2)))
    assert torch.allclose(images, sim.clean(torch.arange(5)), atol=1e-6)


def test_uniform_poses():
    count = 4000
    rotations, shifts_px = random_poses(count, torch.Generator().manual_seed(2), shift_px=2.0)
    # Each entry of a uniform rotation has mean 0 and variance 1/3; a Gaussian's variance has the error σ²√(2/N).
    assert bool((rotations.mean(0).abs() < 5 / math.sqrt(3 * count)).all())
    assert bool(((shifts_px.var(0) - 4).abs() < 5 * 4 * math.sqrt(2 / count)).all())
    assert bool((shifts_px.mean(0).abs() < 5 * 2 / math.sqrt(count)).all())


def test_poses_with_preferred_views():
    count, kappa = 4000, 20.0
    mean = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    views = VonMisesFisherMixture(mean, torch.tensor([kappa]).double(), torch.ones(1).double())
    rotations, shifts_px = random_poses(count, torch.Generator().manual_seed(3), views=views)
    cosine = rotations[:, :, 2] @ mean[0]
    expected = 1 / math.tanh(kappa) - 1 / kappa
    assert abs(float(cosine.mean()) - expected) < 5 * float(cosine.std()) / math.sqrt(count)
    # In-plane angles stay uniform: the images' x axes cancel.
    assert bool((rotations[:, :, 0].mean(0).abs() < 5 / math.sqrt(count)).all())
    assert torch.equal(shifts_px, torch.zeros(count, 2).double())


def test_micrographs_share_their_defocus():
    ctf = random_defocus(120, torch.Generator().manual_seed(4), per_micrograph=50)
    rows, row_of = ctf.unique()
    mean = (ctf.defocus_u_A + ctf.defocus_v_A) / 2
    assert len(ctf) == 120
    assert len(rows) == 3
    assert torch.equal(torch.bincount(row_of).sort().values, torch.tensor([20, 50, 50]))
    assert float(mean.min()) >= 1e4
    assert float(mean.max()) <= 2.5e4


def test_lengths_must_agree():
    sim = simulation(16, 4)
    with pytest.raises(InputError, match="CTF"):
        ParticleSimulation(sim.volume, 16, 3.0, sim.rotations, sim.shifts_px, sim.ctf.select(slice(0, 3)))


@pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION's programs are not installed")
def test_relion_projects_our_poses_to_our_images(tmp_path):
    n, count, pixel_size_A = 48, 6, 2.5
    generator = torch.Generator().manual_seed(6)
    rotations, shifts_px = random_poses(count, generator, views=VonMisesFisherMixture.random(generator), shift_px=2.0)
    angles, one = 180 * torch.rand(count, generator=generator).double(), torch.ones(count).double()
    ctf = CTFParameters(22000 * one, 18000 * one, angles, 200 * one, 2.7 * one, 0.07 * one, 30 * one)
    write_map(tmp_path / "map.mrc", protein_phantom(80, 0.3 * n, generator).to_grid(n), pixel_size_A)
    grid, _ = read_map(tmp_path / "map.mrc")
    ours = ParticleSimulation(VoxelVolume(grid), n, pixel_size_A, rotations, shifts_px, ctf).clean(torch.arange(count))
    poses = particle_tables("x.mrcs", count, n, pixel_size_A, ctf=ctf, rotations=rotations, shifts_px=shifts_px)
    write_star(tmp_path / "poses.star", poses)
    command = ["relion_project", "--i", "map.mrc", "--ang", "poses.star", "--o", "out", "--ctf", "--angpix", "2.5"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    theirs = ParticleStack.open(tmp_path / "out.star").images(slice(None))
    for a, b in zip(ours, theirs, strict=True):
        assert float(torch.corrcoef(torch.stack([a.reshape(-1), b.reshape(-1)]))[0, 1]) > 0.999

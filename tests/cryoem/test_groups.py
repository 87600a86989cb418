"""Stacks whose images are not all alike: noise of several optics groups, images multiplied by their CTF."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oracles import reconstruct
from orbitrec.cryoem.accumulate import accumulate_moments
from orbitrec.cryoem.preprocess import estimated_noise, preprocess
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import write_star
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.noise import GroupedNoise, NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.voxel import VoxelVolume

N, PIXEL_A, COUNT = 32, 3.0, 600
ATOMS = GaussianMixture(
    torch.tensor([[3.0, -1.5, 2.0], [-2.0, 3.0, 0.5], [0.0, -3.0, -2.5]], dtype=torch.float64),
    torch.tensor([1.6, 2.0, 1.8], dtype=torch.float64),
    torch.tensor([60.0, 90.0, 48.0], dtype=torch.float64),
)


def _ctf(voltages_kV: tuple[float, ...]) -> CTFParameters:
    """Twelve defoci; one voltage after the other makes optics groups."""
    one = torch.ones(COUNT, dtype=torch.float64)
    mean = 6000 + 900 * (torch.arange(COUNT) % 12).double()
    voltage = torch.tensor(voltages_kV, dtype=torch.float64).repeat(COUNT // len(voltages_kV))
    return CTFParameters(mean + 100, mean - 100, 37 * one, voltage, 2 * one, 0.1 * one, 0 * one)


def _simulation(ctf: CTFParameters | None) -> ParticleSimulation:
    rotations, shifts_px = random_poses(COUNT, torch.Generator().manual_seed(1), shift_px=1.0)
    return ParticleSimulation(VoxelVolume(ATOMS.to_grid(N)), N, PIXEL_A, rotations, shifts_px, ctf)


def _on_disk(folder: Path, images: Tensor, ctf: CTFParameters | None, premultiplied: bool = False) -> ParticleStack:
    folder.mkdir(exist_ok=True)
    with StackWriter(folder / "p.mrcs", len(images), N, PIXEL_A) as stack:
        stack.write(images.float())
    blocks = particle_tables("p.mrcs", len(images), N, PIXEL_A, ctf=ctf)
    blocks["optics"]["rlnCtfDataAreCtfPremultiplied"] = int(premultiplied)
    write_star(folder / "p.star", blocks)
    return ParticleStack.open(folder / "p.star")


def test_every_group_is_whitened_by_its_own_spectrum(tmp_path: Path) -> None:
    ctf = _ctf((200.0, 300.0))
    generator, second = torch.Generator().manual_seed(2), ctf.voltage_kV == 300
    images = torch.randn(COUNT, N, N, generator=generator)
    images[second] = NoiseSpectrum.coloured(N).scaled(9.0).sample(int(second.sum()), generator)
    stack = _on_disk(tmp_path, images, ctf)
    noise = estimated_noise(stack)
    assert isinstance(noise, GroupedNoise)
    assert torch.equal(noise.group, second.long())
    assert [round(s.pixel_variance, 1) for s in noise.spectra] == [1.0, pytest.approx(9.0, rel=0.05)]
    data = preprocess(stack, 1.3, 10.0)
    assert data.filters.shape == (12, data.grid.node_count)
    # For noise alone |Y|² averages to h² G: so it does in each group.
    gram = torch.diagonal(data.grid.noise_gram(), dim1=1, dim2=2).real
    middle = (data.grid.nodes > 0.6) & (data.grid.nodes < 1.2)
    for rows in (second.nonzero().flatten(), (~second).nonzero().flatten()):
        found = data.modes[rows].abs().double().square().mean(0)
        expected = data.ctf2_over_noise(rows).double().mean(0) * gram
        assert float((found / expected)[:9, middle].mean()) == pytest.approx(1, abs=0.06)


def test_groups_too_small_for_a_spectrum_share_one(tmp_path: Path) -> None:
    ctf = _ctf((300.0,) * 4 + (200.0, 100.0))
    stack = _on_disk(tmp_path, torch.randn(COUNT, N, N, generator=torch.Generator().manual_seed(3)), ctf)
    assert torch.equal(stack.noise_groups().bincount().sort().values, torch.tensor([200, 400]))


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory: pytest.TempPathFactory) -> tuple[ParticleStack, ParticleStack, ParticleSimulation]:
    """The same noisy images as they are, and multiplied by their CTF."""
    ctf, folder = _ctf((300.0,)), tmp_path_factory.mktemp("premultiplied")
    simulation = _simulation(ctf)
    clean = simulation.clean(torch.arange(COUNT), torch.float64)
    noise = NoiseSpectrum.coloured(N).scaled(2.0).sample(COUNT, torch.Generator().manual_seed(4), torch.float64)
    images = clean + noise
    multiplied = centred_ifft(centred_fft(images) * ctf.on_grid(N, PIXEL_A, torch.float64)).real
    return _on_disk(folder / "plain", images, ctf), _on_disk(folder / "multiplied", multiplied, ctf, True), simulation


def test_premultiplied_images_give_the_same_modes_and_noise(both_ways) -> None:
    plain, multiplied, _ = both_ways
    assert not bool(plain.premultiplied.any())
    assert bool(multiplied.premultiplied.all())
    a, b = (preprocess(stack, 1.3, 10.0) for stack in (plain, multiplied))
    nodes = a.grid.nodes
    ratio = b.noise.at(nodes) / a.noise.at(nodes)
    assert float((ratio[nodes > 0.4] - 1).abs().max()) < 0.15
    # Up to the noise's estimate the filtered modes are the same numbers.
    scaled = b.modes * ratio.float()
    assert float((scaled - a.modes).abs().square().sum() / a.modes.abs().square().sum()) < 1e-3
    assert torch.allclose(b.filters * ratio.float(), a.filters, rtol=1e-5)


def test_premultiplied_images_give_the_same_moments(both_ways) -> None:
    plain, multiplied, _ = both_ways
    a, b = (accumulate_moments(stack, 20.0, N * PIXEL_A / 2).estimate() for stack in (plain, multiplied))
    difference = (a.second[:4] - b.second[:4]).abs().square().sum() / a.second[:4].abs().square().sum()
    assert float(difference) < 0.05
    assert float((a.first[0] - b.first[0]).abs().square().sum() / a.first[0].abs().square().sum()) < 0.05


def test_premultiplied_images_give_the_same_map(both_ways) -> None:
    plain, multiplied, simulation = both_ways
    noise = NoiseSpectrum.white(N, 2.0)
    maps = [reconstruct(s, noise, simulation.rotations, simulation.shifts_px, 10.0).volume for s in (plain, multiplied)]
    assert float((maps[0] - maps[1]).norm() / maps[0].norm()) < 1e-3


def test_phase_plates_are_in_the_ctf(tmp_path: Path) -> None:
    """A phase shift of 90° turns −sin χ into cos: bright at zero frequency."""
    ctf = _ctf((300.0,))
    rotated = replace(ctf, phase_shift_deg=torch.full((COUNT,), 90.0, dtype=torch.float64))
    stack = _on_disk(tmp_path, torch.randn(COUNT, N, N, generator=torch.Generator().manual_seed(5)), rotated)
    assert stack.ctf is not None
    centre = stack.ctf.evaluate(torch.zeros(1, 2, dtype=torch.float64), PIXEL_A)
    assert centre[:, 0].tolist() == pytest.approx([math.sin(math.pi / 2 + math.asin(0.1))] * COUNT)

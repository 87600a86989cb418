"""What is found out before a run, against sets made to show it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.image_statistics import DIAMETER_SHARE, MARGIN, image_statistics, particle_radius
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import write_star
from orbitrec.models.background import Background, corner_mask
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.voxel import VoxelVolume

N, PIXEL_A, COUNT = 48, 3.0, 500


def _ball(radius: float, seed: int = 0) -> Tensor:
    """A ball with dense blobs in it, soft at its surface."""
    x = torch.arange(N, dtype=torch.float64) - N // 2
    points = torch.stack(torch.meshgrid(x, x, x, indexing="ij"), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    inside = torch.sigmoid((radius - points.norm(dim=-1)) / 0.5)
    blobs = torch.zeros(N, N, N, dtype=torch.float64)
    for _ in range(8):
        centre = (torch.rand(3, generator=generator, dtype=torch.float64) - 0.5) * 1.2 * radius
        blobs += torch.exp(-(points - centre).square().sum(-1) / (2 * 2.0**2))
    return inside * (0.3 + blobs)


def _ctf(voltages_kV: tuple[float, ...] = (300.0,)) -> CTFParameters:
    one = torch.ones(COUNT, dtype=torch.float64)
    mean = 9000 + 900 * (torch.arange(COUNT) % 10).double()
    voltage = torch.tensor(voltages_kV, dtype=torch.float64).repeat(COUNT // len(voltages_kV))
    return CTFParameters(mean, mean, 0 * one, voltage, 2 * one, 0.1 * one, 0 * one)


def _images(volume: Tensor, ctf: CTFParameters | None, snr: float = 0.2, shift_px: float = 1.0) -> Tensor:
    """Noise of variance 1."""
    generator = torch.Generator().manual_seed(7)
    rotations, shifts_px = random_poses(COUNT, generator, shift_px=shift_px)
    clean = ParticleSimulation(VoxelVolume(volume), N, PIXEL_A, rotations, shifts_px, ctf).clean(torch.arange(COUNT))
    return clean * (snr / float(clean[:, ~corner_mask(N)].var())) ** 0.5 + torch.randn(COUNT, N, N, generator=generator)


def _on_disk(folder: Path, images: Tensor, ctf: CTFParameters | None) -> ParticleStack:
    with StackWriter(folder / "p.mrcs", len(images), N, PIXEL_A) as stack:
        stack.write(images.float())
    write_star(folder / "p.star", particle_tables("p.mrcs", len(images), N, PIXEL_A, ctf=ctf))
    return ParticleStack.open(folder / "p.star", ctf=ctf is not None)


@pytest.mark.parametrize("with_ctf", [True, False])
def test_contrast_is_told_from_the_images(tmp_path: Path, with_ctf: bool) -> None:
    ctf = _ctf() if with_ctf else None
    images = _images(_ball(12.0), ctf)
    bright = image_statistics(_on_disk(tmp_path, images, ctf))
    dark = image_statistics(_on_disk(tmp_path, -images, ctf))
    assert bright.contrast > 5
    assert dark.contrast == pytest.approx(-bright.contrast, rel=1e-3)
    assert (bright.contrast_text(), dark.contrast_text()) == ("dense is bright", "dense is dark")
    assert bright.notes(inverted=False) == dark.notes(inverted=True) == []
    assert "set `dense_is_dark`" in dark.notes(inverted=False)[0]
    noise = torch.randn(COUNT, N, N, generator=torch.Generator().manual_seed(1))
    assert abs(image_statistics(_on_disk(tmp_path, noise, ctf)).contrast) < 5


def test_a_hollow_shell_that_fills_its_box_is_bright(tmp_path: Path) -> None:
    """As apoferritin's: the rim of its images is brighter than their middle."""
    shell = (_ball(15.5) - _ball(10.0)).clamp(min=0)
    assert image_statistics(_on_disk(tmp_path, _images(shell, _ctf()), _ctf())).contrast > 5


@pytest.mark.parametrize("radius", [5.0, 8.0])
def test_small_particles_get_a_smaller_ball(tmp_path: Path, radius: float) -> None:
    found = image_statistics(_on_disk(tmp_path, _images(_ball(radius), None), None))
    assert found.diameter_found
    # The ball holds the particle, its shifts and what the low-pass filter spreads, about two pixels.
    assert 2 * radius * PIXEL_A < found.diameter_A < 2 * MARGIN * (radius + 2.5) * PIXEL_A


def test_particles_of_the_usual_size_get_the_usual_ball(tmp_path: Path) -> None:
    found = image_statistics(_on_disk(tmp_path, _images(_ball(14.0), None), None))
    assert found.diameter_found
    assert found.diameter_A == pytest.approx(DIAMETER_SHARE * N * PIXEL_A)
    assert found.notes() == []


@pytest.mark.parametrize("with_ctf", [True, False])
def test_bright_contamination_changes_neither_size_nor_contrast(tmp_path: Path, with_ctf: bool) -> None:
    ctf = _ctf() if with_ctf else None
    images = _images(_ball(8.0), ctf)
    clean = image_statistics(_on_disk(tmp_path, images, ctf))
    x = torch.arange(N, dtype=torch.float64) - N // 2
    wide = torch.exp(-(x[:, None].square() / (2 * 10.0**2) + x.square() / (2 * 4.0**2)))
    blobs = torch.linspace(-30, -5, COUNT // 5)[:, None, None] * wide  # dark, and wider than the particle
    images[::5] = blobs + torch.randn(len(blobs), N, N, generator=torch.Generator().manual_seed(3))
    dirty = image_statistics(_on_disk(tmp_path, images, ctf))
    assert dirty.diameter_found
    assert dirty.diameter_A == pytest.approx(clean.diameter_A, rel=0.1)
    assert dirty.contrast == pytest.approx(clean.contrast, rel=0.25)  # of four fifths of the images


def test_noise_shows_no_particle(tmp_path: Path) -> None:
    noise = torch.randn(COUNT, N, N, generator=torch.Generator().manual_seed(1))
    found = image_statistics(_on_disk(tmp_path, noise, None))
    assert not found.diameter_found
    assert found.diameter_A == pytest.approx(DIAMETER_SHARE * N * PIXEL_A)
    assert "do not show where the particle ends" in found.notes()[0]
    assert found.notes(diameter_given=True) == []


def test_the_radius_of_a_uniform_ball() -> None:
    """Its projection's square is ``R² − r²``, of which the disc of radius ``R √(1 − √0.02)`` holds 98 %."""
    r = torch.arange(33, dtype=torch.float64)
    for radius in (9.3, 15.0, 24.6):
        found = particle_radius((radius**2 - r.square()).clamp(min=0), torch.full_like(r, 1e-6))
        assert found == pytest.approx(radius * (1 - 0.02**0.5) ** 0.5, abs=0.6)
    assert particle_radius(torch.ones(33, dtype=torch.float64), torch.full_like(r, 1e-6)) is None  # does not end
    assert particle_radius(torch.exp(-r), torch.ones_like(r)) is None  # not clear of the noise


def test_uneven_backgrounds_are_normalised(tmp_path: Path) -> None:
    images = _images(_ball(12.0), None)
    even = image_statistics(_on_disk(tmp_path, 40 * images, None))
    assert not even.normalised  # all alike: whitening sees to that
    generator = torch.Generator().manual_seed(3)
    gain = 0.5 + torch.rand(COUNT, 1, 1, generator=generator)
    stack = _on_disk(tmp_path, gain * images + 5 * torch.randn(COUNT, 1, 1, generator=generator), None)
    found = image_statistics(stack)
    assert found.normalised
    assert "brought to mean 0" in found.notes()[0]
    corners = found.applied(stack).images(range(20))[:, corner_mask(N)]
    torch.testing.assert_close(corners.mean(1), torch.zeros(20), rtol=0, atol=1e-5)
    assert found.noise_deviation == pytest.approx(1, rel=0.02)
    torch.testing.assert_close(found.noise_deviation * corners.std(1), torch.ones(20), rtol=1e-4, atol=0)
    assert found.contrast > 5


def test_groups_of_another_scale_are_brought_to_one(tmp_path: Path) -> None:
    ctf = _ctf((200.0, 300.0))
    second = ctf.voltage_kV == 300
    weak, strong = (_images(_ball(12.0), ctf, snr) for snr in (0.2, 0.8))
    assert torch.equal(image_statistics(_on_disk(tmp_path, weak, ctf)).scales, torch.ones(2, dtype=torch.float64))
    stack = _on_disk(tmp_path, torch.where(second[:, None, None], strong, weak), ctf)
    found = image_statistics(stack)
    assert float(found.scales[1] / found.scales[0]) == pytest.approx(2.0, rel=0.15)
    applied = found.applied(stack).images(slice(None))
    scales = found.noise_deviation * found.scales[second.long()]
    without_planes = Background().removed(stack.images(slice(None)))
    torch.testing.assert_close(applied, without_planes / scales[:, None, None].float(), rtol=1e-5, atol=1e-5)
    assert float(applied[:, corner_mask(N)].var()) == pytest.approx(1, rel=0.02)
    assert "differs in scale" in found.notes()[0]


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e4, 1e8])
def test_images_of_any_scale_are_brought_to_unit_noise(tmp_path: Path, scale: float) -> None:
    ctf = _ctf()
    images = _images(_ball(12.0), ctf)
    stack = _on_disk(tmp_path, scale * images, ctf)
    found = image_statistics(stack)
    assert found.noise_deviation == pytest.approx(scale, rel=0.01)
    expected = Background().removed(images.float()) * (scale / found.noise_deviation)
    torch.testing.assert_close(found.applied(stack).images(slice(None)), expected, rtol=1e-6, atol=1e-6)
    assert (found.normalised, found.contrast > 5, found.diameter_found) == (False, True, True)

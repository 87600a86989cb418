"""The map from known poses: against the truth, direct sums over all frequencies, pure noise and RELION."""

import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oracles import reconstruct
from orbitrec.cryoem import reconstruct as reconstruction
from orbitrec.cryoem.reconstruct import _NormalEquations, half_map, mirror_image
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.evaluation.masks import soft_sphere
from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.grids import frequencies, radial_frequencies
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import mirrored_views, random_rotations
from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import new_run
from orbitrec.io.simulation import write_simulation
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.phantoms import protein_phantom
from orbitrec.volumes.voxel import VoxelVolume

PIXEL_A = 3.0

Simulated = tuple[ParticleStack, Tensor, Tensor]
"""A stack with the rotations and shifts of its particles."""


def _defocused(count: int) -> CTFParameters:
    """Five defoci with astigmatism, none so large that it carries the particle out of the box."""
    one = torch.ones(count, dtype=torch.float64)
    defocus = 2000 + 600.0 * (torch.arange(count) % 5).double()
    return CTFParameters(defocus + 150, defocus - 150, 40 * one, 300 * one, 2 * one, 0.1 * one, 0 * one)


@pytest.fixture
def simulated(tmp_path: Path) -> Callable[..., Simulated]:
    """``simulate(grid, count, ctf)``: particles of a map with random views and shifts of a pixel, on disk."""

    def simulate(grid: Tensor, count: int, *, ctf: bool = True, snr: float = math.inf) -> Simulated:
        generator = torch.Generator().manual_seed(4)
        rotations = random_rotations(count, generator)
        shifts = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        parameters = _defocused(count) if ctf else None
        simulation = ParticleSimulation(VoxelVolume(grid), len(grid), PIXEL_A, rotations, shifts, parameters)
        with new_run(tmp_path / "stack") as run:
            write_simulation(run, simulation, snr, generator)
        return ParticleStack.open(tmp_path / "stack" / "particles.star", ctf=ctf), rotations, shifts

    return simulate


def _phantom(n: int) -> Tensor:
    return protein_phantom(60, 0.26 * n, torch.Generator().manual_seed(5)).to_grid(n).float()


@pytest.mark.parametrize(("n", "ctf"), [(24, True), (25, True), (24, False)])
def test_known_poses_give_the_map_back(simulated, n, ctf):
    """Correlation and scale of all shells below 0.9 Nyquist; the circle of used frequencies cuts those above.

    Where the CTF is near zero, at the origin, the ridge takes three percent of the map away.
    """
    truth = _phantom(n)
    stack, rotations, shifts = simulated(truth, 500, ctf=ctf)
    seen: list[int] = []
    radius = 0.36 * n
    found = reconstruct(stack, NoiseSpectrum.white(n, 1.0), rotations, shifts, radius, chunk=128, progress=seen.append)
    assert sum(seen) == 500
    mask, kept = soft_sphere(n, radius).float(), n // 2 - 1
    for volume in (found.volume, *found.half_maps):
        fsc = fourier_shell_correlation(volume * mask, truth * mask).value
        spectra = [centred_fft((v * mask).double(), 3).flatten() for v in (volume, truth)]
        shell = (radial_frequencies(n, 3) * n / (2 * math.pi)).round().long().flatten()
        cross, power = (torch.bincount(shell, (s * spectra[1].conj()).real)[:kept] for s in spectra)
        assert float(fsc[:kept].min()) > 0.995
        assert float((cross / power - 1).abs().max()) < 0.04


@pytest.mark.parametrize("n", [8, 9])
def test_normal_equations_are_the_direct_sums(simulated, n):
    """With A the projections at all frequencies inside the Nyquist circle, over noise: A*y and A*A, densely.

    The code sums half of the plane by non-uniform FFT, and A*A as a kernel on twice the box.
    """
    generator = torch.Generator().manual_seed(6)
    stack, rotations, shifts = simulated(torch.randn(n, n, n, generator=generator), 5)
    noise = NoiseSpectrum(1 + torch.rand(n // 2 + 1, generator=generator, dtype=torch.float64), n)
    normal = _NormalEquations.empty(n, odd=False)
    for rows in (torch.arange(2), torch.arange(2, 5)):
        normal.add(stack, noise, rows, rotations[rows], shifts[rows])

    k = frequencies(n)
    ky, kx = torch.meshgrid(k, k, indexing="ij")
    points = torch.stack([kx, ky], dim=-1)[torch.hypot(kx, ky) < math.pi * (1 - 1 / n)]
    x = torch.arange(n).double() - n // 2
    voxels = torch.stack(torch.meshgrid(x, x, x, indexing="ij")[::-1], dim=-1).reshape(-1, 3)
    where = torch.einsum("bij,pj->bpi", rotations[:, :, :2], points)
    ctf = stack.ctf.evaluate(points, PIXEL_A)
    factor = ctf * torch.exp(-1j * (shifts @ points.mT)) / noise.at(points.norm(dim=1)).sqrt() / n
    A = (factor[..., None] * torch.exp(-1j * (where @ voxels.mT))).flatten(0, 1)
    inside = (torch.hypot(kx, ky) < math.pi * (1 - 1 / n)).flatten()
    images = centred_fft(stack.images(slice(None)).double()).flatten(1)[:, inside]
    y = (images / noise.at(points.norm(dim=1)).sqrt()).flatten()

    right = (A.mH @ y).real
    assert torch.allclose(normal.right.real.flatten().double(), right, atol=1e-3 * float(right.abs().max()))

    gram = (A.mH @ A).real
    at = (voxels[:, None] - voxels[None] + n).long()
    kernel = normal.kernel.real.double()[at[..., 2], at[..., 1], at[..., 0]]
    assert torch.allclose(kernel, gram, atol=1e-3 * float(gram.abs().max()))

    # The solver's operator is that sum with a ridge: what it returns solves the dense system to its residual.
    v = normal.solve(iterations=300).flatten().double()
    residual = gram @ v + 0.02 * float(gram.diagonal().mean()) * v - right
    assert float(residual.norm() / right.norm()) < 2e-3


def test_right_hand_side_is_the_adjoint_of_projection(simulated):
    """``⟨A*y, v⟩ = Re⟨y, A v⟩`` with A v from the volume's own slices and y the particle images, any v."""
    n = 16
    stack, rotations, shifts = simulated(_phantom(n), 6, snr=0.5)
    normal = _NormalEquations.empty(n, odd=False)
    normal.add(stack, NoiseSpectrum.white(n, 2.0), torch.arange(6), rotations, shifts)
    v = torch.randn(n, n, n, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    projections = ParticleSimulation(VoxelVolume(v), n, PIXEL_A, rotations, shifts, stack.ctf).clean(
        torch.arange(6), torch.float64
    )
    inside = radial_frequencies(n) < math.pi * (1 - 1 / n)
    images, model = (centred_fft(x.double())[:, inside] for x in (stack.images(slice(None)), projections))
    expected = float((images * model.conj()).real.sum()) / 2.0
    assert float((normal.right.real * v).sum()) == pytest.approx(expected, rel=1e-3)


def test_pure_noise_has_no_resolution(simulated):
    """Half-maps of noise do not correlate, and the filter leaves nothing past the first shell that does not."""
    n = 24
    stack, rotations, shifts = simulated(_phantom(n), 300, snr=1e-6)
    found = reconstruct(stack, NoiseSpectrum.white(n, 1.0), rotations, shifts, 0.4 * n)
    shell = (radial_frequencies(n, 3) * n / (2 * math.pi)).round().long()
    counts = torch.bincount(shell.flatten())[: n // 2 + 1].double()
    # The real part of one of the shell's points has the variance 1/2, and half of them are conjugates of the others;
    # the mask leaves about its own share of the box of independent points.
    share = float(soft_sphere(n, 0.4 * n).square().mean())
    deviation = (1 / (counts * share)).sqrt()
    assert bool((found.fsc.value.abs()[1:] < 4 * deviation[1:]).all())
    lost = 1 + int((found.fsc.value[1:] < 0.143).nonzero()[0])
    spectrum = centred_fft(found.volume.double(), 3).abs()
    before = centred_fft(((found.half_maps[0] + found.half_maps[1]) / 2).double(), 3).abs()
    assert lost < n // 2
    assert float(spectrum[shell >= lost].max()) < 1e-5 * float(before.max())


def test_filter_is_the_share_of_signal_until_correlation_is_lost(simulated):
    """Each shell of the map is ``2c/(1+c)`` of the halves' mean up to the first c below 0.143, then nothing."""
    n = 24
    stack, rotations, shifts = simulated(_phantom(n), 200, snr=0.1)
    found = reconstruct(stack, NoiseSpectrum.white(n, 1.0), rotations, shifts, 0.36 * n)
    c = found.fsc.value
    lost = 1 + int((c[1:] < 0.143).nonzero()[0])
    assert 3 < lost < n // 2
    shell = (radial_frequencies(n, 3) * n / (2 * math.pi)).round().long()
    mean = sum(found.half_maps) / 2 * soft_sphere(n, 0.36 * n)
    mean, filtered = (centred_fft(v.double(), 3) for v in (mean, found.volume))
    for s in range(1, n // 2 + 1):
        share = 2 * float(c[s]) / (1 + float(c[s])) if s < lost else 0.0
        on = shell == s
        assert torch.allclose(filtered[on], share * mean[on], atol=1e-5 * float(mean.abs().max()))
    negated = found.negated()
    assert torch.equal(negated.volume, -found.volume)
    assert torch.equal(negated.half_maps[1], -found.half_maps[1])


@pytest.mark.parametrize("largest", [24, 25])
def test_large_boxes_are_solved_on_coarser_voxels(simulated, monkeypatch, largest):
    """Below the coarser Nyquist frequency the map, its scale and the FSC are the full box's; beyond it is nothing."""
    n = 32
    stack, rotations, shifts = simulated(_phantom(n), 200, snr=1.0)
    arguments = (stack, NoiseSpectrum.white(n, 1.0), rotations, shifts, 0.36 * n)
    full = reconstruct(*arguments)
    monkeypatch.setattr(reconstruction, "LARGEST_BOX", largest)
    coarse = reconstruct(*arguments)
    assert coarse.volume.shape == (n, n, n)
    a, b = (centred_fft(x.half_maps[0].double() * soft_sphere(n, 0.36 * n), 3) for x in (full, coarse))
    shell = (radial_frequencies(n, 3) * n / (2 * math.pi)).round().long()
    low = shell <= n // 4
    assert float((a - b)[low].abs().square().sum() / a[low].abs().square().sum()) < 2e-3
    axis = (torch.arange(n) - n // 2).abs() > largest // 2
    beyond = axis[:, None, None] | axis[:, None] | axis
    spectrum = centred_fft(coarse.half_maps[0].double(), 3)
    assert float(spectrum[beyond].abs().max()) < 1e-5 * float(spectrum.abs().max())
    assert torch.allclose(coarse.fsc.frequency, full.fsc.frequency[: len(coarse.fsc.frequency)])
    assert torch.allclose(coarse.fsc.value[: n // 4], full.fsc.value[: n // 4], atol=0.03)


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed")
def test_relion_makes_the_same_map_from_our_star_file(simulated, tmp_path):
    n = 32
    stack, rotations, shifts = simulated(_phantom(n), 500, snr=1.0)
    stack.write_posed(tmp_path / "posed.star", rotations, shifts)
    command = ["relion_reconstruct", "--i", "posed.star", "--o", "relion.mrc", "--ctf"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs, voxel_A = read_map(tmp_path / "relion.mrc")
    assert voxel_A == pytest.approx(PIXEL_A)
    ours = reconstruct(stack, NoiseSpectrum.white(n, 1.0), rotations, shifts, 0.36 * n).volume
    mask = soft_sphere(n, 0.36 * n)
    fsc = fourier_shell_correlation(theirs * mask, ours * mask).value
    assert float(fsc[: n // 3].min()) > 0.98  # to 9 Å; 0.99 is found


@pytest.mark.parametrize("n", [24, 25])
def test_the_other_hand_is_seen_from_mirrored_views_as_the_map_was(n):
    """Slices of ``v(−x, y, z)``, for a map that is zero at the edge of its box."""
    grid = _phantom(n).double()
    rotations = random_rotations(5, torch.Generator().manual_seed(8))
    points = torch.tensor([[0.3, 0.1], [-0.2, 0.9], [1.5, -1.0]], dtype=torch.float64)
    seen, mirrored = (
        VoxelVolume(volume).fourier(torch.einsum("bij,pj->bpi", rotated[:, :, :2], points))
        for volume, rotated in ((grid, rotations), (mirror_image(grid), mirrored_views(rotations)))
    )
    assert torch.allclose(seen, mirrored, atol=1e-6 * float(grid.sum()))
    assert torch.allclose(torch.linalg.det(mirrored_views(rotations)), torch.ones(5, dtype=torch.float64))


def test_equivalent_views_make_a_symmetric_map(simulated):
    """Of particles without any symmetry: each counts at every pose that the group says is the same."""
    n, group = 17, PointGroup.named("C2")  # in an even box a plane has no opposite
    stack, rotations, shifts = simulated(_phantom(n), 12)
    found = half_map(stack, NoiseSpectrum.white(n, 1.0), torch.arange(12), rotations, shifts, group=group)
    assert torch.allclose(found, found.flip(1, 2), atol=0.01 * float(found.abs().max()))


@pytest.mark.parametrize("n", [12, 13])
@pytest.mark.parametrize("name", ["C3", "D3", "O", "I"])
def test_sums_over_a_group_are_those_over_every_equivalent_view(simulated, name, n):
    """Rotations that map the lattice to itself are taken on the lattice, the others one by one."""
    group, noise, rows = PointGroup.named(name), NoiseSpectrum.white(n, 1.0), torch.arange(6)
    stack, rotations, shifts = simulated(_phantom(n), 6)
    found = half_map(stack, noise, rows, rotations, shifts, group=group)
    every = _NormalEquations.empty(n, odd=False)
    for element in group.matrices():
        every.add(stack, noise, rows, element @ rotations, shifts)
    expected = every.solve()
    assert torch.allclose(found, expected, atol=2e-3 * float(expected.abs().max()))

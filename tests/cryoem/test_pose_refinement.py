"""Continuous poses: interpolated slices, the likelihood's value and derivatives, and how near refinement comes."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.pose_refinement import SliceInterpolator, _PoseProblem, refine_poses
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.pose_search import Posterior
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import geodesic_distance, random_rotations, rotation_vector_to_matrix
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.phantoms import protein_phantom
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

RADIUS, K_MAX, PIXEL_A = 8.0, 2.0, 3.0


@pytest.fixture(scope="module")
def volume() -> SphericalBesselVolume:
    """A phantom in the basis, fitted to its exact transform."""
    basis = SphericalBesselBasis(RADIUS, K_MAX)
    generator = torch.Generator().manual_seed(0)
    phantom = protein_phantom(60, 0.85 * RADIUS, generator)
    points = _points_within(K_MAX, 3 * len(basis), generator)
    functions = [SphericalBesselVolume(basis, unit).fourier(points) for unit in torch.eye(len(basis)).double()]
    matrix, right = (torch.view_as_real(x).flatten(-2) for x in (torch.stack(functions), phantom.fourier(points)))
    return SphericalBesselVolume(basis, torch.linalg.lstsq(matrix.mT, right[:, None]).solution[:, 0])


def _points_within(k_max: float, count: int, generator: torch.Generator) -> Tensor:
    """Frequencies distributed as the points of random slices are: uniform in direction, density 1/k."""
    points = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    radius = k_max * torch.rand(count, 1, generator=generator, dtype=torch.float64).sqrt()
    return radius * points / points.norm(dim=1, keepdim=True)


def _particles(
    volume: SphericalBesselVolume, box: int, count: int, noise: float = 0.0
) -> tuple[ParticleModes, Tensor, Tensor]:
    """Images of three defoci, moved by about a pixel, as the likelihood sees them; their rotations and shifts.

    Defoci are isotropic, so the CTF on the polar grid is exact, and low, so that what it spreads stays in the box.
    """
    generator = torch.Generator().manual_seed(1)
    rotations = random_rotations(count, generator)
    shifts = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    defocus = torch.tensor([1500.0, 2500.0, 3500.0], dtype=torch.float64)[torch.arange(count) % 3]
    one = torch.ones(count, dtype=torch.float64)
    ctf = CTFParameters(defocus, defocus, 0 * one, 300 * one, 2 * one, 0.1 * one, 0 * one)
    images = ParticleSimulation(volume, box, PIXEL_A, rotations, shifts, ctf).clean(torch.arange(count), torch.float64)
    images = images + noise * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    grid = PolarGrid.for_radius(box, K_MAX, RADIUS + 5)
    transfer, variance = ctf.radial(grid.nodes, PIXEL_A), noise**2 or 1.0
    modes = (grid.from_images(images) * transfer[:, None] / variance).to(torch.complex64)
    filters = (transfer.square() / variance).float()
    spectrum = NoiseSpectrum.white(box, variance)
    return ParticleModes(grid, modes, filters, torch.arange(count), spectrum, PIXEL_A), rotations, shifts


def _moved(rotations: Tensor, shifts: Tensor, degrees: float, pixels: float) -> tuple[Tensor, Tensor]:
    """Poses rotated by ``degrees`` about random axes and shifted by ``pixels``."""
    generator = torch.Generator().manual_seed(2)
    axis = torch.randn(len(rotations), 3, generator=generator, dtype=torch.float64)
    move = torch.randn(len(rotations), 2, generator=generator, dtype=torch.float64)
    turn = rotation_vector_to_matrix(math.radians(degrees) * axis / axis.norm(dim=1, keepdim=True))
    return rotations @ turn, shifts + pixels * move / move.norm(dim=1, keepdim=True)


def _exact_likelihood(data: ParticleModes, volume: SphericalBesselVolume, rotations: Tensor, shifts: Tensor) -> Tensor:
    """``Re⟨Y, T⟩ − ½⟨h²T, T⟩`` in polar coordinates, with templates from the volume's own transform."""
    grid = data.grid
    points = torch.einsum("bij,pkj->bpki", rotations[:, :, :2], grid.points)
    phases = torch.exp(-1j * torch.einsum("pkc,bc->bpk", grid.points, shifts))
    template = grid.from_circle(volume.fourier(points) * phases)
    power = data.ctf2_over_noise(torch.arange(len(data))).double()[:, None]
    return ((data.modes.to(template.dtype) - 0.5 * power * template) * template.conj()).real.sum((1, 2))


def test_interpolated_transform_and_gradient(volume):
    """Against the volume's own transform and its central differences, which are good to 1e-7."""
    points = _points_within(K_MAX, 800, torch.Generator().manual_seed(3))[None]
    value, gradient = SliceInterpolator(volume)(points)
    exact = volume.fourier(points)
    step = 1e-4 * torch.eye(3, dtype=torch.float64)
    difference = torch.stack([volume.fourier(points + e) - volume.fourier(points - e) for e in step], dim=-1) / 2e-4
    assert value.shape == (1, 800)
    assert gradient.shape == (1, 800, 3)
    assert float((value - exact).norm() / exact.norm()) < 0.006
    assert float((gradient - difference).norm() / difference.norm()) < 0.015


@pytest.mark.parametrize("bandwidth", [6.0, 8.0])
def test_interpolates_the_smallest_bases_to_their_edge(bandwidth):
    """One function alone, and on the axes at k_max itself, where the lattice ends."""
    basis = SphericalBesselBasis(10.0, bandwidth / 10)
    volume = SphericalBesselVolume(basis, torch.eye(len(basis))[0].double())
    points = torch.cat([torch.eye(3), -torch.eye(3), torch.zeros(1, 3)]).double()[None] * bandwidth / 10
    value, _ = SliceInterpolator(volume)(points)
    exact = volume.fourier(points)
    assert float((value - exact).abs().max() / exact.abs().max()) < 0.02


@pytest.mark.parametrize("box", [32, 33])
def test_likelihood_and_its_gradient_away_from_the_maximum(volume, box):
    """Against the likelihood with exact templates and its central differences, in all five parameters."""
    data, rotations, shifts = _particles(volume, box, 6)
    rotations, shifts = _moved(rotations, shifts, 4.0, 0.5)
    problem = _PoseProblem.of(data, data.grid, SliceInterpolator(volume), torch.arange(6))
    value, gradient, hessian = problem.linearised(rotations, shifts)
    exact = _exact_likelihood(data, volume, rotations, shifts)
    assert float((value - exact).norm() / exact.norm()) < 1e-3
    steps = 1e-4 * torch.eye(5, dtype=torch.float64)
    difference = torch.stack(
        [
            sum(
                sign * _exact_likelihood(
                    data, volume, rotations @ rotation_vector_to_matrix(sign * e[:3]), shifts + sign * e[3:]
                )
                for sign in (1, -1)
            )
            for e in steps
        ],
        dim=1,
    ) / 2e-4  # fmt: skip
    error = (gradient - difference).norm(dim=0) / difference.norm(dim=0)
    assert float(error.max()) < 0.02
    assert torch.allclose(hessian, hessian.mT, rtol=1e-4, atol=1e-3 * float(hessian.abs().max()))
    assert bool((torch.linalg.eigvalsh(hessian.double()) > 0).all())


@pytest.mark.parametrize("box", [32, 33])
def test_refinement_returns_to_the_truth_on_clean_data(volume, box):
    count = 40
    data, rotations, shifts = _particles(volume, box, count)
    start = _moved(rotations, shifts, 4.0, 1.0)
    seen: list[int] = []
    found = refine_poses(data, data.grid, volume, *start, steps=8, chunk=16, progress=seen.append)
    angle = torch.rad2deg(geodesic_distance(found.rotations, rotations))
    distance = (found.shifts_px - shifts).norm(dim=1)
    assert float(angle.max()) < 0.15
    assert float(distance.max()) < 0.005
    assert sum(seen) == count


def test_no_likelihood_is_lowered(volume):
    """From poses so wrong that some steps fail: with every step more, no particle explains its image worse."""
    data, rotations, shifts = _particles(volume, 32, 40)
    start = _moved(rotations, shifts, 90.0, 5.0)
    found = [refine_poses(data, data.grid, volume, *start, steps=steps) for steps in range(8)]
    change = torch.stack([poses.log_likelihood for poses in found]).diff(dim=0)
    assert bool((change >= 0).all())
    assert bool((change > 0).any())
    assert bool((change == 0).any())  # a step that was refused
    assert torch.equal(found[0].rotations, start[0])
    assert torch.equal(found[0].shifts_px, start[1])
    exact = _exact_likelihood(data, volume, found[-1].rotations, found[-1].shifts_px)
    assert float((found[-1].log_likelihood - exact).norm() / exact.norm()) < 5e-3


def test_contrast_is_the_scale_that_fits_an_image_best(volume):
    """Images of known contrast, at their true poses: the scale has the variance ``1/⟨h²T, T⟩`` of least squares."""
    count = 60
    data, rotations, shifts = _particles(volume, 32, count, noise=0.04)
    contrast = 0.5 + torch.arange(count).remainder(11) / 10
    clean, _, _ = _particles(volume, 32, count)
    signal = (clean.modes * (1 / 0.04**2)).to(data.modes.dtype)
    data = replace(data, modes=data.modes + (contrast - 1)[:, None, None] * signal)
    found = refine_poses(data, data.grid, volume, rotations, shifts, steps=0)
    scale = found.cross_correlation / (2 * found.slice_power)
    deviation = (scale - contrast) * (2 * found.slice_power).sqrt()
    assert abs(float(deviation.mean())) < 4 / math.sqrt(count)
    assert abs(float(deviation.square().mean()) - 1) < 4 * math.sqrt(2 / count)
    statistics = found.joined(Posterior.unknown(count)).statistics
    assert torch.allclose(statistics.scale, scale.float())


def test_errors_under_noise_are_those_of_the_cramer_rao_bound(volume):
    """Errors e of an efficient estimator are Gaussian with covariance H⁻¹, so ``e·He`` is χ² with 5 degrees.

    Its mean over N particles is 5 ± √(10/N).
    """
    count = 200
    data, rotations, shifts = _particles(volume, 32, count, noise=0.04)
    found = refine_poses(data, data.grid, volume, rotations, shifts, steps=10)
    relative = rotations.mT @ found.rotations
    turn = torch.stack([relative[:, 2, 1], relative[:, 0, 2], relative[:, 1, 0]], dim=1)  # sin θ ≈ θ
    error = torch.cat([turn, found.shifts_px - shifts], dim=1)
    problem = _PoseProblem.of(data, data.grid, SliceInterpolator(volume), torch.arange(count))
    hessian = problem.linearised(rotations, shifts)[2].double()
    chi2 = torch.einsum("ba,bac,bc->b", error, hessian, error)
    assert float(torch.rad2deg(turn.norm(dim=1)).mean()) > 1  # noise, not interpolation, makes the error
    assert abs(float(chi2.mean()) - 5) < 4 * math.sqrt(10 / count)
    # The variance of each parameter alone is on the inverse's diagonal.
    share = (error.square() / torch.diagonal(torch.linalg.inv(hessian), dim1=1, dim2=2)).mean(0)
    assert float((share - 1).abs().max()) < 4 * math.sqrt(2 / count)

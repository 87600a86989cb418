import math

import numpy as np
import pytest
import torch
from scipy.special import ive

from oracles import TWO_CAPS, cartesian_templates, shifted_cartesian_moments
from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.grids import frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import direction_frames, in_plane, random_rotations
from orbitrec.models.base import Circle
from orbitrec.models.cryoem import polar_circle, polar_templates
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.moments.analytic import Moments, bounded_spread, full_moments, shifted_uniform_moments, uniform_moments
from orbitrec.moments.estimator import MomentAccumulator
from orbitrec.moments.files import read_moments, write_moments
from orbitrec.volumes.gaussians import GaussianMixture

ATOMS = GaussianMixture(
    torch.tensor([[3.0, -1.5, 2.0], [-2.0, 3.0, 0.5], [0.0, -3.0, -2.5]], dtype=torch.float64),
    torch.tensor([1.6, 2.0, 1.8], dtype=torch.float64),
    torch.tensor([30.0, 45.0, 24.0], dtype=torch.float64),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_complex(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.complex128)


def all_modes(templates: torch.Tensor, grid: PolarGrid) -> torch.Tensor:
    """Modes −M … M of real images, each with its own energy: F_{−m} = (−1)^m conj F_m."""
    own = templates / grid.mode_weights[:, None]
    sign = (-1.0) ** torch.arange(1, grid.max_mode + 1)[:, None]
    return torch.cat([(sign * own[:, 1:].conj()).flip(1), own], dim=1)


@pytest.mark.parametrize("n", [7, 8])
def test_multireference_alignment_is_the_average_over_shifted_signals(n):
    signal = torch.randn(n, generator=seeded(1), dtype=torch.float64)
    density = torch.rand(n, generator=seeded(2), dtype=torch.float64).softmax(0)
    shifted = torch.stack([centred_fft(torch.roll(signal, s), ndim=1) for s in range(n)])
    circle = Circle(torch.arange(n) - n // 2, n)
    found = full_moments(centred_fft(signal, ndim=1)[None, :, None], density[None], circle)
    assert torch.allclose(found.first[0], density.to(shifted.dtype) @ shifted)
    assert torch.allclose(
        found.second[0], torch.einsum("s,si,sj->ij", density.to(shifted.dtype), shifted, shifted.conj())
    )


def test_polar_full_form_is_the_average_over_turned_templates():
    grid = PolarGrid(16, 1.5, 3, 4)
    templates = all_modes(polar_templates(ATOMS, grid, spherical_design(3)), grid)
    density = torch.rand(len(templates), 12, generator=seeded(3), dtype=torch.float64)
    density /= density.sum()
    circle = Circle(torch.arange(-4, 5), 12)
    rotated = templates[:, None] * torch.exp(-1j * circle.in_plane_angles[:, None] * circle.modes)[None, :, :, None]
    flat, weight = rotated.flatten(2), density.to(rotated.dtype)
    found = full_moments(templates, density, circle)
    assert torch.allclose(found.first[0], torch.einsum("da,dai->i", weight, flat))
    assert torch.allclose(found.second[0], torch.einsum("da,dai,daj->ij", weight, flat, flat.conj()))


def test_uniform_angle_leaves_the_diagonal_blocks_of_the_full_form():
    grid = PolarGrid(16, 1.5, 3, 4)
    templates = polar_templates(ATOMS, grid, spherical_design(3))
    density = torch.rand(len(templates), generator=seeded(4), dtype=torch.float64).softmax(0)
    blocks = uniform_moments(templates, density, grid)
    # 2M + 1 angles average e^{iqα} to zero for every 0 < |q| ≤ 2M.
    in_plane = density[:, None].expand(-1, 9) / 9
    full = full_moments(templates, in_plane, polar_circle(grid, 9))
    expected = torch.zeros(5, 3, 5, 3, dtype=torch.complex128)
    for m in range(5):
        expected[m, :, m] = blocks.second[m]
    assert torch.allclose(full.second[0], expected.reshape(15, 15), atol=1e-12)
    assert torch.allclose(full.first[0], blocks.first.reshape(-1), atol=1e-12)
    # Norms: the whole matrix on all modes −M … M.
    whole = full_moments(all_modes(templates, grid), in_plane, Circle(torch.arange(-4, 5), 9))
    assert float(blocks.second_norm()) == pytest.approx(float(whole.second_norm()), rel=1e-12)
    assert float(blocks.first_norm()) == pytest.approx(float(whole.first_norm()), rel=1e-12)


def test_gaussian_shifts_on_the_polar_grid_are_the_average_of_exact_shifts():
    grid = PolarGrid.for_radius(24, 1.2, 14.0)
    templates = polar_templates(ATOMS, grid, spherical_design(3))
    density = torch.rand(len(templates), generator=seeded(5), dtype=torch.float64).softmax(0)
    sigma = 1.3
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    y, x = torch.meshgrid(torch.from_numpy(nodes), torch.from_numpy(nodes), indexing="ij")
    weight = torch.from_numpy(np.outer(weights, weights) / weights.sum() ** 2).reshape(-1)
    moved = grid.shift(templates, sigma * torch.stack([x, y], dim=-1).reshape(-1, 2))
    expected = uniform_moments(moved.flatten(0, 1), (density[:, None] * weight).reshape(-1), grid)
    found = shifted_uniform_moments(uniform_moments(templates, density, grid), grid, torch.tensor(sigma))
    # To the modes that this grid leaves out, about 2e-8.
    scale = expected.second.abs().max()
    assert float((found.second - expected.second).abs().max() / scale) < 1e-7
    assert float((found.first - expected.first).abs().max() / expected.first.abs().max()) < 1e-7
    assert float((found - uniform_moments(templates, density, grid)).second_norm() / found.second_norm()) > 0.1


@pytest.mark.parametrize("sigma", [0.0, 0.4, 6.0])
def test_gaussian_shifts_convolve_modes_with_bessel_functions(sigma):
    grid = PolarGrid(20, 2.0, 4, 6)
    a = random_complex(7, 4, 4, seed=6)
    second = a @ a.mH
    second[0] = second[0].real
    weights = grid.mode_weights.pow(-2)
    found = shifted_uniform_moments(Moments(random_complex(7, 4), second, weights), grid, torch.tensor(sigma)).second
    own = second * weights[:, None, None]
    own = torch.cat([own[1:].conj().flip(0), own])  # block −m is the conjugate of block m
    k = grid.nodes.numpy()
    x, apart = sigma**2 * k[:, None] * k, np.exp(-(sigma**2) * (k[:, None] - k) ** 2 / 2)
    kernel = torch.from_numpy(np.stack([ive(q, x) * apart for q in range(13)]))
    for m in range(7):
        expected = sum(kernel[abs(m - q)] * own[q + 6] for q in range(-6, 7)) / weights[m]
        assert torch.allclose(found[m], expected, atol=1e-11 * float(second.abs().max()))


def test_gaussian_shifts_on_the_cartesian_grid_are_the_average_of_exact_shifts():
    k = frequencies(5)
    points = torch.stack(torch.meshgrid(k, k, indexing="ij")[::-1], dim=-1).reshape(-1, 2)
    template, sigma = random_complex(1, 1, 25, seed=7), 0.5
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(20))
    shifts = sigma * torch.cartesian_prod(nodes, nodes)
    weight = torch.cartesian_prod(weights, weights).prod(1)
    circle = Circle(torch.tensor([0]), 1)
    moved = template * torch.exp(-1j * (shifts @ points.T))[:, None]
    expected = full_moments(moved, (weight / weight.sum())[:, None], circle)
    still = full_moments(template, torch.ones(1, 1, dtype=torch.float64), circle)
    found = shifted_cartesian_moments(still, points, torch.tensor(sigma))
    assert torch.allclose(found.first, expected.first, atol=1e-9)
    assert torch.allclose(found.second, expected.second, atol=1e-9)


def test_gaussian_shifts_on_the_cartesian_grid_are_the_average_of_moved_projections():
    # (3.6), (3.7) against Monte Carlo: atoms moved in real space and projected, never a phase.
    n, sigma, count = 31, 1.1, 4000  # a box that no atom leaves
    generator, k = seeded(13), frequencies(n)
    points = torch.stack(torch.meshgrid(k, k, indexing="ij")[::-1], dim=-1).reshape(-1, 2)
    near = points.norm(dim=1) < 0.7
    rotations = random_rotations(3, generator)
    views = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    still = full_moments(
        cartesian_templates(ATOMS, n, rotations)[..., near], views[:, None], Circle(torch.tensor([0]), 1)
    )
    expected = shifted_cartesian_moments(still, points[near], torch.tensor(sigma))

    seen = rotations.mT[torch.multinomial(views, count, replacement=True, generator=generator)] @ ATOMS.centers.T
    moved = seen[:, :2] + sigma * torch.randn(count, 2, 1, generator=generator, dtype=torch.float64)
    pixels = torch.arange(n, dtype=torch.float64) - n // 2
    along = torch.exp(-((pixels - moved[..., None]) / ATOMS.widths[:, None]).square() / 2)
    images = torch.einsum("a,cay,cax->cyx", ATOMS.weights / (2 * math.pi * ATOMS.widths**2), along[:, 1], along[:, 0])
    sample = centred_fft(images).flatten(1)[:, near]

    worst = []
    for draws, mean, unmoved in (
        (sample, expected.first[0], still.first[0]),
        (sample[:, :, None] * sample[:, None].conj(), expected.second[0], still.second[0]),
    ):
        error = torch.view_as_real(draws).std(0) / math.sqrt(count)
        known = error > 1e-6 * error.max()  # the diagonal of the second moment has no imaginary part
        for value in (mean, unmoved):
            worst.append(float((torch.view_as_real(draws.mean(0) - value).abs() / error)[known].max()))
    assert max(worst[::2]) < 5
    assert min(worst[1::2]) > 20  # what the shifts change is seen


def test_gaussian_shifts_on_the_polar_grid_are_the_average_of_moved_projections():
    # The same with in-plane angles at random, which the blocks average.
    n, sigma, count = 31, 1.1, 4000
    generator, grid = seeded(14), PolarGrid(31, 0.8, 5, 14)
    views = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    directions = random_rotations(3, generator)[:, :, 2]
    still = uniform_moments(polar_templates(ATOMS, grid, directions), views, grid)
    expected = shifted_uniform_moments(still, grid, torch.tensor(sigma))

    turn = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    drawn = torch.multinomial(views, count, replacement=True, generator=generator)
    seen = (direction_frames(directions)[drawn] @ in_plane(turn)).mT @ ATOMS.centers.T
    moved = seen[:, :2] + sigma * torch.randn(count, 2, 1, generator=generator, dtype=torch.float64)
    pixels = torch.arange(n, dtype=torch.float64) - n // 2
    along = torch.exp(-((pixels - moved[..., None]) / ATOMS.widths[:, None]).square() / 2)
    images = torch.einsum("a,cay,cax->cyx", ATOMS.weights / (2 * math.pi * ATOMS.widths**2), along[:, 1], along[:, 0])
    sample = grid.from_images(images)

    worst = []
    for draws, mean, unmoved in (
        (sample[:, :1], expected.first[:1], still.first[:1]),
        (sample[:, :, :, None] * sample[:, :, None].conj(), expected.second, still.second),
    ):
        error = torch.view_as_real(draws).std(0) / math.sqrt(count)
        known = error > 1e-6 * error.max()  # mode 0 and the diagonals are real
        for value in (mean, unmoved):
            worst.append(float((torch.view_as_real(draws.mean(0) - value).abs() / error)[known].max()))
    assert max(worst[::2]) < 5
    assert min(worst[1::2]) > 20


def test_a_batch_of_spreads_shifts_each_problem_by_its_own():
    grid, generator = PolarGrid(20, 2.0, 4, 6), seeded(15)
    second = random_complex(3, 7, 4, 4, seed=8)
    batch = Moments(random_complex(3, 7, 4), second @ second.mH, grid.mode_weights.pow(-2))
    sigma = bounded_spread(torch.randn(3, generator=generator, dtype=torch.float64), 2.5)
    assert bool(((sigma > 0) & (sigma < 2.5)).all())
    points = torch.rand(4, 2, generator=generator, dtype=torch.float64)
    for shift in (
        lambda moments, s: shifted_uniform_moments(moments, grid, s),
        lambda moments, s: shifted_cartesian_moments(moments, points, s),
    ):
        found = shift(batch, sigma)
        for i in range(3):
            alone = shift(Moments(batch.first[i], batch.second[i], batch.weights), sigma[i])
            assert torch.allclose(found.first[i], alone.first, atol=1e-12)
            assert torch.allclose(found.second[i], alone.second, atol=1e-12)


N, PIXEL_A, SHIFT_PX = 32, 5.0, 1.0


def particles(count: int, seed: int, astigmatism_A: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, PolarGrid]:
    """Modes and radial CTFs of noisy particles with shifts, and their grid."""
    generator = seeded(seed)
    rotations, shifts = random_poses(count, generator, views=TWO_CAPS, shift_px=SHIFT_PX)
    defocus, angle = torch.rand(2, count, generator=generator, dtype=torch.float64)
    one = torch.ones(count, dtype=torch.float64)
    u, v = (5e3 + 5e3 * defocus + sign * astigmatism_A / 2 for sign in (1, -1))
    ctf = CTFParameters(u, v, 180 * angle, 300 * one, 2 * one, 0.1 * one, 0 * one)
    images = ParticleSimulation(ATOMS, N, PIXEL_A, rotations, shifts, ctf).clean(torch.arange(count), torch.float64)
    images += torch.randn(count, N, N, generator=generator, dtype=torch.float64)
    grid = PolarGrid(N, 1.1, 10, 9)
    return grid.from_images(images), ctf.radial(grid.nodes, PIXEL_A), grid


def analytic_moments(grid: PolarGrid) -> Moments:
    # Wide enough for what shifts bring in from modes above the data's own largest one.
    wide = PolarGrid(grid.box, grid.k_max, grid.radial_nodes, grid.max_mode + 8)
    directions = spherical_design(41)
    density = TWO_CAPS.density(directions) / len(directions)
    exact = uniform_moments(polar_templates(ATOMS, wide, directions), density, wide)
    shifted = shifted_uniform_moments(exact, wide, torch.tensor(SHIFT_PX))
    kept = slice(grid.max_mode + 1)
    return Moments(shifted.first[kept], shifted.second[kept], shifted.weights[kept])


@pytest.mark.parametrize("astigmatism_A", [0.0, 600.0])
def test_estimates_from_data_agree_with_analytic_moments(astigmatism_A):
    modes, ctf, grid = particles(4000, 8, astigmatism_A)
    accumulator = MomentAccumulator.empty(grid)
    accumulator.update(modes, ctf)
    found, expected = accumulator.estimate(regularisation=0.0), analytic_moments(grid)
    power, filtered = ctf.square(), modes * ctf[:, None]
    # Standard errors of the ratio from the spread of the observations' own residuals.
    first = (filtered[:, 0].real - power * expected.first[0].real).std(0) * math.sqrt(len(modes)) / power.sum(0)
    assert float(((found.first[0] - expected.first[0]).abs() / first).max()) < 5
    signal, bias, noise = 0.0, 0.0, grid.noise_gram() * (ctf.T @ ctf)
    for m in range(grid.max_mode + 1):
        outer = filtered[:, m, :, None] * filtered[:, m, None, :].conj()
        product = power[:, :, None] * power[:, None, :]
        # In units of Σ Y Y*, where nothing is divided by a CTF near zero.
        spread = torch.view_as_real(outer - product * expected.second[m]).std(0) * math.sqrt(len(modes))
        difference = torch.view_as_real((found.second[m] - expected.second[m]) * product.sum(0))
        # Entries without noise (modes that are zero at low k, the diagonal's imaginary part) have no standard error.
        known = spread > 1e-3 * spread.max()
        assert float((difference.abs() / spread)[known].max()) < 5
        signal = max(
            signal, float((torch.view_as_real(expected.second[m] * product.sum(0)).abs() / spread)[known].max())
        )
        bias = max(bias, float((torch.view_as_real(noise[m]).abs() / spread)[known].max()))
    # What the bound can see: the signal, and the noise's bias, are many standard errors.
    assert signal > 20
    assert bias > 50


def test_merged_shards_equal_one_pass():
    modes, ctf, grid = particles(60, 9)
    whole = MomentAccumulator.empty(grid)
    whole.update(modes, ctf)
    shards = []
    for part in torch.arange(60).tensor_split([13, 14, 41]):
        shard = MomentAccumulator.empty(grid)
        shard.update(modes[part], ctf[part])
        shards.append(shard)
    merged = shards[0].merge(shards[1]).merge(shards[2].merge(shards[3]))
    assert int(merged.count) == 60
    for name, total in whole.sums().items():
        assert torch.allclose(merged.sums()[name], total, rtol=1e-12, atol=1e-12 * float(total.abs().max())), name
    assert float((merged.estimate() - whole.estimate()).second_norm() / whole.estimate().second_norm()) < 1e-12


def test_single_precision_observations_lose_only_their_own_rounding():
    modes, ctf, grid = particles(500, 10)
    double, single = MomentAccumulator.empty(grid), MomentAccumulator.empty(grid)
    double.update(modes, ctf)
    single.update(modes.to(torch.complex64), ctf.float())
    assert single.second.dtype == torch.float64
    assert float((single.second - double.second).norm() / double.second.norm()) < 1e-6


def test_second_moment_is_kept_whole_in_one_real_matrix():
    modes, ctf, grid = particles(20, 11)
    accumulator = MomentAccumulator.empty(grid)
    accumulator.update(modes, ctf)
    found = accumulator.estimate(0.0)
    filtered = modes * ctf[:, None]
    direct = torch.einsum("bmk,bml->mkl", filtered, filtered.conj()) - grid.noise_gram() * (ctf.T @ ctf)
    assert torch.allclose(found.second * (ctf.square().T @ ctf.square()), direct, atol=1e-9)
    assert torch.allclose(found.second, found.second.mH)


def test_files_return_what_was_written(tmp_path):
    modes, ctf, grid = particles(5, 12)
    accumulator = MomentAccumulator.empty(grid)
    accumulator.update(modes, ctf)
    write_moments(tmp_path / "m.safetensors", accumulator, 2.5)
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
    back, pixel_size_A = read_moments(tmp_path / "m.safetensors")
    assert pixel_size_A == 2.5
    assert back.grid == grid
    assert all(torch.equal(back.sums()[name], value) for name, value in accumulator.sums().items())


def test_bad_input_is_said(tmp_path):
    grid = PolarGrid(16, 1.0, 4, 3)
    empty = MomentAccumulator.empty(grid)
    with pytest.raises(InputError, match="at least one"):
        empty.estimate()
    with pytest.raises(InputError, match="cannot be merged"):
        empty.merge(MomentAccumulator.empty(PolarGrid(16, 1.1, 4, 3)))
    with pytest.raises(InputError, match="no such file"):
        read_moments(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no moments here")
    with pytest.raises(InputError, match="not a whole"):
        read_moments(tmp_path / "text.safetensors")

import math

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.polar import PolarGrid


def blobs(n: int, centers: torch.Tensor, width: float = 1.8, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normalised Gaussians of weights 1, 2, … at (x, y) ``centers``, sampled on n × n pixels."""
    x = torch.arange(n, dtype=dtype) - n // 2
    parts = [
        (1 + i) * torch.exp(-((x - c[0]) ** 2 + (x[:, None] - c[1]) ** 2) / (2 * width**2)) / (2 * math.pi * width**2)
        for i, c in enumerate(centers.to(dtype))
    ]
    return torch.stack(parts).sum(0)


CENTERS = torch.tensor([[3.0, -1.5], [-2.0, 2.5], [0.5, 4.0]], dtype=torch.float64)


def exact_circle(grid: PolarGrid, centers: torch.Tensor, width: float = 1.8) -> torch.Tensor:
    """Transform of :func:`blobs` on the circle samples: closed form."""
    weights = (1 + torch.arange(len(centers))).to(torch.complex128)
    phase = torch.exp(-1j * (grid.points @ centers.T))
    return (phase @ weights) * torch.exp(-(width**2) * grid.nodes.square() / 2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-9)])
@pytest.mark.parametrize("n", [32, 33])
def test_coordinates_of_blobs_are_their_closed_form(n, dtype, tolerance):
    grid = PolarGrid.for_radius(n, 2.0, 14.0)
    expected = grid.from_circle(exact_circle(grid, CENTERS))
    # Sampling a blob of 1.8 px aliases by exp(−1.8²(2π − 2)²/2) ≈ 1e-13 at k = 2.
    found = grid.from_images(blobs(n, CENTERS, dtype=dtype)[None])[0]
    assert found.dtype == torch.complex(torch.zeros((), dtype=dtype), torch.zeros((), dtype=dtype)).dtype
    assert float((found - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.mark.parametrize("n", [16, 17])
def test_any_image_is_transformed_as_a_direct_sum(n):
    image = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grid = PolarGrid(n, math.pi, 7, 60)  # modes up to where J_m(π · 11) is rounding
    x = torch.arange(n, dtype=torch.float64) - n // 2
    pixels = torch.stack(torch.meshgrid(x, x, indexing="ij")[::-1], dim=-1).reshape(-1, 2)
    direct = torch.exp(-1j * (grid.points @ pixels.T)) @ image.reshape(-1).to(torch.complex128)
    found = grid.from_images(image[None])[0]
    assert torch.allclose(found, grid.from_circle(direct), atol=1e-10)
    assert torch.allclose(grid.to_circle(found), direct, atol=1e-8)


@pytest.mark.parametrize("n", [32, 33])
def test_inner_products_are_those_of_the_images(n):
    grid = PolarGrid.for_radius(n, math.pi, 15.0)
    pair = torch.stack([blobs(n, CENTERS), blobs(n, CENTERS.flip(0) * 0.7)])
    modes = grid.from_images(pair)
    products = torch.einsum("amk,bmk->ab", modes, modes.conj()).real
    assert torch.allclose(products, torch.einsum("ayx,byx->ab", pair, pair), rtol=1e-9)


def test_energy_is_that_below_k_max():
    # (1/2π) ∫ k e^{−σ²k²} dk = (1 − e^{−σ²k_max²}) / 4πσ² for one Gaussian, wherever it lies; here 7 % is cut off.
    width, k_max = 1.6, 1.02
    grid, whole = PolarGrid.for_radius(32, k_max, 12.0), 1 / (4 * math.pi * width**2)
    expected = -whole * math.expm1(-((width * k_max) ** 2))
    for center in CENTERS:
        energy = float(grid.from_circle(exact_circle(grid, center[None], width)).abs().square().sum())
        assert energy == pytest.approx(expected, rel=1e-7)
    assert expected < 0.94 * whole


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-9)])
@pytest.mark.parametrize("n", [32, 33])
def test_turning_the_content_multiplies_modes_by_phases(n, dtype, tolerance):
    grid, alpha = PolarGrid.for_radius(n, 2.0, 14.0), 0.7
    turn = torch.tensor([[math.cos(alpha), -math.sin(alpha)], [math.sin(alpha), math.cos(alpha)]], dtype=torch.float64)
    still, rotated = grid.from_images(torch.stack([blobs(n, c, dtype=dtype) for c in (CENTERS, CENTERS @ turn.T)]))
    phase = torch.exp(-1j * alpha * torch.arange(grid.max_mode + 1, dtype=torch.float64))[:, None]
    assert float((rotated - phase * still).abs().max() / still.abs().max()) < tolerance


def test_shifts_are_those_of_the_content():
    grid = PolarGrid.for_radius(33, 2.0, 15.0)
    shifts = torch.tensor([[0.0, 0.0], [1.7, -0.6], [-0.3, 2.2]], dtype=torch.float64)
    expected = grid.from_images(torch.stack([blobs(33, CENTERS + s) for s in shifts]))
    found = grid.shift(grid.from_images(blobs(33, CENTERS)[None]), shifts)[0]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-7
    back = grid.moved(expected, -shifts)
    assert float((back - expected[:1]).abs().max() / expected.abs().max()) < 1e-7


def test_noise_gram_is_the_covariance_of_white_noise():
    count, grid = 20000, PolarGrid(12, 2.5, 4, 5)
    noise = torch.randn(count, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    modes, gram = grid.from_images(noise), grid.noise_gram()
    products = torch.einsum("bmk,bml->bmkl", modes, modes.conj())
    difference = torch.view_as_real(products.mean(0) - gram)
    error = torch.view_as_real(products).std(0) / math.sqrt(count)
    assert bool((difference.abs() < 4.5 * error + 1e-12).all())
    # A box tells fewer frequencies apart than there are nodes: the covariance is a projection, not the identity.
    assert float(torch.linalg.eigvalsh(PolarGrid.for_radius(12, 2.5, 6.0).noise_gram()).amax()) < 2.1


@pytest.mark.parametrize("n", [12, 13])
def test_noise_power_is_the_bands_share_of_the_pixels(n):
    # Σ_m c_m² J_m² = 1 (Neumann), so the trace over all modes is n² ∫ k dk / 2π = n² k_max² / 4π.
    grid = PolarGrid(n, 1.5, 5, 40)
    trace = float(grid.noise_gram().diagonal(dim1=1, dim2=2).real.sum())
    assert trace == pytest.approx((n * 1.5) ** 2 / (4 * math.pi), rel=1e-12)


@pytest.mark.parametrize("n", [32, 33])
def test_noise_along_an_object_has_variance_one_in_every_real_direction(n):
    # 1 in the real mode 0, 2 in all in a complex mode; the band's sharp edge at k_max takes a few 1e-3 of it.
    grid = PolarGrid.for_radius(n, 2.0, 14.0)
    modes, gram = grid.from_images(blobs(n, CENTERS)[None])[0], grid.noise_gram()
    for m in range(7):
        unit = modes[m] / modes[m].norm()
        assert float((unit.conj() @ gram[m] @ unit).real) == pytest.approx(1 if m == 0 else 2, rel=1e-2)


def test_a_smaller_grid_is_a_prefix_of_the_coordinates():
    grid = PolarGrid.for_radius(32, 2.0, 14.0)
    image = blobs(32, CENTERS)[None]
    small = grid.truncated(1.0, 10.0)
    assert float(small.nodes.max()) <= 1.0 < float(grid.nodes[small.node_count])
    prefix = grid.from_images(image)[:, : small.max_mode + 1, : small.node_count]
    assert torch.allclose(small.from_images(image), prefix, atol=1e-13)
    assert small.noise_gram().shape == (small.max_mode + 1, small.node_count, small.node_count)


def test_bad_input_is_said():
    for k_max in (0.0, 3.5):
        with pytest.raises(InputError, match="k_max"):
            PolarGrid(16, k_max, 4, 4)
    for box, nodes, max_mode in ((0, 4, 4), (16, 0, 4), (16, 4, -1)):
        with pytest.raises(InputError, match="at least 1 and a largest mode of at least 0"):
            PolarGrid(box, 1.0, nodes, max_mode)
    with pytest.raises(InputError, match="17 px do not fit"):
        PolarGrid(16, 1.0, 4, 4).from_images(torch.zeros(1, 17, 17))


@pytest.mark.parametrize("n", [33, 34])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_each_image_is_moved_by_displacements_of_its_own(n, dtype, tolerance):
    grid = PolarGrid.for_radius(n, 1.2, 10.0)
    images = torch.randn(2, n, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    modes = grid.from_images(images).to(dtype.to_complex())
    moves = torch.tensor([[[0.5, -1.0], [2.0, 0.3], [0.0, 0.0]], [[-0.7, 0.2], [1.5, 1.5], [3.0, -2.0]]])
    found = grid.displaced(modes, moves.to(dtype))
    for image, own in enumerate(moves):
        circle = grid.to_circle(modes[image])
        for number, move in enumerate(own):
            phase = torch.exp(-1j * (grid.points @ move.double())).to(circle.dtype)
            expected = grid.from_circle(circle * phase)
            scale = float(expected.abs().max())
            assert float((found[image, number] - expected).abs().max()) < tolerance * scale

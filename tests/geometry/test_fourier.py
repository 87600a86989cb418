"""Fourier conventions against closed forms: kernel e^{-ikx}, unitary, origin at n // 2, odd and even n."""

import math

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft, fourier_crop, fourier_pad
from orbitrec.geometry.grids import frequencies

SIZES = [1, 2, 7, 8, 15, 16]
PRECISIONS = [(torch.float32, 2e-6), (torch.float64, 2e-14)]


def random_complex(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.view_as_complex(torch.randn(*shape, 2, generator=generator, dtype=dtype))


def positions(n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.arange(n, dtype=dtype) - n // 2


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_transform_is_the_sum_it_claims(n: int, dtype: torch.dtype, tolerance: float) -> None:
    x = random_complex(n, n, dtype=dtype)
    kernel = torch.exp(-1j * torch.outer(frequencies(n), positions(n))).to(x.dtype) / math.sqrt(n)
    torch.testing.assert_close(centred_fft(x), kernel @ x @ kernel.T, rtol=0, atol=20 * tolerance)


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_transform_is_unitary_and_the_inverse_its_adjoint(
    n: int, ndim: int, dtype: torch.dtype, tolerance: float
) -> None:
    shape = (2, *[n] * ndim)
    x, y = random_complex(*shape, dtype=dtype, seed=1), random_complex(*shape, dtype=dtype, seed=2)
    size = x.norm() * y.norm()
    assert abs(torch.vdot(centred_fft(x, ndim).flatten(), y.flatten())
               - torch.vdot(x.flatten(), centred_ifft(y, ndim).flatten())) < tolerance * size  # fmt: skip
    torch.testing.assert_close(centred_fft(x, ndim).norm(), x.norm(), rtol=tolerance, atol=0)
    torch.testing.assert_close(centred_ifft(centred_fft(x, ndim), ndim), x, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_gaussian_off_centre(n: int, dtype: torch.dtype, tolerance: float) -> None:
    # ∫ exp(−|x − s|²/2σ²) e^{−ikx} dx = 2πσ² exp(−σ²k²/2) e^{−iks}; at σ = 2 both aliases are below 1e-8.
    sigma, shift = 2.0, (1.25, -2.5)
    y, x = torch.meshgrid(positions(n, dtype), positions(n, dtype), indexing="ij")
    image = torch.exp(-((y - shift[0]).square() + (x - shift[1]).square()) / (2 * sigma**2))
    ky, kx = torch.meshgrid(frequencies(n), frequencies(n), indexing="ij")
    exact = 2 * math.pi * sigma**2 / n * torch.exp(-(sigma**2) * (kx.square() + ky.square()) / 2)
    exact = exact * torch.exp(-1j * (ky * shift[0] + kx * shift[1]))
    torch.testing.assert_close(centred_fft(image).to(exact.dtype), exact, rtol=0, atol=max(1e-8, tolerance))


@pytest.mark.parametrize("n", SIZES)
def test_delta_at_the_origin_and_constant(n: int) -> None:
    delta = torch.zeros(n, n, dtype=torch.float64)
    delta[n // 2, n // 2] = 1
    flat = torch.full((n, n), 1 / n, dtype=torch.complex128)
    torch.testing.assert_close(centred_fft(delta), flat)
    torch.testing.assert_close(centred_ifft(flat), delta.to(torch.complex128))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("size", [1, 4, 5, 7])
def test_crop_keeps_the_low_frequencies(n: int, size: int, ndim: int) -> None:
    # The value at every grid point is a function of the frequency index, so a crop must keep that labelling.
    def labelled(m: int) -> torch.Tensor:
        axes = torch.meshgrid(*[positions(m)] * ndim, indexing="ij")
        return sum(100.0**i * axis for i, axis in enumerate(axes))  # pyright: ignore

    assert torch.equal(fourier_crop(labelled(n), size, ndim), labelled(size))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("size", [3, 4, 7])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_pad_is_the_adjoint_of_crop(n: int, size: int, ndim: int, dtype: torch.dtype, tolerance: float) -> None:
    x = random_complex(2, *[n] * ndim, dtype=dtype, seed=3)
    y = random_complex(2, *[size] * ndim, dtype=dtype, seed=4)
    left = torch.vdot(fourier_crop(x, size, ndim).flatten(), y.flatten())
    right = torch.vdot(x.flatten(), fourier_pad(y, n, ndim).flatten())
    assert abs(left - right) < tolerance * x.norm() * y.norm()
    assert torch.equal(fourier_crop(fourier_pad(y, n, ndim), size, ndim), y)


@pytest.mark.parametrize(("n", "size"), [(16, 8), (15, 7), (16, 7), (15, 8)])
def test_crop_of_a_plane_wave_is_the_same_wave_on_a_coarser_grid(n: int, size: int) -> None:
    # e^{2πi·2x/L} over the field of view L is mode 2 on either grid; unitary transforms scale as √(points).
    wave, coarse = (torch.exp(2j * math.pi * 2 * positions(m) / m) for m in (n, size))
    cropped = fourier_crop(centred_fft(wave, 1), size, 1) * math.sqrt(size / n)
    torch.testing.assert_close(centred_ifft(cropped, 1), coarse)


@pytest.mark.parametrize("size", [0, -1, 9])
def test_crop_to_an_impossible_size(size: int) -> None:
    with pytest.raises(InputError, match="between 1 and 8"):
        fourier_crop(torch.zeros(8, 8), size)


def test_pad_to_a_smaller_size() -> None:
    with pytest.raises(InputError, match="at least 8"):
        fourier_pad(torch.zeros(8, 8), 7)

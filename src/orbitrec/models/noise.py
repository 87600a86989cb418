"""Stationary noise: its radial power spectrum, and its estimate from the corners of images.

Spectra are in the units of the unitary DFT: white noise of variance σ² has the spectrum σ² at every frequency.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies, radii, shell_frequencies, shell_indices
from orbitrec.models.background import Background, corner_mask

FAINT = 0.15
"""Share of its mean below which a filter leaves too little noise to be told from other things."""


@dataclass(frozen=True, eq=False)
class NoiseSpectrum:
    """Variance of the unitary DFT of noise images on the shells ``k = 2πs/n``, s = 0 … n//2.

    Attributes:
        shells: the variance on each shell.
        n: edge of the images in pixels.

    Raises:
        InputError: if a variance is not positive.
    """

    shells: Float[Tensor, "R"]
    n: int

    def __post_init__(self) -> None:
        if not bool((self.shells > 0).all()):
            raise InputError("the noise variance is not positive on every shell; are the image corners constant?")

    @classmethod
    def white(cls, n: int, variance: float) -> "NoiseSpectrum":
        """White noise of one ``variance`` per pixel."""
        return cls(torch.full((n // 2 + 1,), variance, dtype=torch.float64), n)

    @classmethod
    def coloured(cls, n: int) -> "NoiseSpectrum":
        """Noise of variance 1 per pixel with a spectrum like that of ice and detector, five times as strong at k = 0.

        The spectrum is proportional to ``1 + 4 / (1 + (k/0.5)²)``, k in radians per pixel.
        """
        k = shell_frequencies(n)
        return cls(1 + 4 / (1 + (k / 0.5).square()), n).scaled(1.0)

    @property
    def pixel_variance(self) -> float:
        """Variance of one pixel: the mean of the spectrum over the DFT grid (Parseval)."""
        return float(self.at(radial_frequencies(self.n)).mean())

    def scaled(self, pixel_variance: float) -> "NoiseSpectrum":
        """The same shape of spectrum with another variance per pixel."""
        return NoiseSpectrum(self.shells * (pixel_variance / self.pixel_variance), self.n)

    def at(self, k: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Spectrum at radial frequencies ``k`` (radians per pixel): linear between shells, constant past the last."""
        last = len(self.shells) - 1
        position = (k * (self.n / (2 * math.pi))).clamp(0, last)
        below = position.floor().long().clamp(max=max(last - 1, 0))
        shells = self.shells.to(k)
        return torch.lerp(shells[below], shells[(below + 1).clamp(max=last)], position - below)

    def at_rows(self, rows: Int[Tensor, "b"], k: Float[Tensor, "*shape"]) -> Float[Tensor, "_ *shape"]:
        """The spectrum at radial frequencies ``k``, the same for all of the particles ``rows``."""
        return self.at(k)[None]

    def before_filter(self, power: Float[Tensor, "R"]) -> "NoiseSpectrum":
        """The noise as it was before its spectrum was multiplied by ``power``, which is known on the shells.

        ``power`` is smoothed to the resolution that an estimated spectrum has, so that its zeros are not divided by.
        Where it is still below :data:`FAINT` of its mean, the spectrum is that of the nearest shells: at the lowest
        frequencies a CTF leaves so little noise that what the particles spread over their whole images outweighs it.
        """
        k = radial_frequencies(self.n)
        covariance = centred_ifft(NoiseSpectrum(power.double(), self.n).at(k).to(torch.complex128))
        taper = _hann(radii(self.n), self.n)
        smooth = _shell_means(centred_fft(covariance * taper).real)
        seen = (smooth >= FAINT * smooth.mean()).cpu().nonzero().flatten().numpy()
        before = (self.shells / smooth.to(self.shells)).cpu().numpy()
        return NoiseSpectrum(torch.from_numpy(np.interp(np.arange(len(before)), seen, before[seen])), self.n)

    def sample(
        self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "count n n"]:
        """Gaussian noise images with this spectrum.

        Args:
            count: number of images.
            generator: source of the draws.
            dtype: real dtype of the images.

        Returns:
            The images, axes (y, x).
        """
        white = torch.randn(count, self.n, self.n, generator=generator, dtype=dtype)
        if bool((self.shells == self.shells[0]).all()):
            return white * float(self.shells[0]) ** 0.5
        k = radial_frequencies(self.n, dtype=dtype)
        return centred_ifft(centred_fft(white) * self.at(k).pow(0.5)).real


@dataclass(frozen=True, eq=False)
class GroupedNoise:
    """One spectrum for each group of particles.

    Attributes:
        spectra: of the groups.
        group: index of the group of each particle.
    """

    spectra: tuple[NoiseSpectrum, ...]
    group: Int[Tensor, "N"]

    def at_rows(self, rows: Int[Tensor, "b"], k: Float[Tensor, "*shape"]) -> Float[Tensor, "_ *shape"]:
        """The spectrum of each of the particles ``rows`` at radial frequencies ``k``."""
        groups, which = self.group[rows].unique(return_inverse=True)
        return torch.stack([self.spectra[int(group)].at(k) for group in groups])[which]


Noise = NoiseSpectrum | GroupedNoise
"""The noise of a stack's particles: ``at_rows`` gives the spectrum of each."""


def estimate_noise(chunks: Iterable[Float[Tensor, "_ n n"]], radius: float = 0.45, degree: int = 0) -> NoiseSpectrum:
    """Radial noise spectrum of a stack, from the pixels outside a disc of ``radius · n``, in one pass.

    The spectrum is the transform of the autocovariance (Blackman and Tukey 1958): products of corner pixels are
    averaged lag by lag, each over as many pairs as the mask has, so the hole in the mask neither leaks power between
    frequencies, as a masked periodogram would, nor biases any lag. A Hann taper to ``n/3`` sets the resolution. The
    background of each image is subtracted, and the variance that this removes is added again: so it makes no difference
    whether images come with their backgrounds or without.

    Args:
        chunks: the images, some at a time.
        radius: of the disc, in boxes.
        degree: of the background, at least that of what the images have lost already (:class:`Background`).

    Returns:
        The spectrum on the shells of the images' box.

    Raises:
        InputError: if there are no images, a corner is constant, or a pixel is not finite.
    """
    background = Background(degree=degree, radius=radius)
    power, count, n, mask = None, 0, 0, torch.empty(0)
    for images in chunks:
        if power is None:
            n, mask = images.shape[-1], corner_mask(images.shape[-1], radius).to(images)
            power = torch.zeros(2 * n, n + 1, dtype=torch.float64, device=images.device)
        # Padding to 2n keeps lags from wrapping round the box.
        transform = torch.fft.rfft2(background.removed(images) * mask, s=(2 * n, 2 * n))
        power += transform.abs().square().sum(0)
        count += len(images)
    if power is None or count == 0:
        raise InputError("cannot estimate the noise of an empty stack; give at least one image")
    if not bool(power.isfinite().all()):
        raise InputError("an image has pixels that are not finite numbers; remove it from the stack")
    return NoiseSpectrum(_spectrum_on_shells(power / count, mask.double(), background.basis(n).to(power)), n)


def _spectrum_on_shells(
    power: Float[Tensor, "p q"], mask: Float[Tensor, "n n"], removed: Float[Tensor, "r n n"]
) -> Float[Tensor, "R"]:
    """Spectrum from the mean power of masked images, transformed on the grid padded to 2n.

    ``removed``: surfaces that span what was subtracted from the images.
    """
    n = mask.shape[-1]
    lag = torch.fft.fftfreq(2 * n, 1 / (2 * n), dtype=torch.float64, device=mask.device)
    distance = (lag.square()[:, None] + lag.square()).sqrt()
    taper = _hann(distance, n)
    pairs = torch.fft.irfft2(torch.fft.rfft2(mask, s=(2 * n, 2 * n)).abs().square()).round().clamp(min=1)
    covariance = torch.fft.irfft2(power) / pairs * taper
    # Without its part along u, an orthonormal surface of autocorrelation A, noise lacks the variance s = Σ A·covariance
    # there, and the covariance s·A/pairs at each lag. What is left of s is what is seen, hence the equations.
    surfaces = torch.zeros_like(removed)
    surfaces[:, mask > 0] = torch.linalg.qr(removed[:, mask > 0].mT)[0].mT
    own = torch.fft.irfft2(torch.fft.rfft2(surfaces, s=(2 * n, 2 * n)).abs().square())
    lost = own / pairs * taper
    seen, mixed = (own * covariance).sum((-2, -1)), torch.einsum("kpq,jpq->kj", own, lost)
    variances = torch.linalg.solve(torch.eye(len(own)).to(mixed) - mixed, seen)
    covariance += torch.einsum("k,kpq->pq", variances, lost)
    spectrum = torch.fft.fftshift(torch.fft.fft2(covariance).real[::2, ::2])
    means = _shell_means(spectrum)
    # A deep dip can come out negative from finite data; with the floor, dividing by the spectrum stays finite.
    return means.clamp(min=1e-3 * float(means.mean()))


def _hann(lag: Float[Tensor, "*shape"], n: int) -> Float[Tensor, "*shape"]:
    """Hann's taper, zero from lag ``n/3`` on."""
    return (1 + torch.cos(math.pi * (lag * 3 / n).clamp(max=1))) / 2


def _shell_means(spectrum: Float[Tensor, "n n"]) -> Float[Tensor, "R"]:
    """Means over the shells 0 … n//2 of a centred spectrum."""
    n = spectrum.shape[-1]
    shell = shell_indices(n).to(spectrum.device).reshape(-1)
    sums = torch.zeros(2, int(shell.max()) + 1, dtype=torch.float64, device=spectrum.device)
    sums.index_add_(1, shell, torch.stack([spectrum.reshape(-1), torch.ones(n * n).to(spectrum)]))
    return (sums[0] / sums[1])[: n // 2 + 1]

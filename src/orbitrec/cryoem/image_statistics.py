"""Statistics of a stack's images before a run: contrast, background, scale of the signal, size of the particle."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.config import DIAMETER_SHARE
from orbitrec.cryoem.outliers import FAR, robust_deviations
from orbitrec.cryoem.preprocess import estimated_noise, sampled_runs
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies, shell_indices
from orbitrec.io.particles import ParticleStack
from orbitrec.models.background import Background, corner_mask
from orbitrec.models.noise import GroupedNoise, Noise

AGREES = 0.2
"""The diameter is the usual share of the box if the one that the images show is within this share of it: measured
results are better than with a ball that just holds what the images show."""
MARGIN = 1.1
"""Radius of the ball over the radius that the images show, otherwise."""
HELD = 0.98
"""Share of the signal's energy within the radius that the images show."""
WITHIN = 0.4
"""Radius in boxes at which a single particle has ended. Neighbours, and rings of the CTF around a shell, end later."""
CYCLES = 6
"""Standard deviation of the low-pass filter before sizes are measured, in cycles per box."""
UNEVEN_MEAN, UNEVEN_DEVIATION = 0.2, 0.1
"""Backgrounds further from one another than this, in standard deviations, are normalised image by image."""
UNEVEN_SIGNAL = 0.1
"""Groups are brought to one scale if their signals differ in scale by more than this share."""
SEEN = 0.4
"""Radius in boxes of the disc whose skewness tells the contrast. It must show background beside the particle: within
0.3 a shell such as apoferritin has nothing around its bright rim, and looks dark."""
CLEAR = 5.0
"""Standard errors above which a statistic is taken to differ from zero."""


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of a stack's images, and how it is to be read because of them.

    Attributes:
        diameter_A: of the particle's ball, in Å.
        diameter_found: whether the images show the particle's size; otherwise the usual share of the box is assumed.
        contrast: skewness of the images, corrected for the sign of the CTF, in standard errors. It is positive if dense
            is bright, since a particle is compact and dense on an empty background.
        normalised: whether backgrounds differ, so that images are normalised when they are read.
        scales: (g,) scale of the signal in each noise group over that of all; ones where they agree.
        noise_deviation: standard deviation of the noise in a pixel, over all groups once they are on one scale.
    """

    diameter_A: float
    diameter_found: bool
    contrast: float
    normalised: bool
    scales: Float[Tensor, "g"]
    noise_deviation: float

    def applied(self, stack: ParticleStack) -> ParticleStack:
        """The stack with backgrounds removed, and images on one scale, on which their noise has variance 1."""
        factors = stack.factors / (self.noise_deviation * self.scales[stack.noise_groups()].numpy())
        return replace(stack, background=Background(unit_variance=self.normalised), factors=factors)

    def contrast_text(self) -> str:
        """The contrast in words."""
        if abs(self.contrast) < CLEAR:
            return "not clear from the images"
        return "dense is bright" if self.contrast > 0 else "dense is dark"

    def notes(self, inverted: bool | None = None, *, diameter_given: bool = False) -> list[str]:
        """One sentence for everything that was done to the images, or that they do not show.

        Args:
            inverted: whether dense is dark in the images according to the map of a run; None before there is one.
            diameter_given: whether the diameter was set by hand.
        """
        notes = []
        if inverted is not None and abs(self.contrast) >= CLEAR and (self.contrast < 0) != inverted:
            notes.append(
                f"The images look as if {self.contrast_text()}, the map as if it were the other way round: compare it "
                "with what you know, and set `dense_is_dark`."
            )
        if not (self.diameter_found or diameter_given):
            notes.append(
                f"The images do not show where the particle ends: a ball of {self.diameter_A:.0f} Å "
                f"({DIAMETER_SHARE} box) is assumed; set `diameter_A` if you know it."
            )
        if self.normalised:
            notes.append("The images' backgrounds differ: each is brought to mean 0 and variance 1.")
        if bool((self.scales != 1).any()):
            low, high = float(self.scales.min()), float(self.scales.max())
            notes.append(
                f"The signal of the optics groups differs in scale, {low:.2f} to {high:.2f} of the mean: they are "
                "brought to one scale."
            )
        return notes


def image_statistics(stack: ParticleStack) -> ImageStatistics:
    """Statistics of up to two thousand images of every noise group.

    Raises:
        InputError: for NaN or constant images, or where corners are constant.
    """
    normalised = _uneven(stack)
    stack = replace(stack, background=Background(unit_variance=normalised))
    noise, groups = estimated_noise(stack), stack.noise_groups()
    found = [_group_statistics(stack, noise, (groups == g).nonzero().flatten()) for g in range(int(groups.max()) + 1)]
    counts = torch.tensor([each.count for each in found], dtype=torch.float64)
    power = torch.stack([each.signal for each in found]).clamp(min=0)
    scales = (power / (power @ counts / counts.sum())).sqrt()
    clear = bool((power > 0).all()) and len(found) > 1 and bool(((scales - 1).abs() > UNEVEN_SIGNAL).any())
    scales = scales if clear else torch.ones_like(scales)
    spectra = noise.spectra if isinstance(noise, GroupedNoise) else (noise,)
    variances = torch.tensor([spectrum.pixel_variance for spectrum in spectra], dtype=torch.float64)
    largest = found[int(counts.argmax())]
    radius = particle_radius(largest.profile, largest.error)
    contrasts = torch.stack([each.contrast for each in found])
    usual = DIAMETER_SHARE * stack.n / 2
    ball = usual if radius is None or abs(radius / usual - 1) <= AGREES else min(MARGIN * radius, 0.48 * stack.n)
    return ImageStatistics(
        diameter_A=2 * ball * stack.pixel_size_A,
        diameter_found=radius is not None,
        contrast=float((contrasts @ counts.sqrt()) / counts.sum().sqrt()),
        normalised=normalised,
        scales=scales,
        noise_deviation=float(((variances / scales.square()) @ counts / counts.sum()).sqrt()),
    )


def _uneven(stack: ParticleStack) -> bool:
    """Whether backgrounds differ from image to image more than noise makes them."""
    corner = corner_mask(stack.n)
    runs = sampled_runs(stack, torch.arange(len(stack)), 500)
    background = torch.cat([stack.images(run)[:, corner] for run in runs]).double()
    mean, deviation = background.mean(1), background.std(1)
    typical = float(deviation.mean())
    if typical <= 1e-6 * float(background.abs().max()):
        return False  # noiseless: there is nothing to normalise by
    uneven_mean = float(mean.square().mean().sqrt()) > UNEVEN_MEAN * typical
    return uneven_mean or float(deviation.std(correction=0)) > UNEVEN_DEVIATION * typical


@dataclass(frozen=True)
class _GroupStatistics:
    """Of one noise group: ``profile``: mean variance of the low-passed signal at each radius in pixels, ``error``: its
    standard error; ``signal``: what the signal's power is proportional to; ``contrast``: in standard errors. Images
    with far more energy than the others have no part in them: a few bright ones would outweigh all views.
    """

    count: int
    profile: Float[Tensor, "r"]
    error: Float[Tensor, "r"]
    signal: Float[Tensor, ""]
    contrast: Float[Tensor, ""]


def _group_statistics(stack: ParticleStack, noise: Noise, rows: Int[Tensor, "g"]) -> _GroupStatistics:
    n = stack.n
    k = radial_frequencies(n)
    low = torch.exp(-0.5 * (k * n / (2 * math.pi * CYCLES)).square())
    radius = shell_indices(n).flatten()
    inside, pixels = radius <= SEEN * n, torch.bincount(radius).double()
    profiles, contrasts, weights = [], [], []
    for run in sampled_runs(stack, rows):
        transform = centred_fft(stack.images(run)) * low.float()
        spectrum = noise.at_rows(run, k) * low.square()
        filtered, square = transform, torch.ones(1, n, n)
        if stack.ctf is not None:
            ctf = stack.ctf.select(run).on_grid(n, stack.pixel_size_A)
            multiplied, square = stack.premultiplied[run, None, None], ctf.square()
            spectrum = torch.where(multiplied, square * spectrum, spectrum)
            filtered = torch.where(multiplied, transform, ctf * transform)
        excess = centred_ifft(transform).real.double().square() - spectrum.mean((-2, -1))[:, None, None]
        profiles.append(torch.zeros(len(run), len(pixels)).double().index_add_(1, radius, excess.flatten(1)) / pixels)
        shown = centred_ifft(filtered).real.double().flatten(1)[:, inside]
        # About their own mean: otherwise three times the noise's variance multiplies the signal's mean.
        contrasts.append((shown - shown.mean(1, keepdim=True)).pow(3).mean(1))
        weights.append((square * low.square()).mean((-2, -1)).double().expand(len(run)))
    profile, contrast = torch.cat(profiles), torch.cat(contrasts)
    views = robust_deviations((profile @ pixels)[:, None])[:, 0] <= FAR
    profile, contrast = profile[views], contrast[views]
    mean, error = profile.mean(0), profile.std(0) / math.sqrt(len(profile))
    radii = torch.arange(n // 4 + 1)
    signal = (mean * pixels)[radii].sum() / torch.cat(weights)[views].mean()
    significance = contrast.mean() / (contrast.std() / math.sqrt(len(contrast)))
    return _GroupStatistics(len(rows), mean[: n // 2 + 1], error[: n // 2 + 1], signal, significance)


def particle_radius(profile: Float[Tensor, "r"], error: Float[Tensor, "r"]) -> float | None:
    """Radius in pixels of the disc that holds nearly all of a signal, or None if the images do not show it.

    The signal ends where its variance first falls below a hundredth of the largest, or below three standard errors.
    There is no radius if the signal is nowhere clear of the noise, if it has not ended at :data:`WITHIN`, or if it is
    smaller than a tenth of the box: such images do not show a single particle.

    Args:
        profile: variance of the signal at radius 0, 1, …, half the box.
        error: its standard error.
    """
    radii = torch.arange(len(profile), dtype=torch.float64)
    peak = float(profile[2:].max())
    if not peak > 2 * CLEAR * float(error[2:][profile[2:].argmax()]):
        return None
    ended = ((profile < 0.01 * peak) | (profile < 3 * error)) & (radii > 2)
    if not bool(ended.any()):
        return None
    end = int(ended.nonzero()[0])
    energy = (profile * radii).clamp(min=0)[: end + 1].cumsum(0)
    # A shell's energy lies half a pixel to both sides of its radius.
    radius = float(np.interp(HELD * float(energy[-1]), energy.numpy(), radii[: end + 1].numpy() + 0.5))
    box = 2 * (len(profile) - 1)
    return radius if 0.1 * box <= radius and end <= WITHIN * box else None

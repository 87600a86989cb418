"""Multireference alignment: a real signal on n samples, seen at random cyclic shifts in white noise (1.5), (4.4).

A shift by s samples is ``(R_s v)[i] = v[(i − s) mod n]``: the centred unitary transform is multiplied by ``e^{−iks}``.
A density holds the probability of the shift by s samples at index s = 0 … n − 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft
from orbitrec.models.base import Circle


def shifted(signal: Float[Tensor, "*batch n"], by: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch n"]:
    """Each signal or density shifted cyclically by its own whole number of samples, ``R_s v``."""
    index = torch.arange(signal.shape[-1], device=signal.device)
    return signal.gather(-1, (index - by[..., None]) % signal.shape[-1])


def all_shifts(signal: Float[Tensor, "... n"]) -> Float[Tensor, "... n n"]:
    """The n cyclic shifts of each signal; row s is ``R_s v``."""
    index = torch.arange(signal.shape[-1], device=signal.device)
    return signal[..., (index - index[:, None]) % signal.shape[-1]]


@dataclass(frozen=True)
class PeriodicMRA:
    """Multireference alignment with whole periods: all n samples are seen.

    As an orbit model it has one direction, n circular modes, one node and n angles, the shifts. Modes are those of the
    centred DFT, ``j − n//2``; angle s is the shift by s samples, since ``2πs/n · m = k s``.

    Attributes:
        n: samples of the signal.
    """

    n: int

    @property
    def length(self) -> int:
        """The samples of an observation."""
        return self.n

    @property
    def circle(self) -> Circle:
        """The circle of n modes and n angles."""
        return Circle(torch.arange(self.n) - self.n // 2, self.n)

    def coordinates(self, observations: Float[Tensor, "... n"]) -> Complex[Tensor, "... n one"]:
        """Observations as circular modes, by their centred unitary transform."""
        return centred_fft(observations, ndim=1)[..., None]

    def templates(self, signal: Float[Tensor, "... n"]) -> Complex[Tensor, "... one n one"]:
        """The signal's own modes."""
        return self.coordinates(signal)[..., None, :, :]

    def group_density(self, density: Float[Tensor, "... n"]) -> Float[Tensor, "... one n"]:
        """The density on directions and angles."""
        return density[..., None, :]

    def views(self, signal: Float[Tensor, "... n"]) -> Float[Tensor, "... n n"]:
        """The noiseless observation at each shift, in samples."""
        return all_shifts(signal)


@dataclass(frozen=True)
class WindowedMRA:
    """Multireference alignment with windows: only the first ``length`` of the n shifted samples are seen (section 4.2).

    The window breaks the circle, so as an orbit model it has n directions, the shifts, one mode, ``length`` nodes and
    one angle. Nodes are the window's own centred unitary transform, ``T_s = F W R_s v``.

    Attributes:
        n: samples of the signal.
        length: samples of a window.

    Raises:
        InputError: if the window is not between 1 and n samples.
    """

    n: int
    length: int

    def __post_init__(self) -> None:
        if not 1 <= self.length <= self.n:
            raise InputError(f"a window of {self.length} samples does not fit {self.n}; choose one from 1 to {self.n}")

    @property
    def circle(self) -> Circle:
        """The trivial circle of mode 0 and angle 0."""
        return Circle(torch.tensor([0]), 1)

    def coordinates(self, observations: Float[Tensor, "... w"]) -> Complex[Tensor, "... one w"]:
        """Observations as the nodes of the one mode, by their centred unitary transform."""
        return centred_fft(observations, ndim=1)[..., None, :]

    def templates(self, signal: Float[Tensor, "... n"]) -> Complex[Tensor, "... n one w"]:
        """The window of every shift of the signal."""
        return self.coordinates(self.views(signal))

    def group_density(self, density: Float[Tensor, "... n"]) -> Float[Tensor, "... n one"]:
        """The density on directions and angles."""
        return density[..., None]

    def views(self, signal: Float[Tensor, "... n"]) -> Float[Tensor, "... n w"]:
        """The noiseless observation at each shift, in samples."""
        return all_shifts(signal)[..., : self.length]


MRA = PeriodicMRA | WindowedMRA


def draw_observations(
    model: MRA,
    signal: Float[Tensor, "n"],
    density: Float[Tensor, "n"],
    sigma: float,
    count: int,
    generator: torch.Generator,
    *,
    chunk: int = 1 << 16,
) -> Iterator[Float[Tensor, "_ w"]]:
    """Random observations ``W R_s v + ε``, with shifts s drawn from a density and white Gaussian noise ε.

    Args:
        model: how the signal is seen.
        signal: (n,); its dtype is that of the observations.
        density: probabilities of the n shifts.
        sigma: standard deviation of the noise.
        count: how many observations.
        generator: source of shifts and noise. What it draws depends on ``chunk`` too.
        chunk: observations of a batch.

    Yields:
        Batches of at most ``chunk`` observations, (b, w).

    Raises:
        InputError: if σ is negative or infinite, or the density is not one of n probabilities.
    """
    if not 0 <= sigma < float("inf"):
        raise InputError(f"a noise level σ of {sigma:g} is not finite or negative; give zero or more")
    if bool((density < 0).any()) or abs(float(density.sum()) - 1) > 1e-3:
        raise InputError(
            "the probabilities of the shifts must not be negative and must sum to 1; normalise the density"
        )
    views = model.views(signal)
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        shifts = torch.multinomial(density, size, replacement=True, generator=generator)
        noise = torch.randn(size, model.length, generator=generator, dtype=signal.dtype)
        yield noise.mul_(sigma).add_(views[shifts])

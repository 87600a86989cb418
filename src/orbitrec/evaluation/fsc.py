"""Fourier shell correlation and the resolution read from it (Harauz & van Heel, Optik 73, 1986).

A mask raises the curve of two half-maps: rightly because it takes noisy solvent away, wrongly because its own shape is
in both. How much is wrong shows in maps that have nothing in common but the mask, those with random phases beyond some
frequency (Chen et al., Ultramicroscopy 135, 2013).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radii, shell_frequencies, shell_indices


@dataclass(frozen=True)
class FSC:
    """The correlation of two maps on Fourier shells one frequency step thick, from the origin to Nyquist.

    Attributes:
        frequency: shell radii ``2πs/n``, s = 0 … n//2, in radians per pixel.
        value: correlation of each shell, between −1 and 1; 0 where one of the maps has no power.
    """

    frequency: Float[Tensor, "s"]
    value: Float[Tensor, "s"]

    def resolution_A(self, voxel_size_A: float) -> Float[Tensor, "s"]:
        """The period of each shell in Å; that of the shell at the origin is infinite."""
        return 2 * math.pi * voxel_size_A / self.frequency

    def cutoff_A(self, threshold: float, voxel_size_A: float) -> float:
        """The resolution at which the curve first falls below a threshold, linear between shells.

        The shell at the origin does not count: it only says whether the means agree in sign.

        Args:
            threshold: 0.5 against a known map, 0.143 between half-maps (Rosenthal and Henderson, J. Mol. Biol. 333,
                2003).
            voxel_size_A: of both maps, in Å.

        Returns:
            The period in Å: infinite if the curve is below the threshold from the first shell on, two voxels if it
            never falls below it.
        """
        below = (self.value[1:] < threshold).nonzero().flatten()
        if len(below) == 0:
            return 2 * voxel_size_A
        s = int(below[0]) + 1
        if s == 1:
            return math.inf
        high, low = float(self.value[s - 1]), float(self.value[s])
        step = (high - threshold) / (high - low)
        return 2 * math.pi * voxel_size_A / float(torch.lerp(self.frequency[s - 1], self.frequency[s], step))


def edge_of_both(a: Float[Tensor, "_ _ _"], b: Float[Tensor, "_ _ _"]) -> int:
    """The edge n of two maps that are to be compared.

    Raises:
        InputError: if the maps are not cubes of one size.
    """
    n = a.shape[0]
    if a.shape != b.shape or a.shape != (n, n, n):
        raise InputError(
            f"maps to compare must be cubes of one size, not {tuple(a.shape)} and {tuple(b.shape)}; resample one first"
        )
    return n


def fourier_shell_correlation(a: Float[Tensor, "_ _ _"], b: Float[Tensor, "_ _ _"]) -> FSC:
    """The Fourier shell correlation of two maps on the same grid.

    ``FSC_s = Re Σ â b̂* / sqrt(Σ |â|² Σ |b̂|²)``, with sums over the points of the Fourier lattice whose radius rounds to
    s (Harauz and van Heel, Optik 73, 1986). It does not depend on the maps' scales, but on their positions: align them
    first (:func:`orbitrec.evaluation.alignment.align`). Multiply both by a mask such as
    :func:`orbitrec.evaluation.masks.soft_sphere` to leave the solvent out; a tight mask correlates the maps by itself
    (:func:`half_map_fsc` measures by how much).

    Args:
        a: one map, (n, n, n), z, y, x.
        b: the other, (n, n, n).

    Returns:
        Correlations of the shells s = 0 … n // 2, in float64.

    Raises:
        InputError: if the maps are not cubes of one size.
    """
    n = edge_of_both(a, b)
    shell = shell_indices(n, 3).flatten()
    x, y = (centred_fft(grid.double(), ndim=3).flatten() for grid in (a, b))

    def shells(values: Tensor) -> Tensor:
        return torch.bincount(shell, values, minlength=n // 2 + 1)[: n // 2 + 1]

    cross = shells((x * y.conj()).real)
    power = shells(x.abs().square()) * shells(y.abs().square())
    value = torch.where(power > 0, cross / power.clamp(min=torch.finfo(power.dtype).tiny).sqrt(), 0.0)
    return FSC(shell_frequencies(n), value)


@dataclass(frozen=True)
class HalfMapFSC:
    """The correlation of two half-maps, and how much of it is the mask's.

    Attributes:
        unmasked: of the whole maps.
        masked: within the mask.
        randomised: within the mask, with random phases from the shell ``random_from`` on.
        corrected: what the mask does not explain, ``(masked − randomised) / (1 − randomised)``, from two shells beyond
            ``random_from`` on; ``masked`` below.
        random_from: a shell's index.
    """

    unmasked: FSC
    masked: FSC
    randomised: FSC
    corrected: FSC
    random_from: int


RANDOM_BELOW = 0.8
"""Phases are random from where the half-maps' correlation without a mask first falls below this, as in RELION."""


def half_map_fsc(
    first: Float[Tensor, "n n n"], second: Float[Tensor, "n n n"], mask: Float[Tensor, "n n n"],
    generator: torch.Generator,
) -> HalfMapFSC:  # fmt: skip
    """The correlation of two half-maps within a mask, corrected for what the mask adds (Chen et al. 2013).

    Args:
        first: one half-map without a mask, (n, n, n).
        second: the other, (n, n, n).
        mask: between 0 and 1, with soft edges, (n, n, n).
        generator: draws the random phases.

    Returns:
        The curves before and after the correction.

    Raises:
        InputError: if the maps are not cubes of one size.
    """
    unmasked = fourier_shell_correlation(first, second)
    masked = fourier_shell_correlation(first * mask, second * mask)
    below = (unmasked.value[1:] < RANDOM_BELOW).nonzero().flatten()
    start = 1 + int(below[0]) if len(below) else len(unmasked.value) - 1
    noise = (_phases_randomised(volume, start, generator) * mask for volume in (first, second))
    randomised = fourier_shell_correlation(*noise)
    t, r = masked.value, randomised.value
    corrected = torch.where(r < 1, (t - r) / (1 - r).clamp(min=torch.finfo(r.dtype).tiny), 0.0)
    corrected[: start + 2] = t[: start + 2]
    return HalfMapFSC(unmasked, masked, randomised, FSC(masked.frequency, corrected), start)


def _phases_randomised(
    volume: Float[Tensor, "n n n"], shell: int, generator: torch.Generator
) -> Float[Tensor, "n n n"]:
    """The map with phases of white noise from a shell's inner edge on; a noise map's phases are Hermitian."""
    n = len(volume)
    spectrum = centred_fft(volume.double(), ndim=3)
    noise = centred_fft(torch.randn(n, n, n, generator=generator, dtype=torch.float64), ndim=3)
    beyond = radii(n, 3) >= shell - 0.5
    return centred_ifft(torch.where(beyond, spectrum.abs() * noise / noise.abs(), spectrum), ndim=3).real

"""Classes that are the same map: where one structure was split."""

import math
from itertools import combinations

from jaxtyping import Float
from torch import Tensor

from orbitrec.cryoem.result import PosedMap
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.fourier import centred_fft, centred_ifft, fourier_crop
from orbitrec.geometry.grids import radial_frequencies

SAME = 0.9
"""Correlation after alignment, at the resolution that both maps have, above which they are the same."""
LARGEST, SMALLEST = 48, 12
"""Voxels along an edge of the grids that are aligned."""


def correlation(first: Float[Tensor, "n n n"], second: Float[Tensor, "n n n"], resolution_px: float) -> float:
    """Correlation of two maps after alignment over rotation, shift and handedness, as far as both are resolved.

    Args:
        first: a map, (z, y, x).
        second: another in the same box.
        resolution_px: finest wavelength that is compared, in voxels.

    Returns:
        Pearson's correlation over the box.
    """
    n = len(first)
    edge = min(n, LARGEST, max(SMALLEST, 2 * math.ceil(1.25 * n / resolution_px)))
    low = radial_frequencies(edge, 3) <= 2 * math.pi * n / (resolution_px * edge)
    spectra = (fourier_crop(centred_fft(each.double(), 3), edge, 3) for each in (first, second))
    coarse = [centred_ifft(spectrum * low, 3).real for spectrum in spectra]
    return align(*coarse).correlation


def same_maps(found: list[PosedMap], pixel_size_A: float) -> list[str]:
    """A sentence for each pair of classes that have the same map.

    Args:
        found: the maps of all classes.
        pixel_size_A: of the images, in Å.

    Returns:
        The sentences.
    """
    n, sentences = len(found[0].combined.volume), []
    resolutions = [each.combined.masked.corrected.cutoff_A(0.143, pixel_size_A) for each in found]
    for first, second in combinations(range(len(found)), 2):
        common_px = min(max(resolutions[first], resolutions[second]) / pixel_size_A, n / 4)
        value = correlation(found[first].combined.volume, found[second].combined.volume, common_px)
        if value > SAME:
            sentences.append(
                f"Classes {first + 1} and {second + 1} are the same map (correlation {value:.2f} at "
                f"{common_px * pixel_size_A:.0f} Å): one structure was split; ask for fewer `classes`, or take them "
                "together."
            )
    return sentences

"""Which classes show the molecule: a score for each, from what views of one object have in common.

Views of a molecule differ, but the power of each, ring by ring, is that of a slice through one transform: it varies
from view to view by a small factor. Contamination, edges and empty images have another spectrum, above all too little
power at high frequencies for what they have at low ones, and averages of noise have no power that two halves agree on.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orbitrec.cryoem.classes.averages import MeasuredClasses

BANDS = (2.0, 5.0, 8.0, 12.0)
"""Edges of the bands whose power is compared, as bandwidths (radius · frequency)."""
FAR = 4.0
"""Robust standard deviations from the typical class at which a score is one half."""
NOISE = 2.0
"""Mean log-likelihood of a member, over that of an image of noise, below which a class explains its members hardly
better than noise does: empty images gather in it."""
FEWEST = 3
"""Least number of members of a class that is kept."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """How the classes are judged.

    Attributes:
        score: (d,) between 0 and 1; above one half for good classes.
        why: for each class what speaks against it; empty for good ones.
    """

    score: Float[Tensor, "d"]
    why: tuple[str, ...]

    @property
    def good(self) -> Bool[Tensor, "d"]:
        """Which classes show the molecule."""
        return self.score > 0.5


def ranked(measured: MeasuredClasses, pixel_size_A: float, radius_px: float) -> Ranking:
    """Judge the classes by how far each is from the typical one.

    The typical class is the median over particles, so that it shows the molecule where most particles do.

    Args:
        measured: the classes.
        pixel_size_A: of the images.
        radius_px: of the averages' disc, in pixels.

    Returns:
        A score of each class, and what speaks against it.
    """
    features = _log_powers(measured, radius_px)
    weight = measured.members.double()
    deviation = torch.stack([_deviations(each, weight) for each in features.unbind(1)], dim=1)
    furthest, band = deviation.abs().max(1)
    score = torch.sigmoid(FAR - furthest)
    few, empty = measured.members < FEWEST, measured.likelihood < NOISE
    resolved = torch.tensor([math.isfinite(each) for each in measured.resolutions_A(pixel_size_A)])
    why = []
    for d in range(len(score)):
        if few[d]:
            why.append("hardly any particle belongs to it")
        elif not resolved[d]:
            why.append("averages of two halves do not agree")
        elif empty[d]:
            why.append("its members look like noise")
        elif score[d] <= 0.5:
            side = "less" if deviation[d, band[d]] < 0 else "more"
            why.append(f"{side} power than the other classes {_RANGES[int(band[d])]}")
        else:
            why.append("")
    return Ranking(torch.where(few | empty | ~resolved, 0.0, score), tuple(why))


_RANGES = ("at the lowest frequencies", "at low frequencies", "at high frequencies")


def _log_powers(measured: MeasuredClasses, radius_px: float) -> Float[Tensor, "d b"]:
    """Log of the signal's power in each of :data:`BANDS`, in units of the noise's; no less than a little of it."""
    band = torch.bucketize(measured.nodes * radius_px, torch.tensor(BANDS, dtype=torch.float64))
    within = torch.stack([(band == b).double() for b in range(1, len(BANDS))], dim=1)
    power = measured.power @ within / within.sum(0).clamp(min=1)
    return power.clamp(min=1e-3).log()


def _deviations(values: Float[Tensor, "d"], weight: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    """Distance of each value from the weighted median, in standard deviations by the median absolute deviation."""
    offset = values - _weighted_median(values, weight)
    return offset / (1.4826 * _weighted_median(offset.abs(), weight)).clamp(min=0.05)


def _weighted_median(values: Float[Tensor, "d"], weight: Float[Tensor, "d"]) -> Float[Tensor, ""]:
    order = values.argsort()
    share = weight[order].cumsum(0) / weight.sum().clamp(min=1e-9)
    return values[order][int((share < 0.5).sum().clamp(max=len(values) - 1))]

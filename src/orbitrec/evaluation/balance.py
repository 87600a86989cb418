"""Particles without dominant views: where views are many, some are left out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.quadrature import spherical_design

PERCENTILE = 80.0
_BINS_DEGREE = 31  # 256 axes, 9° apart


def view_bins(rotations: Float[Tensor, "N 3 3"], group: Float[Tensor, "g 3 3"] | None = None) -> Int[Tensor, "N"]:
    """The bin of every particle's view, of 256 around axes 9° apart; equivalent and opposite views share a bin.

    Opposite views show mirror images of each other, which are the same slice of Fourier space.

    Args:
        rotations: RELION's rotation of every particle, (N, 3, 3).
        group: rotations of the map's point group, (g, 3, 3).

    Returns:
        Numbers of the bins, (N,).
    """
    design = spherical_design(_BINS_DEGREE)
    axes, inside = design[: len(design) // 2], torch.tensor([0.5, 0.3, 0.8], dtype=torch.float64)
    bins = []
    for views in rotations[:, :, 2].detach().cpu().double().split(4096):
        equivalent = views[None] if group is None else (group.double() @ views.T).mT
        # One of the equivalent views, the same for all of them: the nearest to a direction on no axis of the group.
        chosen = (equivalent @ inside).abs().argmax(0)
        bins.append((equivalent[chosen, torch.arange(len(views))] @ axes.T).abs().argmax(1))
    return torch.cat(bins)


def balanced_rows(
    rotations: Float[Tensor, "N 3 3"],
    generator: torch.Generator,
    *,
    group: Float[Tensor, "g 3 3"] | None = None,
    percentile: float = PERCENTILE,
) -> Int[Tensor, "kept"]:
    """The particles that are left when crowded views are thinned, as cryoSPARC's *Rebalance Orientations* does.

    Bins of views (:func:`view_bins`) with more particles than the bin at a percentile of all occupied ones keep, by
    chance, as many as that one. What is left stays as it is when it is thinned again.

    Args:
        rotations: RELION's rotation of every particle, (N, 3, 3).
        generator: decides which particles of a bin are kept.
        group: rotations of the map's point group, (g, 3, 3).
        percentile: of the occupied bins by their number of particles, 0 to 100; 100 keeps all particles.

    Returns:
        Their rows, in increasing order.

    Raises:
        InputError: if there is no such percentile.
    """
    if not 0 <= percentile <= 100:
        raise InputError(f"there is no percentile {percentile:g} (`percentile`); choose one from 0 to 100")
    bins = view_bins(rotations, group)
    counts = torch.bincount(bins)
    occupied = counts[counts > 0].sort().values
    most = occupied[int(percentile / 100 * (len(occupied) - 1))]
    shuffled = torch.randperm(len(bins), generator=generator)
    by_bin = shuffled[bins[shuffled].argsort(stable=True)]
    place = torch.arange(len(bins)) - (counts.cumsum(0) - counts)[bins[by_bin]]
    return by_bin[place < most].sort().values

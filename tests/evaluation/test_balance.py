"""Crowded views are thinned to the percentile, others stay, and symmetry decides which views are the same."""

import math

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.evaluation.balance import balanced_rows, view_bins
from orbitrec.evaluation.orientation import fourier_sampling
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import random_rotations, rotation_vector_to_matrix


def _generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def preferred():
    """3,000 of 4,000 particles within some degrees of z."""
    tilts = rotation_vector_to_matrix(0.1 * torch.randn(3000, 3, generator=_generator(2), dtype=torch.float64))
    return torch.cat([random_rotations(1000, _generator(3)), tilts])


@pytest.mark.parametrize("percentile", [30.0, 80.0])
def test_bins_above_the_percentile_are_cut_to_it(preferred, percentile):
    before = torch.bincount(view_bins(preferred), minlength=256)
    rows = balanced_rows(preferred, _generator(), percentile=percentile)
    after = torch.bincount(view_bins(preferred[rows]), minlength=256)
    most = int(after.max())
    assert torch.equal(after, before.clamp(max=most))
    occupied = before[before > 0]
    assert int((occupied < most).sum()) <= percentile / 100 * (len(occupied) - 1) < int((occupied <= most).sum())
    assert bool((rows[1:] > rows[:-1]).all())


def test_thinned_views_sample_more_evenly_and_are_not_thinned_again(preferred):
    rows = balanced_rows(preferred, _generator())
    assert fourier_sampling(preferred[rows]).scf_star > fourier_sampling(preferred).scf_star + 0.4
    assert len(balanced_rows(preferred[rows], _generator(7))) == len(rows)
    assert torch.equal(balanced_rows(preferred, _generator()), rows)
    assert not torch.equal(balanced_rows(preferred, _generator(8)), rows)
    assert len(balanced_rows(preferred, _generator(), percentile=100.0)) == len(preferred)


def test_directions_that_nobody_is_seen_from_do_not_count():
    """All particles of one view stay."""
    assert len(balanced_rows(torch.eye(3).double().expand(50, 3, 3), _generator())) == 50


@pytest.mark.parametrize("name", ["C1", "C4", "D3"])
def test_equivalent_and_opposite_views_share_a_bin(name):
    rotations = random_rotations(200, _generator(4))
    group = PointGroup.named(name).matrices()
    bins = view_bins(rotations, group)
    assert len(bins.unique()) > 20
    half_turn = rotation_vector_to_matrix(torch.tensor([math.pi, 0, 0], dtype=torch.float64))
    assert torch.equal(view_bins(rotations @ half_turn, group), bins)  # R e_z → −R e_z
    for each in group:
        assert torch.equal(view_bins(each @ rotations, group), bins)


def test_a_percentile_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="no percentile 120"):
        balanced_rows(random_rotations(5, _generator()), _generator(), percentile=120.0)

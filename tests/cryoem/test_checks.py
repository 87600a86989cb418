"""Quality checks: good data pass all of them, each fault fails its own."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.checks import Evidence, quality_checks, view_shares
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.reconstruct import CombinedMap
from orbitrec.cryoem.search.level import ResolutionLevel
from orbitrec.cryoem.search.multi_start import Candidate, Selection
from orbitrec.cryoem.symmetry import SymmetryCheck
from orbitrec.evaluation.fsc import FSC, HalfMapFSC
from orbitrec.evaluation.orientation import ConicalFSC, fourier_sampling
from orbitrec.geometry.asymmetric_unit import in_asymmetric_unit
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import random_rotations, rotation_vector_to_matrix
from orbitrec.models.noise import NoiseSpectrum

N, RADIUS, COUNT = 24, 9.0, 2000


def _curve(last: int) -> HalfMapFSC:
    """One up to shell ``last``, then zero."""
    shells = torch.arange(N // 2 + 1)
    fsc = FSC(2 * math.pi / N * shells.double(), (shells <= last).double())
    return HalfMapFSC(fsc, fsc, fsc, fsc, last)


def _map(density: Tensor, last: int = 8) -> CombinedMap:
    curve = _curve(last)
    return CombinedMap(density, (density, density), curve.corrected, torch.ones(N, N, N), curve)


def _cones(last: list[int]) -> ConicalFSC:
    """Along each of some axes one up to a shell, then zero."""
    curves = [_curve(shell).corrected for shell in last]
    return ConicalFSC(torch.eye(3).double()[: len(last)], curves[0].frequency, torch.stack([c.value for c in curves]))


def _distance() -> Tensor:
    return radial_frequencies(N, 3) * N / (2 * math.pi)


@pytest.fixture
def good() -> Evidence:
    """A blob seen from everywhere."""
    grid = PolarGrid.for_radius(N, 1.5, RADIUS)
    modes = torch.zeros(COUNT, grid.max_mode + 1, grid.node_count, dtype=torch.complex64)
    filters, index = torch.ones(1, grid.node_count), torch.zeros(COUNT, dtype=torch.long)
    data = ParticleModes(grid, modes, filters, index, NoiseSpectrum.white(N, 1.0), 3.0)
    level = ResolutionLevel.at(grid, RADIUS, 8.0)
    model = level.random_model(torch.Generator().manual_seed(1), torch.ones(grid.node_count))
    candidates = [Candidate(0, 50.0, 1.0), Candidate(2, 49.9, 0.95), Candidate(1, 45.0, 0.2)]
    selection = Selection(level, model, 0, ["random"] * 4, [10.0, 9.0, 9.5, 1.0], candidates)
    rotations = random_rotations(COUNT, torch.Generator().manual_seed(2))
    return Evidence(
        _map(torch.exp(-0.05 * _distance().square())), rotations, NO_SYMMETRY, RADIUS, 3.0, data, selection, None,
        fourier_sampling(rotations), _cones([7, 8, 8]), torch.ones(COUNT), None,
    )  # fmt: skip


def test_good_data_pass_every_check(good):
    assert quality_checks(good) == []


def test_many_images_of_something_else_are_told_of(good):
    inlier = torch.ones(COUNT)
    inlier[: COUNT // 5] = 0.01
    (sentence,) = quality_checks(replace(good, inlier=inlier))
    assert sentence.startswith("20 % of the images look like no view of the particle")
    inlier[COUNT // 20 :] = 0.9
    assert quality_checks(replace(good, inlier=inlier)) == []


def test_half_sets_that_disagree_are_told_of(good):
    assert quality_checks(replace(good, agreement=0.95)) == []
    (sentence,) = quality_checks(replace(good, agreement=0.4))
    assert "ended in different maps (correlation 0.40)" in sentence


def test_uniform_views_have_their_shares():
    """A cone of 20° and its opposite hold 1 − cos 20° of the sphere; slices are what they are compared with."""
    rotations = random_rotations(50_000, torch.Generator().manual_seed(3))
    cone, slices = view_shares(rotations)
    assert torch.allclose(cone, torch.full_like(cone, 1 - math.cos(math.radians(20))), atol=0.006)
    assert torch.allclose(slices, torch.ones_like(slices), atol=0.04)


@pytest.mark.parametrize("name", ["D2", "O", "I"])
def test_views_in_an_asymmetric_unit_are_uniform_over_the_sphere(name):
    """They all lie near one axis, and the map is seen from everywhere."""
    group = PointGroup.named(name)
    rotations = in_asymmetric_unit(random_rotations(20_000, torch.Generator().manual_seed(3)), group)
    cone, slices = view_shares(rotations, group)
    assert torch.allclose(cone, torch.full_like(cone, 1 - math.cos(math.radians(20))), atol=0.01)
    assert torch.allclose(slices, torch.ones_like(slices), atol=0.06)


def test_a_sphere_that_passes_for_a_polyhedron_is_told_of(good):
    level = ResolutionLevel.at(good.data.grid, RADIUS, 14.0, PointGroup.named("O"))
    model = level.random_model(torch.Generator().manual_seed(1), torch.ones(good.data.grid.node_count))
    cage = replace(model, coefficients=torch.ones_like(model.coefficients))
    ball = replace(model, coefficients=(level.basis.lm == 0).to(model.coefficients))
    assert quality_checks(replace(good, selection=replace(good.selection, level=level, model=cage))) == []
    (sentence,) = quality_checks(replace(good, selection=replace(good.selection, level=level, model=ball)))
    assert "ended on a sphere, which has the symmetry O" in sentence


def test_views_that_collapse_under_a_polyhedral_group_are_told_of(good):
    """Uniform views reach 0.9 and more; views along an axis of the group, all alike, leave most directions unseen."""
    group = PointGroup.named("O")
    views = {
        "uniform": random_rotations(3000, torch.Generator().manual_seed(3)),
        "one": _along_one_axis(3000, 0.0),
    }
    told = {
        name: quality_checks(replace(good, group=group, sampling=fourier_sampling(rotations, group.matrices())))
        for name, rotations in views.items()
    }
    assert told["uniform"] == []
    (sentence,) = told["one"]
    assert "the search collapsed" in sentence


def _along_one_axis(count: int, spread: float) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    tilt = spread * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    psi = torch.zeros(count, 3, dtype=torch.float64)
    psi[:, 2] = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    return rotation_vector_to_matrix(tilt) @ rotation_vector_to_matrix(psi)


def _silenced(good: Evidence) -> ParticleModes:
    filters = good.data.filters.clone()
    filters[:, filters.shape[1] // 2] = 1e-4
    return replace(good.data, filters=filters)


FAULTS = {
    "few": (lambda good: {"rotations": good.rotations[:300]}, "300 particles are few"),
    "averages": (lambda good: {"rotations": good.rotations[:28]}, "28 images without CTF are taken for class averages"),
    "collapsed": (lambda good: {"rotations": _along_one_axis(COUNT, 0.05)}, "views are within 20° of one axis"),
    "unseen": (lambda good: {"rotations": _along_one_axis(COUNT, 0.05)}, "hardly seen from any view"),
    "smeared": (lambda good: {"conical_fsc": _cones([4, 9])}, "7.3 Å in one and 14.8 Å in another (cFAR 0.11)"),
    "lost": (lambda good: {"conical_fsc": _cones([0, 9])}, "in one and none in another (cFAR 0.00)"),
    "Nyquist": (lambda good: {"combined": _map(good.combined.volume, N // 2)}, "at the limit of the pixels, 6.0 Å"),
    "nothing": (lambda good: {"combined": _map(good.combined.volume, 0)}, "nothing in common"),
    "shell": (lambda good: {"combined": _map(torch.exp(-((_distance() - RADIUS) ** 2)))}, "an empty shell: the"),
    "silent": (lambda good: {"data": _silenced(good)}, "No particle's CTF passes"),
    "symmetry": (
        lambda good: {"symmetry": SymmetryCheck(PointGroup.named("C4"), 0.2, 1.0)}, "does not show the symmetry C4"
    ),
    "averaged": (
        lambda good: {"symmetry": SymmetryCheck(PointGroup.named("C4"), 0.6, 0.87)}, "averaged it keeps 87 % of the"
    ),
    "starts": (
        lambda good: {
            "selection": replace(good.selection, candidates=[Candidate(0, 50.0, 1.0), Candidate(2, 49.9, 0.4)])
        },
        "Start 3 explains the particles as well as the chosen one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(good, fault):
    change, sentence = FAULTS[fault]
    found = quality_checks(replace(good, **change(good)))
    assert [words for words in found if sentence in words]
    assert len(found) <= 2

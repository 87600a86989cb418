import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import random_rotations
from orbitrec.models.cryoem import polar_templates
from orbitrec.moments.analytic import Moments, uniform_moments
from orbitrec.moments.losses import relative_errors
from orbitrec.moments.matching import MomentTarget
from orbitrec.thesis.volume_matching.pseudo_atom_search import (
    CHANGES,
    Change,
    match_pseudo_atoms,
    searched,
    split,
    start,
    step_count,
)
from orbitrec.thesis.volume_matching.pseudo_atoms import PseudoAtomMatching, PseudoAtomSettings, PseudoAtomStage
from orbitrec.volumes.gaussians import GaussianMixture

N, MAX_RADIUS, RADIUS, K_MAX = 25, 7.0, 9.0, 1.0
ATOMS = GaussianMixture(
    torch.tensor([[4.0, 0.0, 0.0], [-2.0, 3.0, 1.0], [0.0, -3.0, -3.0], [-1.0, -1.0, 4.0]], dtype=torch.float64),
    torch.full((4,), 1.5, dtype=torch.float64),
    torch.tensor([3.0, 4.5, 2.5, 4.0], dtype=torch.float64),
)
SETTINGS = PseudoAtomSettings(
    pseudo_atoms=12, starts=6, finalists=2, tries=3, searched=(6.0, 8.0), first_bandwidth=4.0, iterations=40
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(settings: PseudoAtomSettings) -> PseudoAtomMatching:
    grid, directions = PolarGrid.for_radius(N, K_MAX, RADIUS), spherical_design(31)
    density = VonMisesFisherMixture.random(seeded(0), 8).density(directions)
    exact = uniform_moments(polar_templates(ATOMS, grid, directions), density / density.sum(), grid)
    moments = Moments(exact.first.to(torch.complex64), exact.second.to(torch.complex64), exact.weights.float())
    return PseudoAtomMatching(MomentTarget.exact(moments, grid), MAX_RADIUS, RADIUS, settings)


def stage_of(settings: PseudoAtomSettings, number: int = -1) -> PseudoAtomStage:
    matching = problem(settings)
    return PseudoAtomStage.of(matching, matching.bandwidths()[number])


def test_exact_moments_give_the_volume():
    # Of a bandwidth of 7 two moments hold a dozen numbers, so the number of pseudo-atoms has to be given.
    matching, heard = problem(replace(SETTINGS, pseudo_atoms=4)), []
    solutions = match_pseudo_atoms(matching, seeded(1), lambda name, compute: heard.append(name) or compute())
    assert [one.loss for one in solutions] == sorted(one.loss for one in solutions)
    best = solutions[0]
    assert len(heard) == len(set(heard)) == step_count(matching)
    moments = PseudoAtomStage.of(matching, matching.bandwidths()[-1]).moments(best.variables)
    first, second = relative_errors(matching.target.moments, moments)
    assert float(first) < 0.005
    assert float(second) < 0.02
    found, truth = matching.volume(best).to_grid(N), ATOMS.to_grid(N)
    below = radial_frequencies(N, 3) < K_MAX
    cut = [centred_ifft(centred_fft(v, 3) * below, 3).real for v in (align(found, truth).apply(found), truth)]
    assert float(torch.corrcoef(torch.stack([v.flatten() for v in cut]))[0, 1]) > 0.9


def test_moments_are_those_of_the_volume_and_its_views():
    stage = stage_of(SETTINGS)
    matching, x = stage.problem, start(stage, seeded(2))
    parts = matching.parts(x)
    parts.background[:] = torch.randn(len(parts.background), generator=seeded(3))
    parts.form_factor_terms[:] = torch.randn(len(parts.form_factor_terms), generator=seeded(4))
    solution = stage.matched(parts.joined())
    directions = spherical_design(2 * int(stage.bandwidth) + 7)
    templates = polar_templates(matching.volume(solution), stage.target.grid, directions)
    density = matching.view_density(solution, directions)
    assert float(density.sum()) == pytest.approx(1)
    exact = uniform_moments(templates, density, stage.target.grid)
    first, second = relative_errors(exact, stage.moments(solution.variables))
    assert float(first) < 1e-3
    assert float(second) < 1e-3


def test_gradients_are_differences():
    stage = stage_of(SETTINGS, 0)
    x = start(stage, seeded(4))
    x = x + 0.1 * torch.randn(len(x), generator=seeded(5))
    direction = torch.randn(len(x), generator=seeded(6))
    (gradient,) = torch.autograd.grad(stage.loss(x.requires_grad_()), x)
    ahead, behind = (float(stage.loss(x.detach() + step * direction)) for step in (2e-3, -2e-3))
    assert (ahead - behind) / 4e-3 == pytest.approx(float(gradient @ direction), rel=0.02)


def test_rotating_volume_and_views_together_changes_nothing():
    # Even views stay even: only the pseudo-atoms have to be rotated.
    stage = stage_of(SETTINGS)
    x = start(stage, seeded(7))
    parts = stage.problem.parts(x)
    parts.views.zero_()
    rotated, mirrored = x.clone(), x.clone()
    size = float(stage.moments(x).second_norm())
    stage.problem.parts(rotated).centers[:] = parts.centers @ random_rotations(1, seeded(8))[0].float().T
    assert float((stage.moments(rotated) - stage.moments(x)).second_norm()) < 1e-3 * size
    stage.problem.parts(mirrored).centers.neg_()
    assert float((stage.moments(mirrored) - stage.moments(x)).second_norm()) < 1e-5 * size


def test_bandwidths_and_pseudo_atoms_grow_to_the_targets():
    matching = problem(SETTINGS)
    found = matching.bandwidths()
    assert found[0] == 4.0
    assert found[-1] == pytest.approx(MAX_RADIUS * K_MAX)
    assert all(b / a < SETTINGS.growth**1.5 + 1e-9 for a, b in pairwise(found))
    counts = [matching.pseudo_atoms(bandwidth) for bandwidth in found]
    assert counts == sorted(counts)
    assert counts[0] == 8
    assert counts[-1] == SETTINGS.pseudo_atoms
    given = problem(PseudoAtomSettings(pseudo_atoms=4, first_bandwidth=4.0))
    assert {given.pseudo_atoms(bandwidth) for bandwidth in given.bandwidths()} == {4}


def test_split_pseudo_atoms_are_the_same_molecule():
    coarse, fine = stage_of(SETTINGS, 0), stage_of(SETTINGS)
    x = coarse.matched(start(coarse, seeded(9))).variables
    before, after = (fine.problem.parts(each) for each in (x, split(fine, x, seeded(10))))
    assert len(after.centers) == SETTINGS.pseudo_atoms > len(before.centers)
    old, new = (fine.problem.molecule(parts) for parts in (before, after))
    assert float(new.weights.sum()) == pytest.approx(float(old.weights.sum()), rel=1e-5)
    assert torch.allclose(new.weights @ new.centers, old.weights @ old.centers, rtol=1e-4, atol=1e-3)
    assert torch.equal(split(coarse, x, seeded(10)), x)


def test_a_search_never_loses_what_was_found():
    stage = stage_of(SETTINGS)
    found = stage.matched(start(stage, seeded(11)))
    better = searched(stage, found, 12)
    assert better.loss <= found.loss
    assert torch.equal(better.variables, searched(stage, found, 12).variables)


@pytest.mark.parametrize("change", CHANGES)
def test_changes_change_something_and_leave_the_solution_alone(change: Change):
    stage = stage_of(SETTINGS)
    x = start(stage, seeded(13))
    kept = x.clone()
    changed = change(stage.problem.parts(x), seeded(14)).joined()
    assert torch.equal(x, kept)
    assert changed.isfinite().all()
    assert len(changed) == len(x)
    assert not torch.equal(changed, x)
    assert math.isfinite(float(stage.loss(changed)))

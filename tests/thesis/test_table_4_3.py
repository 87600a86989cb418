"""The cryo-EM problem of the thesis in both forms, and every contestant of Table 4.3 on a small one."""

import math

import pytest
import torch

from orbitrec.models.background import corner_mask
from orbitrec.optim.driver import run
from orbitrec.optim.termination import Termination
from orbitrec.thesis import table_4_3
from orbitrec.thesis.cryoem_problem import SNR, CryoEMProblem, polar_projector
from orbitrec.thesis.variable_metric import VariableMetric

SMALL = CryoEMProblem.simulated(3, 60)


def test_both_forms_are_one_likelihood_on_1200_rotations():
    polar, cartesian = SMALL.polar(), SMALL.cartesian(half_plane=True)
    assert polar.dimension == 64
    assert polar.density.log_density.shape == (100, 12)
    assert cartesian.density.log_density.numel() == 1200
    (value, gradient), (other, slope) = polar.gradient(SMALL.truth), cartesian.gradient(SMALL.truth)
    # They differ by what the basis has beyond k = π, in the corners of the Cartesian grid.
    assert value == pytest.approx(other, rel=1e-4)
    assert float((gradient - slope).norm()) < 5e-2 * float(gradient.norm())


def test_signal_to_noise_ratio_is_the_thesis():
    disc = ~corner_mask(15)
    count = 2000
    images = CryoEMProblem.simulated(4, count).images[:, disc]
    # Variance of signal and noise together, the noise's being one; its relative standard error is about √(2/n).
    assert float(images.var(1, correction=0).mean()) == pytest.approx(
        SNR + 1 - 1 / int(disc.sum()), abs=6 * math.sqrt(2 / (count * int(disc.sum())))
    )


def test_truth_is_far_more_likely_than_a_start():
    problem = SMALL.polar()
    energy = float(polar_projector().templates(SMALL.truth).abs().square().sum((1, 2)).mean())
    # Half the energy of a template is what a perfect volume at known rotations gains over none.
    assert 0.25 * energy < problem.value(SMALL.random_start(1)) - problem.value(SMALL.truth) < energy


def test_every_contestant_descends():
    instance = table_4_3.instance(5, 60)
    start = instance.problem.gradient(instance.start)[0]
    for contestant in table_4_3.contestants(64):
        result = contestant.method(instance.problem, instance.start, Termination(reported=4.0), instance.seed)
        values = [info.value for info in result.trace]
        assert all(map(math.isfinite, values)), contestant.name
        # One Hessian costs 64 epochs: Newton has only begun.
        assert values[-1] < start - 1 or contestant.name == "Newton", contestant.name


def test_variable_metric_descends_and_is_the_same_for_the_same_seed():
    problem, start = SMALL.polar(), SMALL.random_start(2)
    solver = VariableMetric(epochs=6)
    first, again, other = (
        run(solver, problem, start, Termination(moved=0.0, measured=6.0), seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first.w, again.w)
    assert not torch.equal(first.w, other.w)
    assert first.trace[-1].value < problem.value(start) - 20

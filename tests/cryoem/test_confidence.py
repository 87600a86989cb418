"""Whether a map is right: what speaks for it, the probability of that, and what is said where it is low."""

import math
from dataclasses import fields, replace

import pytest
import torch

from orbitrec.cryoem.confidence import Calibration, Witnesses, calibration, correlation_beyond, doubt, verdict
from orbitrec.evaluation.fsc import FSC

GOOD = Witnesses(log_likelihood=40.0, beyond=0.4, resolved=0.4, starts=0.99, scf_star=0.9)
BAD = Witnesses(log_likelihood=6.0, beyond=0.0, resolved=-0.3, starts=0.8, scf_star=0.1)


def test_probability_is_the_logistic_function_of_the_terms():
    """With the weight of one term alone the closed form is e^b x^w / (1 + e^b x^w), x the likelihood."""
    name = next(iter(GOOD.terms()))
    found = Calibration(-2.0, {name: 1.5}, 10).probability(GOOD)
    odds = math.exp(-2.0) * 40.0**1.5
    assert found == pytest.approx(odds / (1 + odds), rel=1e-12)


def test_extreme_witnesses_have_a_probability():
    for extreme in (0.0, -5.0, 1e30, 1.0):
        one = Witnesses(extreme, extreme, extreme, min(extreme, 1.0), max(extreme, 0.0))
        assert 0 <= calibration().probability(one) <= 1


def test_the_calibration_weighs_every_witness():
    assert calibration().weights.keys() == GOOD.terms().keys()
    assert len(GOOD.terms()) == len(fields(Witnesses))
    assert calibration().runs > 25
    assert calibration().probability(GOOD) > 0.9
    assert calibration().probability(BAD) < 0.3


@pytest.mark.parametrize("name", ["log_likelihood", "scf_star", "starts"])
def test_no_witness_turns_against_the_map_as_it_grows(name):
    values = [replace(GOOD, **{name: share * getattr(GOOD, name)}) for share in (0.2, 0.5, 0.8, 1.0)]
    probabilities = [calibration().probability(each) for each in values]
    assert probabilities == sorted(probabilities)


@pytest.mark.parametrize("n", [32, 33])
def test_correlation_beyond_the_search_is_of_the_shells_there(n):
    shells = torch.arange(n // 2 + 1, dtype=torch.float64)
    curve = FSC(2 * math.pi / n * shells, 1 - shells / 16)
    # Shells 9 and 10 are beyond 8 and up to 10, a quarter more.
    assert correlation_beyond(curve, float(curve.frequency[8])) == pytest.approx(1 - 9.5 / 16)
    assert correlation_beyond(curve, float(curve.frequency[-1])) == pytest.approx(float(curve.value[-1]))


def test_what_is_said():
    said = [verdict(p) for p in (1.0, 0.9, 0.89, 0.5, 0.49)]
    assert said == ["likely right", "likely right", "uncertain", "uncertain", "probably wrong"]
    assert doubt(0.5) == []
    assert "probably wrong" in doubt(0.2)[0]
    assert "20 % are right" in doubt(0.2)[0]

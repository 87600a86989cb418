"""Densities with polynomial logarithms against a von Mises–Fisher density, whose logarithm is one of degree 1."""

import math

import pytest
import torch

from orbitrec.densities.base import ViewDensity
from orbitrec.densities.harmonic import (
    HarmonicDensity,
    log_probabilities_on_nodes,
    polynomial,
    probabilities_on_nodes,
)
from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.geometry.harmonics import nonconstant_harmonics
from orbitrec.geometry.quadrature import spherical_design

NODES = spherical_design(21)


def cap(kappa: float) -> tuple[HarmonicDensity, VonMisesFisherMixture]:
    """One density twice: ``κ μ·u`` is ``κ/√3`` times the harmonics (y, z, x) of mean square 1, weighted by μ."""
    mean = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    return HarmonicDensity(kappa / math.sqrt(3) * mean[[1, 2, 0]]), VonMisesFisherMixture(mean[None], kappa * one, one)


@pytest.mark.parametrize("kappa", [0.1, 0.7, 5.0])
def test_a_linear_logarithm_is_a_von_mises_fisher_density(kappa):
    harmonic, exact = cap(kappa)
    assert harmonic.degree == 1
    assert isinstance(harmonic, ViewDensity)
    assert isinstance(exact, ViewDensity)
    constant = harmonic.log_density(NODES) - exact.log_density(NODES)
    assert torch.allclose(constant, constant.mean().expand_as(constant), atol=1e-12)
    found = harmonic.probabilities(NODES)
    assert float(found.sum()) == pytest.approx(1)
    assert torch.allclose(found, exact.probabilities(NODES), atol=1e-14)
    assert torch.allclose(harmonic.density(NODES) / harmonic.density(NODES).sum(), found, atol=1e-14)


def test_a_batch_is_its_members_one_by_one():
    coefficients = torch.randn(3, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = HarmonicDensity(coefficients)
    assert batch.degree == 4
    for one, found in zip(coefficients, batch.probabilities(NODES), strict=True):
        assert torch.allclose(HarmonicDensity(one).probabilities(NODES), found, atol=1e-15)


def test_polynomials_multiply_a_reference():
    (first, _), (second, _) = cap(2.0), cap(0.5)
    both = HarmonicDensity(first.coefficients + second.coefficients).probabilities(NODES)
    harmonics = nonconstant_harmonics(NODES, 1)
    product = probabilities_on_nodes(first.coefficients, harmonics, second.log_density(NODES))
    assert torch.allclose(product, both, atol=1e-15)
    logarithm = log_probabilities_on_nodes(first.coefficients, harmonics, second.log_density(NODES))
    assert torch.allclose(logarithm.exp(), both, atol=1e-15)
    assert torch.allclose(polynomial(first.coefficients, harmonics), first.log_density(NODES))

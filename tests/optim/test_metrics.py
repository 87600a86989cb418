"""Inverse Hessians against their dense definitions."""

import pytest
import torch

from orbitrec.optim.estimators import Snapshot, gradient
from orbitrec.optim.metrics import BFGS, FisherBFGS, InformationBFGS, InverseHessian, SubsampledNewton
from orbitrec.optim.problem import Counted


def dense(inverse: InverseHessian, dimension: int) -> torch.Tensor:
    return torch.stack([inverse.apply(row) for row in torch.eye(dimension, dtype=torch.float64)], dim=1)


def pairs(dimension: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Steps and changes of a quadratic with positive curvature."""
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    steps = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    hessian = root @ root.T / dimension + torch.eye(dimension, dtype=torch.float64)
    return [(s, hessian @ s) for s in steps]


def test_bfgs_is_the_recursion_of_the_thesis():
    d = 7
    inverse, expected = InverseHessian.scaled_identity(d), torch.eye(d, dtype=torch.float64)
    for s, y in pairs(d, 5):
        inverse = inverse.with_pair(s, y, memory=100)
        s = inverse.steps[-1]  # damped perhaps
        left = torch.eye(d, dtype=torch.float64) - torch.outer(s, y) / (s @ y)
        expected = left @ expected @ left.T + torch.outer(s, s) / (s @ y)  # (4.10)
        torch.testing.assert_close(dense(inverse, d), expected)


def test_the_secant_equation_holds():
    inverse = InverseHessian.scaled_identity(7)
    for s, y in pairs(7, 9):
        inverse = inverse.with_pair(s, y, memory=4)
        torch.testing.assert_close(inverse.apply(y), inverse.steps[-1])
        if float(s @ y) >= 0.2 * float(y @ inverse.apply(y)):
            torch.testing.assert_close(inverse.steps[-1], s)
    assert len(inverse.steps) == 4


def test_negative_curvature_is_damped(starts):
    inverse = InverseHessian.scaled_identity(5)
    generator = torch.Generator().manual_seed(4)
    for _ in range(8):
        s, y = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        inverse = inverse.with_pair(s, -s + 0.1 * y, memory=10)
        eigenvalues = torch.linalg.eigvalsh(dense(inverse, 5))
        assert float(eigenvalues.min()) > 0
    same = inverse.with_pair(torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64), memory=10)
    assert len(same.steps) == len(inverse.steps)  # no length, no pair


def snapshots(starts, problem, count: int = 2) -> list[Snapshot]:
    counted = Counted(problem)
    return [Snapshot(w, *gradient(counted, w, None)) for w in starts(problem, count)]


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_thresholded_inverse_is_its_dense_definition(problem, rank, starts):
    at = snapshots(starts, problem)[0]
    blank = InverseHessian.scaled_identity(problem.dimension)
    counted = Counted(problem)
    found = SubsampledNewton(rank, share=1.0).refreshed(blank, counted, at, torch.Generator())
    _, sigma, v = torch.linalg.svd(problem.hessian(at.w))
    sigma = sigma.clamp(min=1e-8 * sigma[0])  # the logits' common constant has no curvature
    rest = torch.eye(problem.dimension, dtype=torch.float64) / sigma[rank]
    top = v[:rank].T @ torch.diag(1 / sigma[:rank] - 1 / sigma[rank]) @ v[:rank]  # (4.8), corrected
    torch.testing.assert_close(dense(found, problem.dimension), top + rest, rtol=1e-6, atol=1e-6 / float(sigma[rank]))
    assert counted.passes == problem.dimension


def test_the_secant_of_the_thesis_pairs_with_the_map(problem, starts):
    new, old = snapshots(starts, problem)
    blank = InverseHessian.scaled_identity(problem.dimension)
    s, y = new.w - old.w, (new.w - new.field) - (old.w - old.field)  # ΔΨ, were the field the residual
    found = BFGS(of_map=True, scaled=False).updated(blank, new, old)
    torch.testing.assert_close(found.changes[-1], y)
    torch.testing.assert_close(found.apply(y), found.steps[-1])
    assert not torch.allclose(BFGS(scaled=False).updated(blank, new, old).changes[-1], y)
    assert float(s.norm()) > 0


def test_the_information_metric_begins_with_the_em_step(problem, starts):
    at = snapshots(starts, problem)[0]
    blank = InverseHessian.scaled_identity(problem.dimension)
    found = InformationBFGS().refreshed(blank, Counted(problem), at, torch.Generator())
    residual = torch.arange(float(problem.dimension), dtype=torch.float64)
    torch.testing.assert_close(found.apply(residual), residual)


def test_the_fisher_metric_is_refreshed_after_its_period(problem, starts):
    metric, generator = FisherBFGS(period=2), torch.Generator().manual_seed(0)
    counted, (new, old) = Counted(problem), snapshots(starts, problem)
    inverse = InverseHessian.scaled_identity(problem.dimension)
    refreshes = []
    for _ in range(5):
        before = counted.passes
        inverse = metric.refreshed(inverse, counted, old, generator)
        refreshes.append(counted.passes > before)
        inverse = metric.updated(inverse, new, old)
    assert refreshes == [True, False, True, False, True]
    assert float(torch.linalg.eigvalsh(dense(inverse, problem.dimension)).min()) > 0

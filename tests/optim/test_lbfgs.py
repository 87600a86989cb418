"""L-BFGS: known minima, every way to end, and the scale of losses that are far from one."""

import numpy as np
import pytest
import torch
from scipy.optimize import rosen, rosen_der
from torch import Tensor

from orbitrec.optim.lbfgs import Evaluation, Rules, differentiated, minimise, minimise_function

START = torch.tensor([-1.2, 1.0], dtype=torch.float64)  # in four dimensions there would be a second minimum


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


def of_rosenbrock(x: Tensor) -> tuple[float, Tensor]:
    return differentiated(rosenbrock, x)


def test_derivatives_are_scipys():
    value, gradient = of_rosenbrock(START)
    assert value == pytest.approx(rosen(START.numpy()), rel=1e-14)
    np.testing.assert_allclose(gradient.numpy(), rosen_der(START.numpy()), rtol=1e-13)


def test_minimise_finds_the_minimum_of_a_quadratic():
    target = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    found = minimise(lambda y: (y - target).square().sum() + 5, torch.zeros(3, dtype=torch.float64), 50)
    assert torch.allclose(found.x, target, atol=1e-4)
    assert found.value == pytest.approx(5)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-2), (torch.float64, 1e-3)])
def test_the_scale_of_a_loss_does_not_matter(unit, dtype, tolerance):
    found = minimise(lambda x: unit * rosenbrock(x), START.to(dtype), 200)
    assert found.x.dtype == dtype
    torch.testing.assert_close(found.x, torch.ones(2, dtype=dtype), rtol=0, atol=tolerance)
    assert 0 <= found.value < 1e-5 * unit


def test_without_tolerances_it_ends_at_rounding():
    found = minimise_function(of_rosenbrock, START, Rules(500, value_tolerance=0.0, gradient_tolerance=0.0))
    torch.testing.assert_close(found.x, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-9)


def test_tolerances_and_limits_end_a_search():
    counts = {}
    for name, rules in {
        "none": Rules(500, value_tolerance=0.0, gradient_tolerance=0.0),
        "value": Rules(500, value_tolerance=1e-2, gradient_tolerance=0.0),
        "gradient": Rules(500, value_tolerance=0.0, gradient_tolerance=1.0),
        "iterations": Rules(5, value_tolerance=0.0, gradient_tolerance=0.0),
        "evaluations": Rules(500, evaluations=9, value_tolerance=0.0, gradient_tolerance=0.0),
    }.items():
        evaluations = []
        found = minimise_function(lambda x: evaluations.append(x) or of_rosenbrock(x), START, rules)  # noqa: B023
        counts[name] = len(evaluations)
        if name == "gradient":
            assert float(of_rosenbrock(found.x)[1].abs().max()) <= 1.0
    assert counts["none"] > max(counts["value"], counts["gradient"]) > 5
    assert counts["iterations"] <= 5 * 3
    assert 9 <= counts["evaluations"] <= 9 + 20  # scipy finishes its line search


def test_it_stops_where_the_caller_says():
    seen: list[Evaluation] = []

    def stop(at: Evaluation) -> bool:
        seen.append(at)
        return at.value < 1.0

    found = minimise_function(of_rosenbrock, START, Rules(500), stop)
    values = [at.value for at in seen]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 1.0 <= values[-2]
    assert torch.equal(found.x, seen[-1].x)
    assert found.value == seen[-1].value
    assert torch.equal(seen[-1].gradient, of_rosenbrock(found.x)[1])

"""L-BFGS: scipy's implementation on tensors; only this module calls it.

Quasi-Newton steps from the last few changes of the gradient (Liu and Nocedal 1989; Nocedal and Wright 2006, algorithm
7.5) with a line search; scipy's L-BFGS-B (Byrd, Lu, Nocedal and Zhu 1995), here always without bounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

_UNLIMITED = 10**9


class Evaluation(NamedTuple):
    """A point with the function's value and gradient there."""

    x: Float[Tensor, "x"]
    value: float
    gradient: Float[Tensor, "x"]


class Minimum(NamedTuple):
    """Where a search ended: the last accepted point, in the dtype of the start, and the function there."""

    x: Float[Tensor, "x"]
    value: float


@dataclass(frozen=True)
class Rules:
    """Memory of a search, and when it ends.

    Attributes:
        iterations: the most steps.
        evaluations: the most evaluations of the function; None for as many as the steps need.
        pairs: changes of point and gradient that are kept.
        value_tolerance: end when a step lowers the function by less than this share of its size (scipy's ``ftol``).
        gradient_tolerance: end when no entry of the gradient is larger than this (scipy's ``gtol``).
    """

    iterations: int
    evaluations: int | None = None
    pairs: int = 20
    value_tolerance: float = 1e-9
    gradient_tolerance: float = 1e-5


def minimise(loss: Callable[[Tensor], Tensor], start: Float[Tensor, "x"], iterations: int) -> Minimum:
    """The minimum of a differentiable loss, scaled to be one at the start; derivatives by autograd.

    Args:
        loss: a scalar function of a vector like ``start``, positive at the start.
        start: (x,) where to begin. The search works in float64 on losses of any dtype.
        iterations: the most steps; there are at most twice as many evaluations.

    Returns:
        The last accepted point, and the loss there.
    """
    unit = float(loss(start.detach()))

    def scaled(x: Float[Tensor, "x"]) -> tuple[float, Float[Tensor, "x"]]:
        value, gradient = differentiated(loss, x.to(start.dtype))
        return value / unit, gradient.double() / unit

    found = minimise_function(scaled, start.detach(), Rules(iterations, evaluations=2 * iterations))
    return Minimum(found.x, found.value * unit)


def minimise_function(
    function: Callable[[Float[Tensor, "x"]], tuple[float, Float[Tensor, "x"]]],
    start: Float[Tensor, "x"],
    rules: Rules,
    stop: Callable[[Evaluation], bool] = lambda evaluation: False,
) -> Minimum:
    """The minimum of a function that computes its own gradient.

    Args:
        function: value and gradient at a float64 vector (x,).
        start: (x,) where to begin.
        rules: memory of the search, and when it ends.
        stop: called with the accepted point of every iteration; True ends the search there.

    Returns:
        The last accepted point, and the function there.
    """
    latest: dict[bytes, tuple[float, Tensor]] = {}

    def evaluated(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = function(torch.from_numpy(flat))
        latest[flat.tobytes()] = value, gradient
        return value, gradient.numpy()

    def accepted(flat: np.ndarray) -> None:
        value, gradient = latest[flat.tobytes()]
        latest.clear()
        if stop(Evaluation(torch.from_numpy(np.array(flat)), value, gradient)):
            raise StopIteration

    options = {
        "maxiter": rules.iterations,
        "maxfun": _UNLIMITED if rules.evaluations is None else rules.evaluations,
        "maxcor": rules.pairs,
        "ftol": rules.value_tolerance,
        "gtol": rules.gradient_tolerance,
    }
    found = scipy_minimize(
        evaluated, start.double().numpy(), jac=True, method="L-BFGS-B", callback=accepted, options=options
    )
    return Minimum(torch.from_numpy(np.array(found.x)).to(start.dtype), float(found.fun))


def differentiated(loss: Callable[[Tensor], Tensor], x: Float[Tensor, "x"]) -> tuple[float, Float[Tensor, "x"]]:
    """Value and gradient of a loss by autograd."""
    variables = x.detach().clone().requires_grad_()
    value = loss(variables)
    (gradient,) = torch.autograd.grad(value, variables)
    return float(value.detach()), gradient

"""L-BFGS on a torch loss of one flat vector."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor


def minimise(
    loss: Callable[[Tensor], Tensor], x: Float[Tensor, "x"], iterations: int, pairs: int = 20
) -> tuple[Float[Tensor, "x"], float]:
    """The point that scipy's L-BFGS-B reaches in so many iterations, and the loss there.

    The search works in float64 on losses of any precision, scaled to one at the start.
    """
    unit = float(loss(x.detach()))

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        variables = torch.from_numpy(flat).to(x.dtype).requires_grad_()
        value = loss(variables)
        (gradient,) = torch.autograd.grad(value, variables)
        return float(value.detach()) / unit, gradient.double().numpy() / unit

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": pairs, "ftol": 1e-9}
    found = minimize(value_and_gradient, x.detach().double().numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).to(x.dtype), float(found.fun) * unit

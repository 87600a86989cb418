"""The density of shifts of a known signal: a non-negative least-squares problem on its moments."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import lsq_linear, nnls
from torch import Tensor

from orbitrec.mra.problem import MRAProblem

LEAST_PROBABILITY = 1e-4
"""The least probability of a density that matching starts from, since a softmax has no zeros."""
_ROUNDING = 1e-13


def fitted_density(problem: MRAProblem, signal: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The probabilities of the shifts of a given signal, from the problem's moments.

    Moments are linear in the density: ``M¹ = Σ_s ρ_s Y_s`` and ``M² = Σ_s ρ_s Y_s Y_s*``, with Y_s the signal's view at
    shift s. Entries are weighted by their standard errors ``√(P_k/N)``, ``√(P_k P_l/N)`` with the mean power P of
    observations. Frequencies of the density that a smooth signal does not show would be noise: the prior that
    ``|ρ̂(q)|²`` is about 1/n, its mean for random probabilities, takes them to zero. Exact moments need no prior.

    Args:
        problem: whose moments are matched.
        signal: (n,).

    Returns:
        Probabilities of the n shifts; uniform ones for a signal that no shift of explains the moments.
    """
    model, n = problem.model, problem.model.n
    views = model.coordinates(model.views(signal)).flatten(1)
    weight = problem.standard_errors.reciprocal()
    y = views * weight.to(views.dtype)
    first = problem.moments.first[0] * weight
    second = weight[:, None] * problem.moments.second[0] * weight
    gram = y @ y.mH
    normal = gram.real + gram.abs().square()
    right = (y.conj() @ first).real + torch.einsum("si,ij,sj->s", y.conj(), second, y).real
    if problem.count < float("inf"):
        # In units of the data's N: the prior's term is n Σ_{q≠0} |ρ̂(q)|² = n (n Σ ρ² − 1).
        normal = normal + n * n / problem.count * torch.eye(n, dtype=normal.dtype)
    values, vectors = torch.linalg.eigh(normal)
    root = values.clamp(min=_ROUNDING * float(values[-1])).sqrt()
    density = torch.from_numpy(_non_negative((root[:, None] * vectors.mT).numpy(), (vectors.mT @ right / root).numpy()))
    return density / density.sum() if float(density.sum()) > 0 else torch.full_like(density, 1 / n)


def _non_negative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Non-negative least squares: the active-set method is exact and fast but may cycle, then an interior one."""
    try:
        return nnls(matrix, target)[0]
    except RuntimeError:
        return lsq_linear(matrix, target, bounds=(0, np.inf), tol=1e-12).x.clip(min=0)

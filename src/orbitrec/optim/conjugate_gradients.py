"""Symmetric positive linear systems by conjugate gradients: scipy's solver on tensors."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor


def solve_symmetric(
    apply: Callable[[Tensor], Tensor],
    right: Float[Tensor, "..."],
    *,
    start: Float[Tensor, "..."] | None = None,
    diagonal: Float[Tensor, "..."] | None = None,
    relative_residual: float = 1e-3,
    iterations: int = 20,
) -> Float[Tensor, "..."]:
    """The approximate solution of ``A x = right`` for a symmetric positive definite A (Hestenes and Stiefel 1952).

    Args:
        apply: A, on tensors of the shape of ``right``.
        right: the right-hand side, on the CPU; computations are in its dtype.
        start: the first guess; zero if None.
        diagonal: positive diagonal of a preconditioner near A; no preconditioner if None.
        relative_residual: iterations end when ``‖right − A x‖ / ‖right‖`` is below this.
        iterations: the most that are made.

    Returns:
        x, in the shape and dtype of ``right``.
    """
    size, dtype = right.numel(), right.numpy().dtype

    def operator(function: Callable[[Tensor], Tensor]) -> LinearOperator:
        def on_vectors(x: np.ndarray) -> np.ndarray:
            tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=dtype)).reshape(right.shape)
            return function(tensor).numpy().ravel()

        return LinearOperator((size, size), matvec=on_vectors, dtype=dtype)  # pyright: ignore[reportCallIssue]

    solution, _ = cg(
        operator(apply),
        right.numpy().ravel(),
        x0=None if start is None else start.numpy().ravel(),
        rtol=relative_residual,
        maxiter=iterations,
        M=None if diagonal is None else operator(lambda x: x / diagonal),
    )
    return torch.from_numpy(np.asarray(solution, dtype=dtype)).reshape(right.shape)

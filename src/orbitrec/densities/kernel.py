"""Smoothing between sets of nodes on the sphere by von Mises–Fisher kernels."""

import torch
from jaxtyping import Float
from torch import Tensor


def smoothing_weights(
    nodes: Float[Tensor, "e 3"], at: Float[Tensor, "*shape 3"], concentration: float
) -> Float[Tensor, "*shape e"]:
    """What each node counts at each place: ``exp(κ x·y)`` over its sum over the nodes.

    D nodes share the sphere in cells of 4π/D, so they lie about ``√(4π/D)`` apart, and the kernel's standard deviation
    is ``1/√κ``: κ of the order of D makes it as wide as the nodes lie apart.

    Args:
        nodes: unit vectors, spread evenly.
        at: unit vectors at which something known on the nodes is wanted.
        concentration: κ.

    Returns:
        Weights that sum to 1 over the nodes, in the precision of ``at``.
    """
    return torch.softmax(concentration * (at @ nodes.to(at).mT), dim=-1)

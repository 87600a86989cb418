"""Third cumulants of real images with uniform in-plane angles, in compressed coordinates.

A rotation by α multiplies coordinates z of mode m by ``e^{−imα}``, so of all third cumulants those are left that have

    κ[m₁, m₂](a, b, c) = E (z − E z)[m₁, a] (z − E z)[m₂, b] conj (z − E z)[m₁ + m₂, c],

and only mode 0 has a mean. Cumulants of independent variables add and those of Gaussian ones vanish, so that noise adds
nothing to κ, whatever its level; of raw third moments it would (Kam 1980 subtracts it).

Two moments leave every degree of a volume free to rotate if views are uniform, and are blind to the hand; the third
determines the volume up to a rotation and the hand (Bandeira, Blum-Smith, Kileel, Perry, Weed and Wein 2023).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from orbitrec.moments.analytic import antipodal_weights
from orbitrec.moments.compression import Triple

Blocks = Mapping[Triple, Complex[Tensor, "_ _ _"]]
"""A number for every three coordinates of each triple of modes."""


def third_cumulants(coordinates: Sequence[Complex[Tensor, "d _"]], density: Float[Tensor, "d"]) -> Blocks:
    """κ of templates.

    Args:
        coordinates: of the templates of all directions, a mode after the other (:class:`Compression`).
        density: probabilities of the directions, summing to 1.

    Returns:
        κ by ``(m₁, m₂)``, differentiable in templates and density.
    """
    weights = density.to(coordinates[0].real.dtype)
    return _cumulants(coordinates, weights, weights)


def antipodal_third_cumulants(coordinates: Sequence[Complex[Tensor, "h _"]], density: Float[Tensor, "d"]) -> Blocks:
    """:func:`third_cumulants` from the templates of half of the directions; the others are their antipodes.

    Opposite templates are ``(−1)^m conj`` of each other, and ``m₁ + m₂ − m₃ = 0``: products of opposite directions are
    conjugates, of which the real parts meet the density's even part and the imaginary ones its odd part.

    Args:
        coordinates: of the templates of the first half of the directions, a mode after the other.
        density: probabilities of all directions, direction ``i + d/2`` being minus direction i; they sum to 1.

    Returns:
        κ by ``(m₁, m₂)``, differentiable in templates and density.
    """
    return _cumulants(coordinates, *antipodal_weights(density.to(coordinates[0].real.dtype)))


def _cumulants(
    coordinates: Sequence[Complex[Tensor, "d _"]], even: Float[Tensor, "d"], odd: Float[Tensor, "d"]
) -> Blocks:
    mean = even @ coordinates[0].real
    return third_sums([coordinates[0].real - mean, *coordinates[1:]], (even, odd))


def third_sums(
    coordinates: Sequence[Tensor], weights: tuple[Float[Tensor, "d"], Float[Tensor, "d"]] | None = None
) -> Blocks:
    """``Σ_d S_d Re Z_d + i D_d Im Z_d`` of products ``Z = z[m₁] z[m₂] conj z[m₁ + m₂]``.

    Products that share their third mode are one real matrix product, so no array of all three coordinates exists.

    Args:
        coordinates: a mode after the other; mode 0 is real.
        weights: S of each real part and D of each imaginary part; all 1 if None.

    Returns:
        Sums by ``(m₁, m₂)``.
    """
    blocks: dict[Triple, Tensor] = {}
    for m3, third in enumerate(coordinates):
        pairs = [(m1, m3 - m1) for m1 in range(m3 // 2 + 1)]
        left = torch.cat([_products(coordinates[a], coordinates[b]) for a, b in pairs], dim=1)
        sums = left.mT @ weighted_parts(third, weights)
        sizes = [coordinates[a].shape[1] * coordinates[b].shape[1] for a, b in pairs]
        for (a, b), part in zip(pairs, sums.split(sizes), strict=True):
            whole = torch.complex(*part.chunk(2, dim=1)) if m3 else torch.complex(part, torch.zeros_like(part))
            blocks[a, b] = whole.reshape(coordinates[a].shape[1], coordinates[b].shape[1], third.shape[1])
    return blocks


def _products(x: Tensor, y: Tensor) -> Float[Tensor, "two_d rs"]:
    """Products of two modes' coordinates, real parts above imaginary ones; of mode 0 with itself real ones only."""
    whole = (x[:, :, None] * y[:, None, :]).flatten(1)
    return torch.cat([whole.real, whole.imag]) if whole.is_complex() else whole


def weighted_parts(
    third: Shaped[Tensor, "d r"], weights: tuple[Float[Tensor, "d"], Float[Tensor, "d"]] | None
) -> Float[Tensor, "two_d two_r"]:
    """What products ``P``, real parts above imaginary ones, are multiplied by in ``Σ_d S_d Re Z_d + i D_d Im Z_d``.

    Args:
        third: coordinates whose conjugates are multiplied with the products, ``Z = P conj(third)``.
        weights: S and D; all 1 if None.

    Returns:
        ``PᵀX`` holds the sum's real parts, and, if ``third`` is complex, its imaginary parts beside them.
    """
    if not third.is_complex():
        return third if weights is None else weights[0][:, None] * third
    real, imaginary = third.real, third.imag
    own, cross = torch.cat([real, imaginary]), torch.cat([-imaginary, real])
    if weights is not None:
        own, cross = (weight.repeat(2)[:, None] * part for weight, part in zip(weights, (own, cross), strict=True))
    return torch.cat([own, cross], dim=1)


def recentred(
    sums: Blocks, mixed: Sequence[Tensor], cube: Float[Tensor, "r r r"]
) -> dict[Triple, Complex[Tensor, "_ _ _"]]:
    """Sums of products whose mode 0 was centred at a wrong mean, as they were at the right one.

    With ``z₀ − a`` for z₀, a product of three becomes ``z₀ z z* − a z z*``, and for three coordinates of mode 0 the
    terms in ``a a z₀``, whose mean is that of ``a a a``, leave ``2 a a a``.

    Args:
        sums: of products, by ``(m₁, m₂)``.
        mixed: ``Σ a z[m] z[m]*`` for every mode m.
        cube: ``Σ a a a``.

    Returns:
        The sums.
    """
    blocks = dict(sums)
    for m, product in enumerate(mixed):
        blocks[0, m] = sums[0, m] - product
    once, again = (mixed[0].movedim(0, axis) for axis in (1, 2))
    blocks[0, 0] = blocks[0, 0] - once - again + 2 * cube
    return blocks


def independent_numbers(triple: Triple, shape: Sequence[int]) -> int:
    """How many independent real numbers a block holds: symmetric, or Hermitian, where modes are equal or 0."""
    a, b = triple
    r, s, t = shape
    if b == 0:
        return r * (r + 1) * (r + 2) // 6
    if a == 0:
        return r * s * t
    return r * (r + 1) * t if a == b else 2 * r * s * t

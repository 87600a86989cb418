"""Protein-like phantoms: a compact, asymmetric, self-avoiding chain of Gaussian atoms."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.rotations import random_rotations
from orbitrec.volumes.gaussians import GaussianMixture

# Four domains of different sizes, touching the unit ball at the corners of a tetrahedron: an outline with no symmetry
# and a definite handedness, as four different groups give a carbon atom.
_DOMAIN_RADII = (0.6, 0.5, 0.45, 0.4)
_CORNERS = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))
_WIDTH = 0.4  # of a Gaussian, in bonds: neighbours melt into one tube
_NEAREST = 0.85  # allowed distance of two atoms, in bonds
_CANDIDATES = 64


def protein_phantom(atoms: int, radius: float, generator: torch.Generator) -> GaussianMixture:
    """A protein-like chain of Gaussian atoms of equal width, its centre of mass at the origin.

    Consecutive atoms are one bond apart and no two are nearer than 0.85 bonds; the bond is the longest with which
    such a chain was found, and the Gaussians' width is 0.4 bonds, so that the density is compact at any number of
    atoms. Weights are uniform in [0.5, 1.5]. The thesis's section 3.4.1 draws 20 atoms; ``radius = 0.3 n`` fits a box
    of n with room for shifts.

    Args:
        atoms: number of atoms.
        radius: of the ball that holds the density, two widths beyond the outermost centre, in pixels.
        generator: source of the chain.

    Returns:
        The phantom.

    Raises:
        InputError: if there are fewer than 4 atoms or the radius is not positive.
    """
    if atoms < 4 or not radius > 0:
        raise InputError(f"a phantom needs at least 4 atoms and a positive radius, not {atoms} and {radius:g}")
    corners = torch.tensor(_CORNERS, dtype=torch.float64) / math.sqrt(3)
    radii = torch.tensor(_DOMAIN_RADII, dtype=torch.float64)
    domains = (1 - radii[:, None]) * corners @ random_rotations(1, generator)[0].T
    bond = 1.15 * atoms ** (-1 / 3)
    while (chain := _grow(atoms, bond, domains, radii, generator)) is None:
        bond *= 0.95
    weights = 0.5 + torch.rand(atoms, generator=generator, dtype=torch.float64)
    chain = chain - (weights[:, None] * chain).sum(0) / weights.sum()
    scale = radius / (float(chain.norm(dim=1).max()) + 2 * _WIDTH * bond)
    return GaussianMixture(scale * chain, torch.full_like(weights, scale * _WIDTH * bond), weights)


def _grow(
    atoms: int,
    bond: float,
    domains: Float[Tensor, "D 3"],
    radii: Float[Tensor, "D"],
    generator: torch.Generator,
) -> Float[Tensor, "atoms 3"] | None:
    """A self-avoiding walk inside the domains that backs out of dead ends; None if there are too many of them."""
    chain = torch.zeros(atoms, 3, dtype=torch.float64)
    chain[0] = domains[0]
    length, dead_ends = 1, 0
    while length < atoms:
        steps = torch.randn(_CANDIDATES, 3, generator=generator, dtype=torch.float64)
        candidates = chain[length - 1] + bond * steps / steps.norm(dim=1, keepdim=True)
        inside = (torch.cdist(candidates, domains) <= radii).any(1)
        free = (torch.cdist(candidates, chain[:length]) >= _NEAREST * bond).all(1)
        choices = candidates[inside & free]
        if len(choices):
            chain[length] = choices[0]
            length += 1
        elif dead_ends < atoms:
            dead_ends += 1
            back = int(torch.randint(1, 12, (1,), generator=generator))
            length = max(1, length - back)
        else:
            return None
    return chain

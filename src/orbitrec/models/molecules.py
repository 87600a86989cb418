"""Families of volumes 𝒱 and of view densities 𝒫 for the supervised phase of cryo-EM (section 3.4.1).

The thesis names protein-like volumes of 20 Gaussian atoms and mixtures of five von Mises–Fisher densities of fixed
means. Everything else here is the project's choice (``docs/momnet.md``).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.densities import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.geometry.rotations import random_rotations
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

MEANS = torch.tensor(
    [
        [0.000, 0.000, 1.000],
        [0.912, 0.211, 0.352],
        [-0.263, 0.884, 0.387],
        [-0.640, -0.598, -0.482],
        [0.358, -0.643, -0.677],
    ],
    dtype=torch.float64,
)
"""Mean directions of 𝒫, nearly unit: apart by 60° and more, with no symmetry, rotation or mirror, that keeps them."""

_DOMAINS = 3
_DOMAIN_RADIUS = 0.55
_BOND = 0.36  # in the unit in which domains touch the unit ball
_NEAREST = 0.85  # allowed distance of two atoms, in bonds
_CANDIDATES = 24


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class ProteinLaw:
    """Law of a random protein: a chain of Gaussian atoms in three balls, stretched, as a filtered map would show it.

    Consecutive atoms are one bond apart and, where the chain finds room, none nearer than 0.85 bonds; then the chain is
    stretched along an axis. Real maps are contrast against water, sharpened and masked, and their low
    frequencies are those of blobs no longer: beside its Gaussian each atom has a wider negative one, and a still wider
    one of any sign.

    Attributes:
        atoms: of a molecule.
        extents: the outermost atom is so far from the origin, in radii of the ball, uniform between the two.
        widths: standard deviation of an atom, in bonds, uniform between the two.
        elongations: factor of the stretch, uniform between the two.
        solvent: share of the scattering at zero frequency that the solvent cancels, uniform between the two.
        background: largest share of the widest Gaussian, of either sign.
        offset: standard deviation of the centre of mass along each axis, in radii of the ball.

    Raises:
        InputError: if there are fewer than two atoms, a range does not rise, or an extent is beyond the ball.
    """

    atoms: int = 20
    extents: tuple[float, float] = (0.5, 0.95)
    widths: tuple[float, float] = (0.35, 0.7)
    elongations: tuple[float, float] = (1.0, 2.5)
    solvent: tuple[float, float] = (0.0, 1.2)
    background: float = 0.5
    offset: float = 0.08

    def __post_init__(self) -> None:
        for name in ("extents", "widths", "elongations", "solvent"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < math.inf:
                raise InputError(f"{name} of {low:g} to {high:g} must be finite and rise from at least 0")
        if self.atoms < 2 or min(*self.extents, *self.widths, *self.elongations) == 0 or self.extents[1] > 1:
            raise InputError("a protein needs two atoms, widths above zero and extents above zero and up to 1")

    def draw(self, count: int, basis: SphericalBesselBasis, generator: torch.Generator) -> Float[Tensor, "count p"]:
        """Coefficients of ``count`` proteins, each of norm 1.

        The basis functions are eigenfunctions of the Laplacian, so that a Gaussian of width σ at c inside the ball has
        the coefficients ``exp(−k_ls² σ²/2) ψ_lms(c)``.
        """
        centres, bond = self._centres(count, generator)
        shape = (count, 1)
        width = _uniform(*self.widths, shape, generator) * bond * basis.radius
        holes = _uniform(0.2, 0.45, shape, generator), _uniform(0.45, 0.8, shape, generator)
        shares = _uniform(*self.solvent, shape, generator), _uniform(-1.0, 1.0, shape, generator) * self.background
        weights = _uniform(0.5, 1.5, (count, self.atoms), generator)
        values = basis.values(centres.reshape(-1, 3) * basis.radius).reshape(count, self.atoms, -1)
        square = basis.frequency.square()
        damping = torch.exp(-square * width.square() / 2)
        for hole, share in zip(holes, shares, strict=True):
            damping = damping - share * torch.exp(-square * (hole * basis.radius).square() / 2)
        coefficients = torch.einsum("na,nap->np", weights, values) * damping
        return coefficients / coefficients.norm(dim=1, keepdim=True)

    def _centres(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "count atoms 3"], Float[Tensor, "count one"]]:
        """Atoms' centres and the bond, in radii of the ball."""
        chain = _chains(count, self.atoms, generator)
        chain = chain - chain.mean(1, keepdim=True)
        chain[:, :, 2] *= _uniform(*self.elongations, (count, 1), generator)
        chain = chain @ random_rotations(count, generator)
        extent = _uniform(*self.extents, (count, 1), generator)
        scale = extent / chain.norm(dim=2).amax(1, keepdim=True)
        chain = chain * scale[:, :, None]
        offset = self.offset * torch.randn(count, 1, 3, generator=generator, dtype=torch.float64)
        centres = chain + offset
        return centres / centres.norm(dim=2, keepdim=True).clamp(min=0.95) * 0.95, scale * _BOND


PLAIN = ProteinLaw(elongations=(1.0, 1.0), solvent=(0.0, 0.0), background=0.0)
"""No more than the thesis says: 20 Gaussian atoms."""


def _chains(count: int, atoms: int, generator: torch.Generator) -> Float[Tensor, "count atoms 3"]:
    """Chains grown side by side: each next atom is the first of a few candidates with room, or the one with most."""

    def directions(*shape: int) -> Tensor:
        x = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
        return x / x.norm(dim=-1, keepdim=True)

    domains = directions(count, _DOMAINS) * _uniform(0.2, 1 - _DOMAIN_RADIUS, (count, _DOMAINS, 1), generator)
    chain = domains[:, :1]
    order = 1e-9 * torch.arange(_CANDIDATES)
    for _ in range(atoms - 1):
        candidates = chain[:, -1:] + _BOND * directions(count, _CANDIDATES)
        outside = torch.cdist(candidates, domains).amin(2) - _DOMAIN_RADIUS
        crowded = _NEAREST * _BOND - torch.cdist(candidates, chain).amin(2)
        best = (outside.clamp(min=0) + crowded.clamp(min=0) + order).argmin(1)
        chain = torch.cat([chain, candidates[torch.arange(count), best][:, None]], dim=1)
    return chain


@dataclass(frozen=True)
class ViewLaw:
    """Law of a random mixture of five von Mises–Fisher densities about :data:`MEANS`.

    Attributes:
        concentrations: log-uniform between the two.
        weights: uniform between the two before they are made to sum to 1.

    Raises:
        InputError: if a range is not rising and positive.
    """

    concentrations: tuple[float, float] = (1.0, 10.0)
    weights: tuple[float, float] = (0.4, 1.6)

    def __post_init__(self) -> None:
        for low, high in (self.concentrations, self.weights):
            if not 0 < low <= high:
                raise InputError(f"a range of {low:g} to {high:g} must rise and be positive")

    def draw(self, count: int, generator: torch.Generator) -> list[VonMisesFisherMixture]:
        """``count`` independent densities."""
        low, high = self.concentrations
        spread = _uniform(math.log(low), math.log(high), (count, len(MEANS)), generator).exp()
        weights = _uniform(*self.weights, (count, len(MEANS)), generator)
        means = MEANS / MEANS.norm(dim=1, keepdim=True)
        return [VonMisesFisherMixture(means, k, w) for k, w in zip(spread, weights, strict=True)]

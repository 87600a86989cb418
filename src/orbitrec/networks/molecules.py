"""Families of volumes 𝒱 and of view densities 𝒫 for the supervised phase of cryo-EM (section 3.4.1).

The thesis names protein-like volumes of 20 Gaussian atoms and mixtures of five von Mises–Fisher densities of fixed
means. Everything else here is the project's choice.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.errors import InputError
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
_CURVE = 64  # points of a rod's curve
_BEND = 1.0  # of a rod's tangent, in each direction, at most
_DENSER = 0.5  # logarithm of the power by which a rod's atoms crowd towards an end, at most
_ASIDE = 1.0  # distance of a rod's atoms from the curve along each axis, in bonds, at most


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class ProteinLaw:
    """Law of a random protein: a chain of Gaussian atoms in three balls, stretched, as a filtered map would show it.

    Consecutive atoms are one bond apart and, where the chain finds room, none nearer than 0.85 bonds; then the chain is
    stretched or flattened along an axis. Some proteins are rods instead, atoms along a smooth curve. Real maps are
    contrast against water, sharpened and masked, and their low frequencies are those of blobs no longer: beside its
    Gaussian each atom has a wider negative one, and a still wider one of any sign. Proteins lie in their principal
    axes, the longest along z: a common rotation of volume and views is not seen in moments.

    Attributes:
        atoms: of a molecule.
        extents: the outermost atom is so far from the origin, in radii of the ball, uniform between the two.
        widths: standard deviation of an atom, in bonds, uniform between the two.
        elongations: factor of the stretch, log-uniform between the two.
        rods: share of proteins that are rods.
        rod_widths: as ``widths``, of rods.
        solvent: share of the scattering at zero frequency that the solvent cancels, uniform between the two.
        background: largest share of the widest Gaussian, of either sign.
        offset: standard deviation of the centre of mass along each axis, in radii of the ball.

    Raises:
        InputError: if there are fewer than two atoms, a range does not rise, or an extent is beyond the ball.
    """

    atoms: int = 20
    extents: tuple[float, float] = (0.5, 0.95)
    widths: tuple[float, float] = (0.35, 0.7)
    elongations: tuple[float, float] = (0.4, 2.5)
    rods: float = 0.35
    rod_widths: tuple[float, float] = (0.5, 2.0)
    solvent: tuple[float, float] = (0.0, 1.2)
    background: float = 0.5
    offset: float = 0.08

    def __post_init__(self) -> None:
        for name in ("extents", "widths", "elongations", "rod_widths", "solvent"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < math.inf:
                raise InputError(f"{name} of {low:g} to {high:g} must be finite and rise from at least 0")
        if not 0 <= self.rods <= 1:
            raise InputError(f"a share of {self.rods:g} rods is not between 0 and 1")
        if self.atoms < 2 or min(*self.extents, *self.widths, *self.elongations) == 0 or self.extents[1] > 1:
            raise InputError("a protein needs two atoms, widths above zero and extents above zero and up to 1")

    def draw(self, count: int, basis: SphericalBesselBasis, generator: torch.Generator) -> Float[Tensor, "count p"]:
        """Random proteins.

        The basis functions are eigenfunctions of the Laplacian, so that a Gaussian of width σ at c inside the ball has
        the coefficients ``exp(−k_ls² σ²/2) ψ_lms(c)``.

        Args:
            count: how many.
            basis: of the coefficients.
            generator: source of the random numbers.

        Returns:
            Coefficients, each protein's of norm 1.
        """
        shape = (count, 1)
        rod = torch.rand(shape, generator=generator) < self.rods
        weights = _uniform(0.5, 1.5, (count, self.atoms), generator)
        centres, bond = self._centres(rod[:, 0], weights, generator)
        width = torch.where(rod, _uniform(*self.rod_widths, shape, generator), _uniform(*self.widths, shape, generator))
        width = width * bond * basis.radius
        holes = _uniform(0.2, 0.45, shape, generator), _uniform(0.45, 0.8, shape, generator)
        shares = _uniform(*self.solvent, shape, generator), _uniform(-1.0, 1.0, shape, generator) * self.background
        values = basis.values(centres.reshape(-1, 3) * basis.radius).reshape(count, self.atoms, -1)
        square = basis.frequency.square()
        damping = torch.exp(-square * width.square() / 2)
        for hole, share in zip(holes, shares, strict=True):
            damping = damping - share * torch.exp(-square * (hole * basis.radius).square() / 2)
        coefficients = torch.einsum("na,nap->np", weights, values) * damping
        return coefficients / coefficients.norm(dim=1, keepdim=True)

    def _centres(
        self, rod: Bool[Tensor, "count"], weights: Float[Tensor, "count atoms"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "count atoms 3"], Float[Tensor, "count one"]]:
        """Atoms' centres and the bond, in radii of the ball."""
        count = len(rod)
        chain = torch.empty(count, self.atoms, 3, dtype=torch.float64)
        chain[~rod] = _chains(int((~rod).sum()), self.atoms, generator)
        chain[rod] = _rods(int(rod.sum()), self.atoms, generator)
        low, high = (math.log(e) for e in self.elongations)
        chain[:, :, 2] *= torch.where(rod, 1.0, _uniform(low, high, (count,), generator).exp())[:, None]
        chain = chain - torch.einsum("na,nax->nx", weights, chain)[:, None] / weights.sum(1)[:, None, None]
        axes = torch.linalg.eigh(torch.einsum("na,nax,nay->nxy", weights, chain, chain)).eigenvectors
        chain = chain @ axes
        extent = _uniform(*self.extents, (count, 1), generator)
        scale = extent / chain.norm(dim=2).amax(1, keepdim=True)
        chain = chain * scale[:, :, None]
        offset = self.offset * torch.randn(count, 1, 3, generator=generator, dtype=torch.float64)
        centres = chain + offset
        return centres / centres.norm(dim=2, keepdim=True).clamp(min=0.95) * 0.95, scale * _BOND


PLAIN = ProteinLaw(elongations=(1.0, 1.0), rods=0.0, solvent=(0.0, 0.0), background=0.0)
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


def _rods(count: int, atoms: int, generator: torch.Generator) -> Float[Tensor, "count atoms 3"]:
    """Smooth bent curves one bond an atom long; atoms lie denser towards one end, and somewhat beside the curve.

    The tangent's change is a cosine series of the arc length.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, 3, generator=generator, dtype=torch.float64)

    s = torch.linspace(0, 1, _CURVE, dtype=torch.float64)
    tangent = torch.nn.functional.normalize(normal(count, 1), dim=2).repeat(1, _CURVE, 1)
    for order in (1, 2, 3):
        bend = _uniform(0.0, _BEND, (count, 1, 1), generator) / order**1.5
        tangent = tangent + bend * torch.cos(math.pi * order * s)[:, None] * normal(count, 1)
    curve = torch.nn.functional.normalize(tangent, dim=2).cumsum(1) * (_BOND * atoms / _CURVE)
    denser = _uniform(-_DENSER, _DENSER, (count, 1), generator).exp()
    at = (torch.linspace(0, 1, atoms, dtype=torch.float64) ** denser * (_CURVE - 1)).round().long()
    aside = _uniform(0.0, _ASIDE, (count, 1, 1), generator) * normal(count, atoms)
    return curve.gather(1, at[:, :, None].expand(-1, -1, 3)) + _BOND * aside


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

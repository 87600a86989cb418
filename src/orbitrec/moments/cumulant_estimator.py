"""Third cumulants of particle images in one pass: sums that merge, each particle with its own CTF."""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.moments.compression import Compression, Triple
from orbitrec.moments.cumulant_target import CumulantTarget, multiplicity
from orbitrec.moments.cumulants import Blocks, recentred, third_sums

_LEAST = 1e-6  # of the largest variance: below it a combination of products was not measured


@dataclass(eq=False)
class CumulantAccumulator:
    """Sums over observations from which third cumulants follow; mergeable, all in float64.

    Observations are images ``X = h·F + noise`` in polar coordinates, with white pixel noise of variance 1 and a radial
    CTF h, as for :class:`orbitrec.moments.estimator.MomentAccumulator`. An image's filtered coordinates

        b = Uᵀ h X,     E b = A z,     A = Uᵀ h² V,

    have the third cumulant ``(A ⊗ A ⊗ A) κ``, Gaussian noise having none, so that sums of products of b, less its mean,
    are ``B = (Σ A ⊗ A ⊗ A) κ`` plus errors. B is compared with κ; the equations are never solved, so that zeros of the
    CTF do no harm. A is linear in h², whence ``Σ A ⊗ A ⊗ A`` follows from ``Σ h² h² h²``, exactly and for all triples.

    What images have outside of the coordinates' span leaks into b where h is not 1, to the extent that their products
    with z have third cumulants: coordinates should go down to the noise. As for second moments, an astigmatic CTF is
    replaced by its average over the circle.

    Attributes:
        compression: the coordinates; the same for all parts that are to be merged.
        first: ``Σ h X[m=0]``.
        power: ``Σ h²``.
        third: ``Σ b b conj(b)`` of every triple, flat, mode 0 less ``Uᵀ h² mean``; real and imaginary parts.
        mixed: ``Σ h²(k) b b*`` of every mode, flat: what a better mean changes; real and imaginary parts.
        product: ``Σ h²(k) h²(k') h²(k'')``.
        count: observations so far, as a tensor without axes.
    """

    compression: Compression
    first: Float[Tensor, "k"]
    power: Float[Tensor, "k"]
    third: Float[Tensor, "t 2"]
    mixed: Float[Tensor, "k s 2"]
    product: Float[Tensor, "k k k"]
    count: Int[Tensor, ""]

    @classmethod
    def empty(cls, compression: Compression, device: str = "cpu") -> "CumulantAccumulator":
        """The sums before the first observation."""
        r, k = compression.ranks, compression.grid.node_count
        third = sum(r[a] * r[b] * r[a + b] for a, b in compression.triples())
        shapes = [(k,), (k,), (third, 2), (k, sum(rank * rank for rank in r), 2), (k, k, k)]
        sums = (torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)
        return cls(compression, *sums, count=torch.zeros((), dtype=torch.long, device=device))

    def update(self, modes: Complex[Tensor, "b m k"], ctf: Float[Tensor, "b k"]) -> None:
        """Add a batch of observations and their radial CTFs (ones where there is none).

        Products are formed in the observations' precision and added in float64: in float32 a batch should hold no more
        than a few thousand images.
        """
        power, center = ctf.square(), self.compression.bases[0] * self.compression.mean[:, None]
        first, *rest = self.compression((modes * ctf[:, None, :]).transpose(0, 1))
        z = [first.real - power @ center.to(power), *rest]
        sums = third_sums(z)
        flat = torch.cat([sums[triple].flatten() for triple in self.compression.triples()])
        self.third += torch.view_as_real(flat)
        squares = [(part[:, :, None] * part[:, None, :].conj()).flatten(1).to(modes.dtype) for part in z]
        self.mixed += torch.view_as_real(power.mT.to(modes.dtype) @ torch.cat(squares, dim=1))
        pairs = (power[:, :, None] * power[:, None, :]).flatten(1)
        self.product += (pairs.mT @ power).reshape(self.product.shape)
        self.first += (modes[:, 0].real * ctf).sum(0, dtype=torch.float64)
        self.power += power.sum(0, dtype=torch.float64)
        self.count += len(modes)

    def merge(self, other: "CumulantAccumulator") -> "CumulantAccumulator":
        """The sums over both parts.

        Raises:
            InputError: if the parts have different coordinates.
        """
        if not self.compression.same_as(other.compression):
            raise InputError(
                "third cumulants in different coordinates cannot be merged; give all parts the coordinates of one"
            )
        sums = {name: s + other.sums()[name] for name, s in self.sums().items()}
        return CumulantAccumulator(self.compression, **sums)

    def sums(self) -> dict[str, Tensor]:
        """Every sum by name: with the coordinates, all that the accumulator holds."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "compression"}

    def products(self) -> Blocks:
        """B, a mean over observations: products of filtered coordinates less their mean, as least squares finds it.

        Raises:
            InputError: if there are no observations.
        """
        if self.count == 0:
            raise InputError("third cumulants of no images cannot be estimated; give at least one")
        count, compression = int(self.count), self.compression
        tiny = torch.finfo(torch.float64).tiny
        error = self.first / self.power.clamp(min=tiny) - compression.mean
        moved = compression.bases[0] * error[:, None]
        r = compression.ranks
        parts = torch.view_as_complex(self.mixed).split([rank * rank for rank in r], dim=1)
        mixed = [(moved.mT.to(part) @ part).reshape(r[0], rank, rank) for rank, part in zip(r, parts, strict=True)]
        cube = torch.einsum("ka,lb,nc,kln->abc", moved, moved, moved, self.product)
        return {t: block / count for t, block in recentred(self._blocks(), mixed, cube).items()}

    def target(self) -> CumulantTarget:
        """What κ is matched to, in coordinates in which errors are independent (:class:`CumulantTarget`).

        The covariance of an image's b is ``A / σ² + A Λ Aᵀ`` where h varies slowly, σ² being the coordinates' unit of
        noise; it is taken as A with rows and columns scaled to that diagonal on average, which is exact without a CTF.

        Raises:
            InputError: if there are no observations.
        """
        data, response = {}, {}
        for triple, block in self.products().items():
            root = self._inverse_root(triple)
            data[triple] = torch.view_as_complex(root @ torch.view_as_real(block.flatten()))
            response[triple] = root @ self._normal(triple, [self._filters(m) for m in _modes(triple)])
        return CumulantTarget(self.compression, data, response, float(self.count))

    def _inverse_root(self, triple: Triple) -> Float[Tensor, "q q"]:
        """Inverse root of the products' covariance, entries counted once."""
        factors = []
        for m in _modes(triple):
            filters = self._filters(m)
            mean = torch.einsum("k,kaa->a", self.power / self.count, filters).clamp(min=0)
            scale = (1 / self.compression.variance + self.compression.signal[m] * mean).sqrt()
            factors.append((filters + filters.mT) / 2 * scale[:, None] * scale)
        values, vectors = torch.linalg.eigh(self._normal(triple, factors))
        inverse = (multiplicity(triple) / values.clamp(min=_LEAST * float(values[-1]))).sqrt()
        return (vectors * inverse) @ vectors.mT

    def _filters(self, m: int) -> Float[Tensor, "k r r"]:
        """What ``h²(k)`` adds to A."""
        return self.compression.bases[m][:, :, None] * self.compression.spreads[m][:, None, :]

    def _normal(self, triple: Triple, factors: list[Float[Tensor, "k _ _"]]) -> Float[Tensor, "q q"]:
        """Mean of ``A ⊗ A ⊗ A``."""
        size = math.prod(self.compression.ranks[m] for m in _modes(triple))
        return torch.einsum("kln,kad,lbe,ncf->abcdef", self.product / self.count, *factors).reshape(size, size)

    def _blocks(self) -> Blocks:
        r, triples = self.compression.ranks, list(self.compression.triples())
        shapes = [(r[a], r[b], r[a + b]) for a, b in triples]
        parts = torch.view_as_complex(self.third).split([x * y * z for x, y, z in shapes])
        return {t: part.reshape(shape) for t, part, shape in zip(triples, parts, shapes, strict=True)}


def _modes(triple: Triple) -> tuple[int, int, int]:
    return triple[0], triple[1], sum(triple)

"""Templates laid out for matrix products: the part of scores and E-steps that does not depend on observations.

On ``A`` angles ``e^{imα}`` depends on m modulo A only, so modes that alias are added before the circle is synthesised:
for q = 0 … A/2 the nodes of all modes m ≡ q and, conjugated, of all m ≡ −q stand side by side in one long row,

    Re Σ_{m,k} Y conj(T) e^{imα} = Σ_q (C_q cos qα + S_q sin qα),   C_q − iS_q = Σ_{row q} Y conj(T).

Complex products are real ones. With real rows ``(Re, Im)``, C is the product of Y with T, and S that of ``iY`` with T.
So scores are two products, and the sums of an E-step are their adjoints:

    products[q, p] = rows_p(Y)[q] · rows(T)[q],          score = synthesis · products,
    planes = synthesisᵀ · posterior,           first[q] = Σ_p rows_p(Y)[q] · planes[q, p].

Half a turn changes the sign of odd q alone: on an even number of angles, rows of even q come before those of odd q,
and the two are synthesised on half of the circle, whose sum and difference are the whole (:class:`Synthesis`).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from orbitrec.models.base import Circle


def orders(angles: int) -> Int[Tensor, "q"]:
    """The orders q = 0 … A/2 in the order of rows: even ones before odd ones where the number of angles is even."""
    q = torch.arange(angles // 2 + 1)
    return q if angles % 2 else torch.cat([q[::2], q[1::2]])


@dataclass(frozen=True, eq=False)
class Synthesis:
    """``Σ_q (C_q cos qα + S_q sin qα)`` at every angle, and its adjoint.

    Attributes:
        tables: cosines and sines of all q at every angle; of an even number of angles those of even q, and those of odd
            q, on the first half of the circle.
    """

    tables: tuple[Float[Tensor, "_ _"], ...]

    @classmethod
    def of(cls, table: Float[Tensor, "a qp"], parts: int) -> "Synthesis":
        """From the matrix (a, q·parts) of the whole sum, its q as :func:`orders` has them."""
        angles, columns = table.shape
        if angles % 2:
            return cls((table,))
        even = parts * (angles // 4 + 1)
        return cls(tuple(part.contiguous() for part in table[: angles // 2].split([even, columns - even], dim=1)))

    def values(self, products: Float[Tensor, "qp x"]) -> Float[Tensor, "a x"]:
        """The sums at every angle."""
        columns = [table.shape[1] for table in self.tables]
        sums = [table @ part for table, part in zip(self.tables, products.split(columns), strict=True)]
        if len(sums) == 1:
            return sums[0]
        even, odd = sums
        values = even.new_empty(2, *even.shape)
        torch.add(even, odd, out=values[0])
        torch.sub(even, odd, out=values[1])
        return values.flatten(0, 1)

    def adjoint(self, values: Float[Tensor, "a x"]) -> Float[Tensor, "qp x"]:
        """The transpose of :meth:`values`."""
        if len(self.tables) == 1:
            return self.tables[0].mT @ values
        here, opposite = values.chunk(2)
        even, odd = self.tables
        products = values.new_empty(even.shape[1] + odd.shape[1], values.shape[1])
        torch.mm(even.mT, here + opposite, out=products[: even.shape[1]])
        torch.mm(odd.mT, here - opposite, out=products[even.shape[1] :])
        return products


@dataclass(frozen=True, eq=False)
class Fold:
    """Which coordinates (m, k) make up row q, and which of them are conjugated.

    Attributes:
        index: (q, r) into the flattened (m, k).
        real: (q, r) factors of the real parts: 1, and 0 where a row is padded.
        imaginary: (q, r) factors of the imaginary parts: 1, −1 where they are conjugated, and 0 where a row is padded.
        parts: products kept of each row: C and S, or C alone where one or two angles have no sines.
    """

    index: Int[Tensor, "q r"]
    real: Float[Tensor, "q r"]
    imaginary: Float[Tensor, "q r"]
    parts: int

    @classmethod
    def of(cls, circle: Circle, kept: Bool[Tensor, "m k"], dtype: torch.dtype) -> "Fold":
        """The fold of some coordinates of a circle's modes (module docstring).

        Args:
            circle: its modes and angles.
            kept: (m, k) the coordinates that are used; the fold is on the same device.
            dtype: of the factors, a real type.

        Returns:
            The fold, with a row for each of the :func:`orders`.
        """
        device = kept.device
        residue = circle.modes.cpu() % circle.angles
        order = torch.minimum(residue, circle.angles - residue)
        kept, columns = kept.cpu(), torch.arange(kept.numel()).reshape(kept.shape)
        members = [columns[order == q][kept[order == q]] for q in orders(circle.angles).tolist()]
        length = max(1, *map(len, members))
        index = torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in members])
        real = torch.stack([(torch.arange(length) < len(row)).to(dtype) for row in members])
        conjugated = (residue != order)[index // kept.shape[1]]
        imaginary = torch.where(conjugated, -real, real)
        return cls(*(x.to(device) for x in (index, real, imaginary)), parts=2 if circle.angles > 2 else 1)

    @cached_property
    def _places(self) -> tuple[Int[Tensor, "q2rp"], Float[Tensor, "q2rp one"]]:
        """Where each number of the rows is among real and imaginary parts, one after the other, and its factor."""
        real, imaginary = 2 * self.index, 2 * self.index + 1
        cosine = torch.cat([real, imaginary], dim=1), torch.cat([self.real, self.imaginary], dim=1)
        sine = torch.cat([imaginary, real], dim=1), torch.cat([-self.imaginary, self.real], dim=1)
        places, factors = (torch.stack(both[: self.parts], dim=2) for both in zip(cosine, sine, strict=True))
        return places.flatten(), factors.flatten()[:, None]

    def rows(self, modes: Complex[Tensor, "... m k"]) -> Float[Tensor, "q two_r p x"]:
        """The rows of modes (…, m, k): real parts, then imaginary parts, and for the sines those of i times the row.

        Args:
            modes: x = … of them.

        Returns:
            (q, 2r, p, x), so that it is a matrix from what is summed over to p and x.
        """
        return self._picked(modes, *self._places)

    def first_rows(self, modes: Complex[Tensor, "d m k"]) -> Float[Tensor, "q two_r d"]:
        """The rows of the modes alone, and not of i times them."""
        places, factors = (each[:: self.parts] for each in self._places)
        return self._picked(modes, places, factors).flatten(2)

    def _picked(
        self, modes: Complex[Tensor, "... m k"], places: Int[Tensor, "q2rp"], factors: Float[Tensor, "q2rp one"]
    ) -> Float[Tensor, "q two_r p x"]:
        flat = torch.view_as_real(modes.resolve_conj()).flatten(0, -4).flatten(1)
        picked = flat.mT.contiguous().index_select(0, places) * factors
        return picked.reshape(len(self.index), 2 * self.index.shape[1], -1, len(flat))

    def unfolded(self, rows: Float[Tensor, "q two_r d"], shape: tuple[int, int]) -> Complex[Tensor, "d m k"]:
        """Sort rows of the first kind back into their coordinates (m, k); those that are not kept are zero."""
        real, imaginary = rows.chunk(2, dim=1)
        values = torch.stack([real * self.real[..., None], imaginary * self.imaginary[..., None]], dim=2)
        flat = values.new_zeros(shape[0] * shape[1], 2, rows.shape[2])
        flat.index_add_(0, self.index.flatten(), values.flatten(0, 1))
        return torch.view_as_complex(flat.permute(2, 0, 1).contiguous()).unflatten(1, shape)


@dataclass(frozen=True, eq=False)
class TemplateBank:
    """Templates and prior of a problem, laid out once for many calls.

    Args:
        templates: (d, m, k), in units where the noise variance is one.
        log_density: (d, a) log prior of directions and angles.
        circle: the modes' integer orders and the angles.
        reached: the fold of the coordinates that templates reach; of all coordinates if None.
    """

    templates: Complex[Tensor, "d m k"]
    log_density: Float[Tensor, "d a"]
    circle: Circle
    reached: Fold | None = None

    def __len__(self) -> int:
        return len(self.templates)

    @cached_property
    def fold(self) -> Fold:
        """The fold of the coordinates that count."""
        if self.reached is not None:
            return self.reached
        every = torch.ones(self.templates.shape[1:], dtype=torch.bool, device=self.templates.device)
        return Fold.of(self.circle, every, self.templates.real.dtype)

    @cached_property
    def power(self) -> Float[Tensor, "d k"]:
        """``Σ_m |T|²``."""
        return torch.view_as_real(self.templates).square().sum(-1).sum(1)

    @cached_property
    def flat(self) -> bool:
        """Whether the prior is the same at every angle."""
        return bool((self.log_density == self.log_density[:, :1]).all())

    @cached_property
    def synthesis(self) -> "Synthesis":
        """From the products of all q and parts to the scores at all angles."""
        circle = Circle(orders(self.circle.angles), self.circle.angles)
        table = circle.synthesis(self.templates.real.dtype, self.templates.device)[:, :: 3 - self.fold.parts]
        return Synthesis.of(table.contiguous(), self.fold.parts)

    @cached_property
    def rows(self) -> Float[Tensor, "q two_r d"]:
        """The templates' rows."""
        return self.fold.first_rows(self.templates)

    @cached_property
    def rows_by_direction(self) -> Float[Tensor, "q d two_r"]:
        """The same with each direction's numbers side by side, of which some directions are copied."""
        return self.rows.mT.contiguous()

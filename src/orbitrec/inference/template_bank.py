"""Templates laid out for matrix products: the part of scores and E-steps that does not depend on observations.

On ``A`` angles ``e^{imα}`` depends on m modulo A only, so modes that alias are added before the circle is synthesised:
for q = 0 … A/2 the nodes of all modes m ≡ q and, conjugated, of all m ≡ −q stand side by side in one long row,

    Re Σ_{m,k} Y conj(T) e^{imα} = Σ_q (C_q cos qα + S_q sin qα),   C_q − iS_q = Σ_{row q} Y conj(T).

Complex products are real ones: with ``Y = y₀ + iy₁``, ``T = t₀ + it₁`` and the four real products ``G_ab = Σ y_a t_b``,
``C = G₀₀ + G₁₁`` and ``S = G₀₁ − G₁₀``. The opposite direction's template is the mirror image
``T[−d, m] = (−1)^m conj T[d, m]`` (:class:`orbitrec.models.cryoem.PolarProjector`), so that the same four products give
its scores as well: ``(−1)^q (G₀₀ − G₁₁)`` and ``−(−1)^q (G₀₁ + G₁₀)``.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.models.base import Circle


@dataclass(frozen=True, eq=False)
class Fold:
    """Which coordinates (m, k) make up row q, and which of them are conjugated.

    Attributes:
        index: (q, r) into the flattened (m, k).
        real: (q, r) factors of the real parts: 1, and 0 where a row is padded.
        imaginary: (q, r) factors of the imaginary parts: 1, −1 where they are conjugated, and 0 where a row is padded.
    """

    index: Int[Tensor, "q r"]
    real: Float[Tensor, "q r"]
    imaginary: Float[Tensor, "q r"]

    @classmethod
    def of(cls, circle: Circle, kept: Bool[Tensor, "m k"], dtype: torch.dtype) -> "Fold":
        """The fold of some coordinates of a circle's modes (module docstring).

        Args:
            circle: its modes and angles.
            kept: (m, k) the coordinates that are used; the fold is on the same device.
            dtype: of the factors, a real type.

        Returns:
            The fold, with a row for each q from 0 to half the number of angles.
        """
        device = kept.device
        residue = circle.modes.cpu() % circle.angles
        order = torch.minimum(residue, circle.angles - residue)
        kept, columns = kept.cpu(), torch.arange(kept.numel()).reshape(kept.shape)
        members = [columns[order == q][kept[order == q]] for q in range(circle.angles // 2 + 1)]
        length = max(1, *map(len, members))
        index = torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in members])
        real = torch.stack([(torch.arange(length) < len(row)).to(dtype) for row in members])
        conjugated = (residue != order)[index // kept.shape[1]]
        return cls(*(x.to(device) for x in (index, real, torch.where(conjugated, -real, real))))

    def rows(self, modes: Complex[Tensor, "... m k"]) -> Float[Tensor, "q ... two r"]:
        """The rows of modes (…, m, k): real parts, then imaginary parts, of the coordinates of every row q."""
        flat = modes.flatten(-2)
        picked = flat[..., self.index.flatten()].unflatten(-1, self.index.shape).movedim(-2, 0)
        shape = (len(self.index), *(1,) * (modes.ndim - 2), -1)
        return torch.stack([picked.real * self.real.view(shape), picked.imag * self.imaginary.view(shape)], dim=-2)

    def unfolded(self, rows: Float[Tensor, "q d two r"], shape: tuple[int, int]) -> Complex[Tensor, "d m k"]:
        """Add rows up in their coordinates (m, k), the inverse of :meth:`rows` if every coordinate is kept."""
        values = torch.complex(rows[:, :, 0] * self.real[:, None], rows[:, :, 1] * self.imaginary[:, None])
        flat = values.new_zeros(rows.shape[1], shape[0] * shape[1])
        flat.index_add_(1, self.index.flatten(), values.movedim(0, 1).flatten(1))
        return flat.unflatten(1, shape)


@dataclass(frozen=True, eq=False)
class TemplateBank:
    """Templates and prior of a problem, laid out once for many calls.

    Args:
        templates: (d, m, k), in units where the noise variance is one.
        log_density: (d, a) log prior of directions and angles.
        circle: the modes' integer orders and the angles.
        antipodal: direction ``i + d/2`` is minus direction i and its template the mirror image, as
            :class:`orbitrec.models.cryoem.PolarProjector` makes them; scores of all directions then cost half.

    Raises:
        InputError: if ``antipodal`` is asked for with an odd number of directions or of angles.
    """

    templates: Complex[Tensor, "d m k"]
    log_density: Float[Tensor, "d a"]
    circle: Circle
    antipodal: bool = False

    def __post_init__(self) -> None:
        if self.antipodal and (len(self.templates) % 2 or self.circle.angles % 2):
            raise InputError(
                f"antipodal templates need even numbers of directions and angles, not {len(self.templates)} and "
                f"{self.circle.angles}"
            )

    def __len__(self) -> int:
        return len(self.templates)

    @cached_property
    def power(self) -> Float[Tensor, "d k"]:
        """``Σ_m |T|²``."""
        power = _power(self._searched).sum(1)
        return torch.cat([power, power]) if self.antipodal else power

    @cached_property
    def flat(self) -> bool:
        """Whether the prior is the same at every angle."""
        return bool((self.log_density == self.log_density[:, :1]).all())

    @cached_property
    def reached(self) -> Fold:
        """The fold of the coordinates that templates reach: the others together move no score by 1e-4 (float32).

        A mode m vanishes at nodes with k·radius well below m. Left out are the weakest coordinates as long as the sum
        of their largest powers, hence the variance that unit noise gives them in a score, is below ``(1000 ε)²``.
        """
        dtype = self.templates.real.dtype
        peak = _power(self._searched.detach()).amax(0).cpu()  # a small table: what is kept is decided in one place
        weakest, order = peak.flatten().double().sort()
        dropped = order[weakest.cumsum(0) < (1e3 * torch.finfo(dtype).eps) ** 2]
        kept = torch.ones_like(peak, dtype=torch.bool)
        kept.view(-1)[dropped] = False
        return Fold.of(self.circle, kept.to(self.templates.device), dtype)

    @cached_property
    def whole(self) -> Fold:
        """The fold of all coordinates."""
        kept = torch.ones(self.templates.shape[1:], dtype=torch.bool, device=self.templates.device)
        return Fold.of(self.circle, kept, self.templates.real.dtype)

    @property
    def parts(self) -> int:
        """Products kept of each row: C and S, or C alone where one or two angles have no sines."""
        return 2 if self.circle.angles > 2 else 1

    @cached_property
    def synthesis(self) -> Float[Tensor, "a pq"]:
        """Rows (cos qα, sin qα) for q = 0 … A/2, or cosines alone."""
        circle = Circle(torch.arange(self.circle.angles // 2 + 1), self.circle.angles)
        return circle.synthesis(self.templates.real.dtype, self.templates.device)[:, :: 3 - self.parts].contiguous()

    def products(
        self, rows: Float[Tensor, "q b s two r"], candidates: Int[Tensor, "b c"] | None
    ) -> Float[Tensor, "b q p s c"]:
        """``(C_q, S_q)`` of observations with templates (module docstring).

        Args:
            rows: of b observations at s displacements, by the fold :attr:`reached`.
            candidates: (b, c) the directions that each observation is compared with; None for all.

        Returns:
            The p = 1 or 2 products of every row, (b, q, p, s, c).
        """
        Q, b, s, _, r = rows.shape
        if self.parts == 1:
            y = rows.reshape(Q, b, s, 2 * r)
            if candidates is None:
                C = (y.flatten(1, 2) @ self._long_rows.mT).unflatten(1, (b, s))
            else:
                C = y @ self._long_rows[:, candidates].mT
            return C.transpose(0, 1)[:, :, None]
        if candidates is None:
            G = rows.reshape(Q, b * s * 2, r) @ self._rows.mT
        else:
            both = torch.cat([candidates, candidates + len(self)], dim=1)
            G = rows.reshape(Q, b, s * 2, r) @ self._all_rows[:, both].mT
        G = G.reshape(Q, b, s, 2, 2, -1).transpose(0, 1)
        h, mirrored = G.shape[-1], self.antipodal and candidates is None
        out = G.new_empty(b, Q, 2, s, 2 * h if mirrored else h)
        G00, G01, G10, G11 = (G[..., y, t, :] for y in (0, 1) for t in (0, 1))
        out[:, :, 0, :, :h].copy_(G00).add_(G11)
        out[:, :, 1, :, :h].copy_(G01).sub_(G10)
        if mirrored:
            even, odd = slice(0, None, 2), slice(1, None, 2)
            out[:, even, 0, :, h:].copy_(G00[:, even]).sub_(G11[:, even])
            out[:, odd, 0, :, h:].copy_(G11[:, odd]).sub_(G00[:, odd])
            out[:, even, 1, :, h:].copy_(G01[:, even]).neg_().sub_(G10[:, even])
            out[:, odd, 1, :, h:].copy_(G01[:, odd]).add_(G10[:, odd])
        return out

    @cached_property
    def _searched(self) -> Complex[Tensor, "h m k"]:
        return self.templates[: len(self) // 2] if self.antipodal else self.templates

    @cached_property
    def _rows(self) -> Float[Tensor, "q two_h r"]:
        return self.reached.rows(self._searched).transpose(1, 2).flatten(1, 2)

    @cached_property
    def _all_rows(self) -> Float[Tensor, "q two_d r"]:
        return self.reached.rows(self.templates).transpose(1, 2).flatten(1, 2) if self.antipodal else self._rows

    @cached_property
    def _long_rows(self) -> Float[Tensor, "q d two_r"]:
        return self._all_rows.unflatten(1, (2, -1)).transpose(1, 2).flatten(2)


def _power(x: Complex[Tensor, "..."]) -> Float[Tensor, "..."]:
    return torch.view_as_real(x).square().sum(-1)

"""Scores, posterior, marginal likelihood and EM statistics, for every problem in docs/architecture.md.

With observations Y, filters h (``Y`` arrives already multiplied by h: the matched filter), templates T and prior ρ,

    score[j, s, d, α] = (Re Σ_{m,k} Y[j, s, m, k] conj(T[d, m, k]) e^{imα}
                         − ½ Σ_k h²[j, k] Σ_m |T[d, m, k]|²) / σ² + log ρ,

which is the log of the joint density up to ``−½ ‖y_j‖²/σ²`` and the Gaussian's constant.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.models.base import Circle


@dataclass(frozen=True)
class Observations:
    """A batch in circular modes, filtered once: ``Y = h·y`` and ``h²``, in units where the noise variance is one.

    ``modes``: (b, s, m, k) with s displacements; ``filter_power``: (b, k); ``log_shift``: (s,) log weights of the
    displacements.
    """

    modes: Complex[Tensor, "b s m k"]
    filter_power: Float[Tensor, "b k"]
    log_shift: Float[Tensor, "s"]

    def __len__(self) -> int:
        return len(self.modes)

    def chunks(self, size: int) -> Iterator["Observations"]:
        """Consecutive parts of at most ``size`` observations."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Observations(self.modes[part], self.filter_power[part], self.log_shift)


def scores(
    observed: Observations, templates: Complex[Tensor, "d m k"], log_density: Float[Tensor, "d a"], circle: Circle
) -> Float[Tensor, "b s d a"]:
    """Log joint density of every observation with every displacement, direction and angle (module docstring)."""
    shape = (len(observed), circle.angles, observed.modes.shape[1], len(templates))
    score = _scores(observed, _Rows.of(observed), _Bank.of(templates, log_density), circle, None)
    return score.reshape(shape).permute(0, 2, 3, 1)


def posterior(score: Float[Tensor, "b ..."]) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b"]]:
    """Posterior probabilities and the log marginal likelihood of each observation. ``score`` is overwritten."""
    dims = tuple(range(1, score.ndim))
    peak = score.amax(dims, keepdim=True)
    score.sub_(peak).exp_()
    total = score.sum(dims, keepdim=True)
    score.div_(total)
    return score, (peak + total.log()).reshape(len(score))


@dataclass
class Statistics:
    """What EM needs of the data: sums over observations of posterior-weighted, turned-back modes.

    ``first[d, m, k] = Σ_j Σ_{s,α} p Y e^{imα}``, ``second[d, k] = Σ_j Σ_{s,α} p h²``,
    ``occupancy[d, a] = Σ_j Σ_s p``, ``log_likelihood = Σ_j log p(y_j)``, ``count`` observations.
    """

    first: Complex[Tensor, "d m k"]
    second: Float[Tensor, "d k"]
    occupancy: Float[Tensor, "d a"]
    log_likelihood: float
    count: float

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of both parts."""
        return Statistics(
            self.first + other.first, self.second + other.second, self.occupancy + other.occupancy,
            self.log_likelihood + other.log_likelihood, self.count + other.count,
        )  # fmt: skip

    def scaled(self, factor: float) -> "Statistics":
        """Every sum multiplied: the forgetting of a running average."""
        return Statistics(
            self.first * factor, self.second * factor, self.occupancy * factor,
            self.log_likelihood * factor, self.count * factor,
        )  # fmt: skip


@dataclass
class Assignment:
    """What the E-step knows of each observation.

    ``direction``: (b, c) posterior of each candidate direction; ``shift``: (b, s) posterior of each displacement;
    ``best``: (b, 3) indices (s, c, a) of the most probable element; ``log_likelihood``: (b,).
    """

    direction: Float[Tensor, "b c"]
    shift: Float[Tensor, "b s"]
    best: Int[Tensor, "b 3"]
    log_likelihood: Float[Tensor, "b"]


def expectation(
    observed: Observations,
    templates: Complex[Tensor, "d m k"],
    log_density: Float[Tensor, "d a"],
    circle: Circle,
    *,
    candidates: Int[Tensor, "b c"] | None = None,
    chunk_bytes: int = 1 << 24,
) -> tuple[Statistics, Assignment]:
    """The E-step: one pass over a batch, never holding more than about ``chunk_bytes`` of scores.

    ``candidates`` restricts each observation to its own list of c directions (a narrowed search: every other direction
    is taken to have no posterior mass); without it all directions are searched.
    """
    directions = len(templates) if candidates is None else candidates.shape[1]
    shifts = observed.modes.shape[1]
    size = max(1, chunk_bytes // (shifts * directions * circle.angles * log_density.element_size()))
    bank = _Bank.of(templates, log_density)
    totals = _Totals.zeros(bank)
    assignments = []
    for start, part in zip(range(0, len(observed), size), observed.chunks(size), strict=True):
        own = None if candidates is None else candidates[start : start + size]
        rows = _Rows.of(part)
        score = _scores(part, rows, bank, circle, own)
        best = score.flatten(1).argmax(1)
        p, log_likelihood = posterior(score)
        p = p.reshape(len(part), circle.angles, shifts, directions)
        totals.add(part, rows, p, circle, own)
        a, s, c = torch.unravel_index(best, p.shape[1:])
        pairs = p.sum(1)
        assignments.append((pairs.sum(1), pairs.sum(2), torch.stack([s, c, a], dim=1), log_likelihood))
    assignment = Assignment(*(torch.cat(column) for column in zip(*assignments, strict=True)))
    return totals.statistics(float(assignment.log_likelihood.double().sum()), float(len(observed))), assignment


# Inside, complex products are real ones on rows twice as long. With (Re T, Im T) side by side, the row (Re Y, Im Y)
# gives Re and the row (−Im Y, Re Y) gives −Im of Y conj(T), so that the score is their sum with cos mα and sin mα; and
# the same rows weighted by Σ_α p cos mα and Σ_α p sin mα add up to (Re, Im) of Σ_α p e^{imα} Y. Scores are kept as
# (b, a, s·d): nothing as large as they are is ever transposed element by element.


@dataclass(frozen=True)
class _Bank:
    """Templates as real rows (m, d, 2k), their power Σ_m |T|² (d, k), and the log density (d, a)."""

    rows: Float[Tensor, "m d two_k"]
    power: Float[Tensor, "d k"]
    log_density: Float[Tensor, "d a"]

    @classmethod
    def of(cls, templates: Complex[Tensor, "d m k"], log_density: Float[Tensor, "d a"]) -> "_Bank":
        rows = torch.view_as_real(templates.transpose(0, 1).contiguous()).flatten(2)
        return cls(rows, templates.abs().square().sum(1), log_density)


class _Rows:
    """Observations as real rows (m, b, 2·s, 2k): for each displacement (Re Y, Im Y), then for each (−Im Y, Re Y)."""

    @staticmethod
    def of(part: Observations) -> Float[Tensor, "m b two_s two_k"]:
        y = part.modes.permute(2, 0, 1, 3).contiguous()
        return torch.cat([torch.view_as_real(y).flatten(3), torch.view_as_real(y * 1j).flatten(3)], dim=2)


def _scores(
    part: Observations,
    rows: Float[Tensor, "m b two_s two_k"],
    bank: _Bank,
    circle: Circle,
    own: Int[Tensor, "b c"] | None,
) -> Float[Tensor, "b a sc"]:
    m, b, two_s, _ = rows.shape
    if own is None:
        product = (rows.flatten(1, 2) @ bank.rows.mT).reshape(m, b, 2, -1)
        energy, density = part.filter_power @ bank.power.mT, bank.log_density.mT  # (b, d), (a, d)
    else:
        product = (rows @ bank.rows[:, own].mT).reshape(m, b, 2, -1)
        energy = torch.einsum("bck,bk->bc", bank.power[own], part.filter_power)
        density = bank.log_density[own].mT  # (b, a, c)
    planes = product.transpose(0, 1).reshape(b, 2 * m, -1)
    score = circle.synthesis(planes.dtype, planes.device) @ planes
    by_pair = score.unflatten(2, (two_s // 2, -1))
    by_pair += (density - 0.5 * energy[:, None])[:, :, None] + part.log_shift[:, None]
    return score


@dataclass
class _Totals:
    """Sums of the E-step: ``first`` as real rows (m, d, 2k), the rest as in :class:`Statistics`."""

    first: Float[Tensor, "m d two_k"]
    second: Float[Tensor, "d k"]
    occupancy: Float[Tensor, "d a"]

    @classmethod
    def zeros(cls, bank: _Bank) -> "_Totals":
        return cls(*(torch.zeros_like(x) for x in (bank.rows, bank.power, bank.log_density)))

    def add(
        self,
        part: Observations,
        rows: Float[Tensor, "m b two_s two_k"],
        p: Float[Tensor, "b a s c"],
        circle: Circle,
        own: Int[Tensor, "b c"] | None,
    ) -> None:
        b, _, s, c = p.shape
        analysis = circle.synthesis(p.dtype, p.device).mT
        planes = (analysis @ p.flatten(2)).reshape(b, -1, 2, s * c).transpose(0, 1)  # (m, b, 2, s·c)
        occupancy = p.sum(2)  # (b, a, c)
        by_direction = occupancy.sum(1)
        if own is None:
            weights = planes.reshape(len(rows), b * 2 * s, c)
            self.first += weights.mT @ rows.flatten(1, 2)
            self.second += by_direction.mT @ part.filter_power
            self.occupancy += occupancy.sum(0).mT
            return
        sums = planes.reshape(len(rows), b, 2 * s, c).mT @ rows
        flat = own.reshape(-1)
        self.first.index_add_(1, flat, sums.flatten(1, 2))
        self.second.index_add_(0, flat, (by_direction[..., None] * part.filter_power[:, None]).flatten(0, 1))
        self.occupancy.index_add_(0, flat, occupancy.mT.flatten(0, 1))

    def statistics(self, log_likelihood: float, count: float) -> Statistics:
        first = torch.view_as_complex(self.first.unflatten(2, (-1, 2))).transpose(0, 1)
        return Statistics(first, self.second, self.occupancy, log_likelihood, count)

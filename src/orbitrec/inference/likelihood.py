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


def correlations(
    observations: Complex[Tensor, "*b m k"], templates: Complex[Tensor, "d m k"], circle: Circle
) -> Float[Tensor, "*b d a"]:
    """``Re Σ_{m,k} Y conj(T) e^{imα}``: a product over k for every m, then a synthesis over m."""
    batch = observations.shape[:-2]
    y = observations.reshape(-1, *observations.shape[-2:]).transpose(0, 1)
    product = torch.matmul(y, templates.permute(1, 2, 0).conj())
    rows = torch.view_as_real(product).permute(1, 2, 0, 3).reshape(-1, 2 * len(product))
    synthesis = circle.synthesis(rows.dtype, rows.device).reshape(-1, circle.angles)
    return (rows @ synthesis).reshape(*batch, len(templates), circle.angles)


def energies(filter_power: Float[Tensor, "b k"], templates: Complex[Tensor, "d m k"]) -> Float[Tensor, "b d"]:
    """``Σ_k h²[j, k] Σ_m |T[d, m, k]|²``: squared norm of every filtered template."""
    return filter_power @ templates.abs().square().sum(1).mT


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
    out = correlations(observed.modes, templates, circle)
    offset = log_density - 0.5 * energies(observed.filter_power, templates)[:, None, :, None]
    return out.add_(offset).add_(observed.log_shift[:, None, None])


def posterior(
    score: Float[Tensor, "b s d a"],
) -> tuple[Float[Tensor, "b s d a"], Float[Tensor, "b"]]:
    """Posterior probabilities and the log marginal likelihood of each observation. ``score`` is overwritten."""
    flat = score.flatten(1)
    peak = flat.amax(1, keepdim=True)
    flat.sub_(peak).exp_()
    total = flat.sum(1, keepdim=True)
    flat.div_(total)
    return score, (peak + total.log()).squeeze(1)


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
    per_item = observed.modes.shape[1] * directions * circle.angles * log_density.element_size()
    size = max(1, chunk_bytes // per_item)
    power = templates.abs().square().sum(1)
    totals = _zeros(templates, log_density)
    assignments = []
    for start, part in zip(range(0, len(observed), size), observed.chunks(size), strict=True):
        if candidates is None:
            score = scores(part, templates, log_density, circle)
            own = None
        else:
            own = candidates[start : start + size]
            score = _candidate_scores(part, templates, power, log_density, circle, own)
        best = score.flatten(1).argmax(1)
        p, log_likelihood = posterior(score)
        _accumulate(totals, part, p, circle, own)
        totals.log_likelihood += float(log_likelihood.double().sum())
        index = torch.stack(torch.unravel_index(best, p.shape[1:]), dim=1)
        assignments.append((p.sum((1, 3)), p.sum((2, 3)), index, log_likelihood))
    columns = zip(*assignments, strict=True)
    return totals, Assignment(*(torch.cat(column) for column in columns))


def _zeros(templates: Complex[Tensor, "d m k"], log_density: Float[Tensor, "d a"]) -> Statistics:
    second = log_density.new_zeros(len(templates), templates.shape[-1])
    return Statistics(torch.zeros_like(templates), second, torch.zeros_like(log_density), 0.0, 0.0)


def _candidate_scores(
    part: Observations,
    templates: Complex[Tensor, "d m k"],
    power: Float[Tensor, "d k"],
    log_density: Float[Tensor, "d a"],
    circle: Circle,
    own: Int[Tensor, "b c"],
) -> Float[Tensor, "b s c a"]:
    chosen = templates[own].permute(0, 2, 3, 1).conj()  # (b, m, k, c)
    product = torch.matmul(part.modes.transpose(1, 2), chosen)  # (b, m, s, c)
    rows = torch.view_as_real(product).permute(0, 2, 3, 1, 4).flatten(-2)
    synthesis = circle.synthesis(rows.dtype, rows.device).reshape(-1, circle.angles)
    energy = torch.einsum("bck,bk->bc", power[own], part.filter_power)
    offset = log_density[own] - 0.5 * energy[..., None]
    return (rows @ synthesis).add_(offset[:, None]).add_(part.log_shift[:, None, None])


def _accumulate(
    totals: Statistics,
    part: Observations,
    p: Float[Tensor, "b s c a"],
    circle: Circle,
    own: Int[Tensor, "b c"] | None,
) -> None:
    b, s, c, a = p.shape
    analysis = circle.synthesis(p.dtype, p.device).reshape(-1, a).mT  # columns cos mα, −sin mα
    turned = torch.view_as_complex((p.reshape(-1, a) @ analysis).reshape(b, s, c, -1, 2)).conj()  # Σ_α p e^{imα}
    by_direction, occupancy = p.sum((1, 3)), p.sum(1)
    totals.count += b
    if own is None:
        y = part.modes.reshape(b * s, *part.modes.shape[2:]).transpose(0, 1)  # (m, bs, k)
        totals.first += torch.matmul(turned.reshape(b * s, c, -1).permute(2, 1, 0), y).transpose(0, 1)
        totals.second += by_direction.mT @ part.filter_power
        totals.occupancy += occupancy.sum(0)
        return
    first = torch.matmul(turned.permute(0, 3, 2, 1), part.modes.transpose(1, 2)).transpose(1, 2)  # (b, c, m, k)
    flat = own.reshape(-1)
    totals.first.index_add_(0, flat, first.flatten(0, 1))
    totals.second.index_add_(0, flat, (by_direction[..., None] * part.filter_power[:, None]).flatten(0, 1))
    totals.occupancy.index_add_(0, flat, occupancy.flatten(0, 1))

"""Scores, posterior, marginal likelihood and EM statistics, for every problem in docs/architecture.md.

With observations Y, filters h (``Y`` arrives already multiplied by h: the matched filter), templates T and prior ρ,

    score[j, s, d, α] = (Re Σ_{m,k} Y[j, s, m, k] conj(T[d, m, k]) e^{imα}
                         − ½ Σ_k h²[j, k] Σ_m |T[d, m, k]|²) / σ² + log ρ,

which is the log of the joint density up to ``−½ ‖y_j‖²/σ²`` and the Gaussian's constant.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
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


def expectation(
    observed: Observations, templates: Complex[Tensor, "d m k"], log_density: Float[Tensor, "d a"], circle: Circle,
    chunk_bytes: int = 1 << 24,
) -> Statistics:  # fmt: skip
    """The E-step: one pass over a batch, never holding more than ``chunk_bytes`` of scores."""
    per_item = observed.modes.shape[1] * len(templates) * circle.angles * log_density.element_size()
    parts = observed.chunks(max(1, chunk_bytes // per_item))
    total = None
    for part in parts:
        p, log_likelihood = posterior(scores(part, templates, log_density, circle))
        stats = _accumulate(part, p, circle, float(log_likelihood.double().sum()))
        total = stats if total is None else total.merge(stats)
    if total is None:
        raise ValueError("an E-step needs at least one observation")
    return total


def _accumulate(part: Observations, p: Float[Tensor, "b s d a"], circle: Circle, log_likelihood: float) -> Statistics:
    analysis = circle.synthesis(p.dtype, p.device).reshape(-1, circle.angles).mT  # (a, 2m): (cos, −sin)
    b, s, d, a = p.shape
    q = (p.reshape(-1, a) @ analysis).reshape(b * s, d, -1, 2)
    turned = torch.view_as_complex(q).permute(2, 1, 0)  # (m, d, bs): Σ_α p e^{−imα}
    y = part.modes.reshape(b * s, *part.modes.shape[2:]).transpose(0, 1)  # (m, bs, k)
    first = torch.matmul(turned.conj(), y).transpose(0, 1)
    by_direction = p.sum((1, 3))
    return Statistics(
        first=first,
        second=by_direction.mT @ part.filter_power,
        occupancy=p.sum((0, 1)),
        log_likelihood=log_likelihood,
        count=len(part),
    )

"""Scores, posterior, marginal likelihood and EM statistics, for every problem in ``docs/mathematics.md``.

With observations Y, filters h (``Y`` arrives already multiplied by h: the matched filter), templates T and prior ρ,

    score[j, s, d, α] = (Re Σ_{m,k} Y[j, s, m, k] conj(T[d, m, k]) e^{imα}
                         − ½ Σ_k h²[j, k] Σ_m |T[d, m, k]|²) / σ² + log ρ,

which is the log of the joint density up to ``−½ ‖y_j‖²/σ²`` and the Gaussian's constant.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.inference.significance import significant_samples
from orbitrec.inference.template_bank import TemplateBank
from orbitrec.runtime.distributed import summed

T = TypeVar("T")

CACHED, BUSY = 1 << 21, 1 << 28
"""Bytes of scores held at once: as many as a processor's caches hold, and as many as keep any other device busy."""


@dataclass(frozen=True)
class Observations:
    """A batch of observations in circular modes, in units where the noise variance is one.

    Attributes:
        modes: (b, s, m, k) matched filter ``Y = h·y`` of each observation, at s displacements.
        ctf2_over_noise: (b, k) ``h²``.
        log_shift: (s,) log prior probabilities of the displacements.
        log_outlier: (b,) log odds, before the templates are looked at, that an observation is an outlier: something
            that none of them describes (:func:`expectation`). None where there are no outliers.
    """

    modes: Complex[Tensor, "b s m k"]
    ctf2_over_noise: Float[Tensor, "b k"]
    log_shift: Float[Tensor, "s"]
    log_outlier: Float[Tensor, "b"] | None = None

    def __len__(self) -> int:
        return len(self.modes)

    def chunks(self, size: int) -> Iterator["Observations"]:
        """Consecutive parts of at most ``size`` observations."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            odds = None if self.log_outlier is None else self.log_outlier[part]
            yield Observations(self.modes[part], self.ctf2_over_noise[part], self.log_shift, odds)


def scores(observed: Observations, bank: TemplateBank) -> Float[Tensor, "b s d a"]:
    """Log joint density of every observation with every displacement, direction and angle.

    Args:
        observed: b observations at s displacements.
        bank: templates of d directions, and the log prior of directions and a angles.

    Returns:
        The scores (b, s, d, a) of the module's docstring.
    """
    return _scores(observed, bank, bank.fold.rows(observed.modes), None).permute(1, 2, 3, 0)


def posterior(score: Float[Tensor, "b ..."]) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b"]]:
    """Posterior probabilities and the log marginal likelihood of each observation, (4.20).

    Probabilities are kept above the smallest normal number, far below rounding: computing with subnormal numbers would
    take several times as long as everything else.

    Args:
        score: log joint densities, the observation first. It is overwritten.

    Returns:
        Probabilities in the shape of ``score``, which sum to 1 for each observation, and log marginal likelihoods (b,).
    """
    dims = tuple(range(1, score.ndim))
    peak = score.amax(dims, keepdim=True)
    score.sub_(peak).clamp_(min=_lowest(score[0])).exp_()
    total = score.sum(dims, keepdim=True)
    score.div_(total)
    return score, (peak + total.log()).reshape(len(score))


@dataclass
class Statistics:
    """What EM needs of the data: sums over observations of posterior-weighted, rotated-back modes.

    ``first[d, m, k] = Σ_j Σ_{s,α} p Y e^{imα}``, ``second[d, k] = Σ_j Σ_{s,α} p h²``,
    ``occupancy[d, a] = Σ_j Σ_s p``, ``log_likelihood = Σ_j log p(y_j)``, ``count`` observations.
    """

    first: Complex[Tensor, "d m k"]
    second: Float[Tensor, "d k"]
    occupancy: Float[Tensor, "d a"]
    log_likelihood: float
    count: float

    def to(self, device: str) -> "Statistics":
        """A copy on another device."""
        first, second, occupancy = (each.to(device) for each in (self.first, self.second, self.occupancy))
        return Statistics(first, second, occupancy, self.log_likelihood, self.count)

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of both parts."""
        return Statistics(
            self.first + other.first, self.second + other.second, self.occupancy + other.occupancy,
            self.log_likelihood + other.log_likelihood, self.count + other.count,
        )  # fmt: skip

    def scaled(self, factor: float) -> "Statistics":
        """The statistics with every sum multiplied by a factor, as a running average needs them."""
        return Statistics(
            self.first * factor, self.second * factor, self.occupancy * factor,
            self.log_likelihood * factor, self.count * factor,
        )  # fmt: skip


@dataclass
class Assignment:
    """What the E-step finds of each observation.

    Attributes:
        direction: (b, c) posterior of each candidate direction.
        shift: (b, s) posterior of each displacement.
        best: (b, 3) indices (s, c, a) of the most probable displacement, direction and angle.
        log_likelihood: (b,) log marginal likelihoods of the templates, over that of no signal at all.
        inlier: (b,) posterior probability that the observation is no outlier.
        max_probability: (b,) posterior of the most probable displacement, direction and angle.
        significant: (b,) how many of these are significant (:func:`significant_samples`); zeros if not counted.
    """

    direction: Float[Tensor, "b c"]
    shift: Float[Tensor, "b s"]
    best: Int[Tensor, "b 3"]
    log_likelihood: Float[Tensor, "b"]
    inlier: Float[Tensor, "b"]
    max_probability: Float[Tensor, "b"]
    significant: Int[Tensor, "b"]

    def to(self, device: str) -> "Assignment":
        """A copy on another device."""
        return Assignment(*(each.to(device) for each in vars(self).values()))


def expectation(
    observed: Observations,
    bank: TemplateBank,
    *,
    candidates: Int[Tensor, "b c"] | None = None,
    chunk_bytes: int | None = None,
    counted: bool = False,
) -> tuple[Statistics, Assignment]:
    """The E-step on a batch: posteriors (4.20) and their sums.

    An observation y is a template's with the marginal likelihood p(y), or an outlier with the odds o that it comes
    with, so the sums hold it with the weight ``p(y) / (p(y) + o)`` and its likelihood is ``p(y) + o``, all over the
    likelihood of no signal. What is found of a single observation is given that it is no outlier.

    Args:
        observed: b observations.
        bank: templates and prior, on the same device.
        candidates: (b, c) indices of the directions that each observation is compared with. All other directions are
            taken to have no posterior mass. None compares with all.
        chunk_bytes: size of the scores that are held at a time; by default :data:`CACHED` on a CPU and :data:`BUSY` on
            other devices.
        counted: whether significant samples are counted, for which posteriors are sorted.

    Returns:
        The sums over the batch, and what was found of each observation; both on the templates' device.
    """
    sums = Sums.zeros(bank)
    assignment = sums.add(observed, candidates, chunk_bytes=chunk_bytes, counted=counted)
    return sums.statistics(), assignment


def _log_likelihood(observed: Observations, found: Assignment) -> float:
    """Of all observations, over that of no signal; those that are outliers for certain have no part in it."""
    own = found.log_likelihood.double()
    if observed.log_outlier is not None:
        odds = observed.log_outlier.double()
        own = torch.where(odds == math.inf, 0.0, torch.logaddexp(own, odds))
    return float(own.sum())


# Scores are kept as (a, b, s, d), as the products make them: nothing as large as they are is ever transposed, and sums
# over angles run along the first dimension.


def _scores(
    part: Observations, bank: TemplateBank, rows: Float[Tensor, "q two_r p bs"], own: Int[Tensor, "b c"] | None
) -> Float[Tensor, "a b s c"]:
    (b, s), (q, _, p, _) = part.modes.shape[:2], rows.shape
    if own is None:
        energy, density = part.ctf2_over_noise @ bank.power.mT, bank.log_density  # (b, d), (d, a)
        products = (rows.flatten(2).mT @ bank.rows).reshape(q, p, b, s, -1)
    else:
        energy = torch.einsum("bck,bk->bc", bank.power[own], part.ctf2_over_noise)
        density = bank.log_density[own]  # (b, c, a)
        products = (_by_observation(rows, b) @ bank.rows_by_direction[:, own].mT).unflatten(2, (p, s)).movedim(1, 2)
    level = density[..., 0] - 0.5 * energy if bank.flat else -0.5 * energy
    products = products.contiguous()
    products[0, 0] += part.log_shift[:, None] + level[:, None]  # cos 0 = 1: the same at every angle
    score = bank.synthesis.values(products.reshape(q * p, -1)).unflatten(1, (b, s, -1))
    if not bank.flat:
        score += density.movedim(-1, 0).reshape(len(score), -1, 1, score.shape[-1])
    return score


def _by_observation(rows: Float[Tensor, "q two_r p bs"], b: int) -> Float[Tensor, "q b ps two_r"]:
    return rows.unflatten(3, (b, -1)).permute(0, 3, 2, 4, 1).flatten(2, 3)


def _assigned(
    score: Float[Tensor, "a b s c"], log_outlier: Float[Tensor, "b"] | None, counted: bool
) -> tuple[Float[Tensor, "a b s c"], Assignment]:
    """Posteriors over that of the best sample, which overwrite the scores, and what they say of each observation."""
    columns = score.amax(0)
    peak, place = columns.flatten(1).max(1)
    s, c = torch.unravel_index(place, columns.shape[1:])
    a = score[:, torch.arange(len(peak), device=peak.device), s, c].argmax(0)
    p = score.sub_(peak[:, None, None]).clamp_(min=_lowest(score[:, 0])).exp_()
    pairs = p.sum(0)
    total = pairs.sum((1, 2))
    pairs = pairs / total[:, None, None]
    log_likelihood, highest = peak + total.log(), 1 / total
    number = significant_samples(p.movedim(1, 0) * highest[:, None, None, None]) if counted else torch.zeros_like(a)
    inlier = torch.ones_like(log_likelihood)
    if log_outlier is not None:
        inlier = torch.sigmoid(log_likelihood - log_outlier)
    best = torch.stack([s, c, a], dim=1)
    return p, Assignment(pairs.sum(1), pairs.sum(2), best, log_likelihood, inlier, highest, number)


def _lowest(score: Tensor) -> float:
    """Log probability, over the best one's, below which none of an observation's samples is taken to be."""
    return math.log(torch.finfo(score.dtype).tiny * 2 * score.numel())


@dataclass
class Sums:
    """Sums of E-steps over observations, as the bank's products make them (:class:`Statistics`).

    Attributes:
        bank: templates and prior.
        first: (q, 2r, d) in rows of the bank's fold.
        second: (d, k).
        occupancy: (a, d).
        scalars: (2,) log-likelihood and number of observations, float64.
    """

    bank: TemplateBank
    first: Float[Tensor, "q two_r d"]
    second: Float[Tensor, "d k"]
    occupancy: Float[Tensor, "a d"]
    scalars: Float[Tensor, "2"]

    @classmethod
    def zeros(cls, bank: TemplateBank) -> "Sums":
        """The sums over no observations."""
        occupancy = torch.zeros_like(bank.log_density.mT)
        scalars = torch.zeros(2, dtype=torch.float64)
        return cls(bank, torch.zeros_like(bank.rows), torch.zeros_like(bank.power), occupancy, scalars)

    @classmethod
    def of_parts(cls, bank: TemplateBank, parts: Sequence[T], add: Callable[["Sums", T], None]) -> "Sums":
        """The sums over several parts of the observations, each part computed by one process.

        Args:
            bank: templates and prior.
            parts: of the observations.
            add: adds those of a part.

        Returns:
            Their sum, the same in every process.
        """

        def of_part(part: T) -> list[Tensor]:
            own = cls.zeros(bank)
            add(own, part)
            return [own.first, own.second, own.occupancy, own.scalars]

        return cls(bank, *summed(parts, of_part))

    def add(
        self,
        observed: Observations,
        candidates: Int[Tensor, "b c"] | None,
        *,
        chunk_bytes: int | None = None,
        counted: bool = False,
    ) -> Assignment:
        """Add the E-step's sums over a batch (:func:`expectation`).

        Args:
            observed: b observations.
            candidates: (b, c) indices of the directions that each observation is compared with; None for all.
            chunk_bytes: size of the scores that are held at a time.
            counted: whether significant samples are counted.

        Returns:
            What was found of each observation.
        """
        bank = self.bank
        if chunk_bytes is None:
            chunk_bytes = CACHED if bank.templates.device.type == "cpu" else BUSY
        directions = len(bank) if candidates is None else candidates.shape[1]
        shifts, angles = observed.modes.shape[1], bank.circle.angles
        size = max(1, chunk_bytes // (shifts * directions * angles * bank.log_density.element_size()))
        parts = []
        for start, part in zip(range(0, len(observed), size), observed.chunks(size), strict=True):
            own = None if candidates is None else candidates[start : start + size].to(bank.templates.device)
            rows = bank.fold.rows(part.modes)
            p, found = _assigned(_scores(part, bank, rows, own), part.log_outlier, counted)
            parts.append(vars(found).values())
            self._add(part, rows, p, found, own)
        assigned = Assignment(*(torch.cat(column) for column in zip(*parts, strict=True)))
        self.scalars += torch.tensor([_log_likelihood(observed, assigned), len(observed)], dtype=torch.float64)
        return assigned

    def _add(
        self,
        part: Observations,
        rows: Float[Tensor, "q two_r p bs"],
        p: Float[Tensor, "a b s c"],
        found: Assignment,
        own: Int[Tensor, "b c"] | None,
    ) -> None:
        (b, s, c), q = p.shape[1:], len(rows)
        weight = found.inlier * found.max_probability  # what is left of the posterior's normalisation
        repeated = weight.repeat_interleave(s)
        rows = rows * repeated
        planes = self.bank.synthesis.adjoint(p.flatten(1)).unflatten(0, (q, -1))  # (q, p, bsc)
        by_direction = found.direction * found.inlier[:, None]
        if own is None:
            self.first.baddbmm_(rows.flatten(2), planes.reshape(q, -1, c))
            self.second += by_direction.mT @ part.ctf2_over_noise
            self.occupancy += repeated @ p.flatten(1, 2)
            return
        flat = own.reshape(-1)
        by_observation = planes.unflatten(2, (b, s, c)).movedim(1, 2).reshape(q, b, -1, c)
        first = _by_observation(rows, b).mT @ by_observation  # (q, b, 2r, c)
        _add_at(self.first, 2, flat, first.transpose(1, 2).flatten(2))
        _add_at(self.second, 0, flat, (by_direction[..., None] * part.ctf2_over_noise[:, None]).flatten(0, 1))
        _add_at(self.occupancy, 1, flat, (p.sum(2) * weight[:, None]).flatten(1))

    def statistics(self) -> Statistics:
        """The sums in the templates' coordinates."""
        m, k = self.bank.templates.shape[1:]
        log_likelihood, count = self.scalars.tolist()
        first = self.bank.fold.unfolded(self.first, (m, k))
        return Statistics(first, self.second, self.occupancy.mT, log_likelihood, count)


def _add_at(total: Float[Tensor, "..."], dim: int, index: Int[Tensor, "i"], values: Float[Tensor, "..."]) -> None:
    """``total[index] += values`` along ``dim``, an index repeated or not, in the same order every time.

    A GPU's ``index_add_`` adds in whatever order its threads come; its ``index_put_`` sorts the indices first.
    """
    if total.device.type == "cpu":
        total.index_add_(dim, index, values)
    else:
        total.movedim(dim, 0).index_put_((index,), values.movedim(dim, 0), accumulate=True)

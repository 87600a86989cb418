"""Ab initio by likelihood: starts from moments and from faint noise, the best by held-out likelihood, then marching.

1. *Starts.* At a low bandwidth every start climbs by stochastic EM on small batches with discounted sufficient
   statistics, centred images and no search over shifts. A batch costs a fraction of a second.
2. *Selection.* The starts are ranked by the log-likelihood of held-out particles, the better half goes on to the next
   bandwidth, and the best of those is kept.
3. *Marching.* One global pass gives every particle a posterior over directions. From there on the search is narrowed:
   at each finer level a particle looks only at the directions near those its last posterior favoured, and at shifts
   around its present centre.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.pose_search import NO_SHIFT, ParticleState, sweep
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.starts import Start, random_starts
from orbitrec.evaluation.alignment import align
from orbitrec.inference.likelihood import Statistics, expectation, summed_statistics
from orbitrec.runtime.distributed import FEWEST, shards
from orbitrec.runtime.progress import RunState, restored

Report = Callable[[str, ResolutionLevel, VolumeAndViews, float, int], None]
"""Called after every step with (stage, level, model, log-likelihood per particle, number of particles seen)."""


@dataclass(frozen=True)
class Schedule:
    """Sizes of the search; bandwidths are ``radius · k_max``.

    ``matched`` starts from moments and ``starts`` random ones make ``start_steps`` EM steps of ``start_batch`` images
    at ``start_bandwidth``, then ``settle_steps`` of ``settle_batch``; half of them make ``select_steps`` of
    ``select_batch`` at ``select_bandwidth``; the best marches through the bandwidths ``march`` with ``sweeps`` passes
    each, looking at ``candidates`` directions for each particle.
    """

    matched: int = 2
    starts: int = 6
    start_bandwidth: float = 14.0
    start_steps: int = 80
    start_batch: int = 100
    settle_steps: int = 10
    settle_batch: int = 500
    select_bandwidth: float = 19.0
    select_steps: int = 40
    select_batch: int = 300
    held_out: int = 1000
    march: tuple[float, ...] = (19.0, 24.0, 28.0)
    sweeps: int = 2
    candidates: int = 32
    batch: int = 1000

    def held_out_of(self, count: int) -> int:
        """How many of ``count`` particles are held out to rank the starts: at most a fifth."""
        return min(self.held_out, count // 5)


@dataclass(frozen=True)
class PosedVolume:
    """Result of the march: the finest ``level``, its ``model``, what is known of each particle and its pose.

    ``rotations``: (N, 3, 3); ``shifts_px``: (N, 2) displacement of the content, pixels.
    """

    level: ResolutionLevel
    model: VolumeAndViews
    particles: ParticleState
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]


@dataclass(frozen=True)
class Candidate:
    """A start that went on to the second level.

    ``score``: its held-out likelihood there; ``agreement``: correlation of its map with the chosen one's, over the best
    rotation, shift and hand.
    """

    start: int
    score: float
    agreement: float


@dataclass(frozen=True)
class Selection:
    """The best start: its ``model`` at ``level`` and index ``chosen``; every start's kind and held-out likelihood."""

    level: ResolutionLevel
    model: VolumeAndViews
    chosen: int
    kinds: list[str]
    scores: list[float]
    finalists: list[Candidate]


@dataclass
class _Climb:
    """A model with the discounted statistics it was made from."""

    model: VolumeAndViews
    statistics: Statistics | None = None

    def step(self, level: ResolutionLevel, statistics: Statistics, keep: float) -> None:
        old = self.statistics
        self.statistics = statistics if old is None else old.scaled(keep).merge(statistics)
        self.model = level.maximisation(self.model, self.statistics)


def climb(
    data: ParticleModes,
    level: ResolutionLevel,
    model: VolumeAndViews,
    centres: Float[Tensor, "N 2"],
    batches: Iterator[tuple[Int[Tensor, "b"], float]],
    report: Callable[[ResolutionLevel, VolumeAndViews, float, int], None],
) -> VolumeAndViews:
    """Stochastic EM without shifts over ``batches`` of (rows, share of the old statistics that is kept)."""
    state = _Climb(model)
    for rows, keep in batches:
        statistics = _unshifted(data, level, state.model, centres, rows)
        state.step(level, statistics, keep)
        report(level, state.model, statistics.log_likelihood / len(rows), len(rows))
    return state.model


def held_out_likelihood(
    data: ParticleModes,
    level: ResolutionLevel,
    model: VolumeAndViews,
    centres: Float[Tensor, "N 2"],
    rows: Int[Tensor, "h"],
) -> float:
    """Mean log-likelihood of the particles ``rows``."""
    statistics = _unshifted(data, level, model, centres, rows)
    return statistics.log_likelihood / statistics.count


def _unshifted(
    data: ParticleModes,
    level: ResolutionLevel,
    model: VolumeAndViews,
    centres: Float[Tensor, "N 2"],
    rows: Int[Tensor, "b"],
) -> Statistics:
    """The E-step without shifts, of the particles ``rows`` of all processes."""
    bank = level.bank(model)

    def statistics(own: Int[Tensor, "b"]) -> Statistics:
        observed = data.observations(own, level.grid, centres[own], NO_SHIFT, torch.zeros(1))
        return expectation(observed, bank)[0]

    return summed_statistics(shards(rows, FEWEST), statistics)


def random_batches(
    pool: Int[Tensor, "P"], size: int, steps: int, keep: float, generator: torch.Generator
) -> Iterator[tuple[Int[Tensor, "b"], float]]:
    """``steps`` batches drawn without replacement within each."""
    for _ in range(steps):
        yield pool[torch.randperm(len(pool), generator=generator)[:size]], keep


def multi_start(
    data: ParticleModes,
    radius: float,
    centres: Float[Tensor, "N 2"],
    schedule: Schedule,
    journal: RunState,
    report: Report,
    matched: Callable[[ResolutionLevel], list[Start]] = lambda level: [],
) -> Selection:
    """Steps 1 and 2 of the module's plan; ``matched`` makes starts from moments for the first level."""
    generator = journal.generator
    order = torch.randperm(len(data), generator=generator)
    held, pool = order.tensor_split([schedule.held_out_of(len(data))])
    low = ResolutionLevel.at(data.grid, radius, schedule.start_bandwidth, device=data.device)
    high = ResolutionLevel.at(data.grid, radius, schedule.select_bandwidth, device=data.device)
    power = data.ctf2_over_noise(pool).mean(0)

    def begun() -> dict[str, object]:
        starts = [*matched(low), *random_starts(low, power, schedule.starts, generator)]
        models = {field.name: torch.stack([getattr(start.model, field.name) for start in starts])
                  for field in fields(VolumeAndViews)}  # fmt: skip
        return {"kinds": [start.kind for start in starts], **models}

    def climbed(
        level: ResolutionLevel, model: VolumeAndViews, batches: list[tuple[int, int, float]], name: str
    ) -> dict[str, object]:
        for size, steps, keep in batches:
            drawn = random_batches(pool, size, steps, keep, generator)
            model = climb(data, level, model, centres, drawn, partial(report, name))
        return {**vars(model), "score": held_out_likelihood(data, level, model, centres, held)}

    starts = journal.step("starts", begun)
    kinds, models = starts.pop("kinds"), [VolumeAndViews(*pair) for pair in zip(*starts.values(), strict=True)]
    first = [(schedule.start_batch, schedule.start_steps, 0.95), (schedule.settle_batch, schedule.settle_steps, 0.8)]
    started: list[dict[str, Any]] = []
    for index, model in enumerate(models):
        name = f"start {index + 1}"
        started.append(journal.step(name, partial(climbed, low, model, first, name)))
    ranked = sorted(range(len(started)), key=lambda i: -started[i]["score"])
    second = [(schedule.select_batch, schedule.select_steps, 0.9)]
    finalists: dict[int, dict[str, Any]] = {}
    for index in ranked[: math.ceil(len(models) / 2)]:
        name = f"select {index + 1}"
        model = low.prolongated(restored(VolumeAndViews, started[index]), high)
        finalists[index] = journal.step(name, partial(climbed, high, model, second, name))
    chosen = max(finalists, key=lambda index: finalists[index]["score"])
    scores = [found["score"] for found in started]
    best = restored(VolumeAndViews, finalists[chosen])
    compared = [
        Candidate(
            index, found["score"], 1.0 if index == chosen else _agreement(high, restored(VolumeAndViews, found), best)
        )
        for index, found in finalists.items()
    ]
    return Selection(high, best, chosen, kinds, scores, compared)


def _agreement(level: ResolutionLevel, model: VolumeAndViews, other: VolumeAndViews) -> float:
    return align(*(level.density(each)[0] for each in (model, other))).correlation


@dataclass
class _Marching:
    """Where the march is: sweeps made, the climb, what is known of the particles, and their poses."""

    sweeps: int
    climb: _Climb
    particles: ParticleState
    rotations: Float[Tensor, "N 3 3"] | None = None
    shifts_px: Float[Tensor, "N 2"] | None = None

    def record(self) -> dict[str, object]:
        own = {"sweeps": self.sweeps, "rotations": self.rotations, "shifts_px": self.shifts_px}
        return {**own, **vars(self.climb.model), **vars(self.climb.statistics), **vars(self.particles)}

    @classmethod
    def of(cls, record: dict[str, Any], device: str) -> "_Marching":
        climb = _Climb(restored(VolumeAndViews, record), restored(Statistics, record).to(device))
        particles = restored(ParticleState, record)
        return cls(record["sweeps"], climb, particles, record["rotations"], record["shifts_px"])


def march(
    data: ParticleModes,
    radius: float,
    level: ResolutionLevel,
    model: VolumeAndViews,
    particles: ParticleState,
    schedule: Schedule,
    journal: RunState,
    report: Report,
) -> PosedVolume:
    """Step 3 of the module's plan, from a model at the first bandwidth of ``schedule.march``."""
    bandwidths = [bandwidth for bandwidth in schedule.march for _ in range(schedule.sweeps)]
    if not bandwidths:
        raise ValueError("the march needs at least one bandwidth and one sweep")
    state, saved = _Marching(0, _Climb(model), particles), journal.load("march")
    if saved is not None:
        state = _Marching.of(saved, data.device)
        level = ResolutionLevel.at(data.grid, radius, bandwidths[state.sweeps - 1], level.basis.group, data.device)
    for bandwidth in bandwidths[state.sweeps :]:
        climbing, particles = state.climb, state.particles
        if bandwidth != level.bandwidth:
            finer = ResolutionLevel.at(data.grid, radius, bandwidth, level.basis.group, data.device)
            if particles.directions is not None:
                particles.directions = particles.directions @ finer.directional_kernel(level).mT
            level, climbing = finer, _Climb(level.prolongated(climbing.model, finer))
        order = torch.randperm(len(data), generator=journal.generator)
        poses = sweep(
            data, level, climbing, particles, order, partial(report, f"march to bandwidth {bandwidth:g}"),
            candidates=schedule.candidates, batch=schedule.batch,
        )  # fmt: skip
        swept = _Marching(state.sweeps + 1, climbing, particles, *poses)
        state = _Marching.of(journal.save("march", swept.record()), data.device)
    assert state.rotations is not None
    assert state.shifts_px is not None
    return PosedVolume(level, state.climb.model, state.particles, state.rotations, state.shifts_px)

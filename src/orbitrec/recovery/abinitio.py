"""Ab initio by likelihood: many faint random starts, the best by held-out likelihood, then resolution marching.

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
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.geometry.rotations import direction_frames, in_plane
from orbitrec.inference.likelihood import Assignment, Statistics
from orbitrec.recovery.centring import shift_grid
from orbitrec.recovery.preparation import ParticleModes
from orbitrec.recovery.search import Model, SearchLevel

Report = Callable[[str, SearchLevel, Model, float], None]
"""Called after every stage's step with (stage, level, model, log-likelihood per particle)."""


@dataclass(frozen=True)
class Schedule:
    """Sizes of the search; bandwidths are ``radius · k_max``.

    ``starts`` random starts make ``start_steps`` EM steps of ``start_batch`` images at ``start_bandwidth``; half of them
    make ``select_steps`` of ``select_batch`` at ``select_bandwidth``; the best marches through ``march`` bandwidths with
    ``sweeps`` passes each, ``candidates`` directions per particle.
    """

    starts: int = 8
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


@dataclass
class ParticleState:
    """What is known of each particle between levels: centre (N, 2) px and direction posterior (N, d)."""

    centres: Float[Tensor, "N 2"]
    residual_px: float
    directions: Float[Tensor, "N d"] | None = None


@dataclass(frozen=True)
class AbInitio:
    """Result: the finest ``level``, its ``model``, each particle's pose and the held-out likelihood of each start.

    ``rotations``: (N, 3, 3); ``shifts_px``: (N, 2) displacement of the content, pixels.
    """

    level: SearchLevel
    model: Model
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    start_scores: list[float] = field(default_factory=list)


NO_SHIFT = torch.zeros(1, 2, dtype=torch.float64)


@dataclass
class _Climb:
    """A model with the discounted statistics it was made from."""

    model: Model
    statistics: Statistics | None = None

    def step(self, level: SearchLevel, statistics: Statistics, keep: float) -> None:
        old = self.statistics
        self.statistics = statistics if old is None else old.scaled(keep).merge(statistics)
        self.model = level.maximisation(self.model, self.statistics)


def climb(
    data: ParticleModes,
    level: SearchLevel,
    model: Model,
    centres: Float[Tensor, "N 2"],
    batches: Iterator[tuple[Int[Tensor, "b"], float]],
) -> Iterator[tuple[Model, float]]:
    """Stochastic EM without shifts over ``batches`` of (rows, share of old statistics kept); yields every step."""
    state = _Climb(model)
    for rows, keep in batches:
        observed = data.observations(rows, level.grid, centres[rows], NO_SHIFT, torch.zeros(1))
        statistics, _ = level.expectation(state.model, observed)
        state.step(level, statistics, keep)
        yield state.model, statistics.log_likelihood / statistics.count


def held_out_likelihood(
    data: ParticleModes, level: SearchLevel, model: Model, centres: Float[Tensor, "N 2"], rows: Int[Tensor, "h"]
) -> float:
    """Mean log-likelihood of the particles ``rows``."""
    observed = data.observations(rows, level.grid, centres[rows], NO_SHIFT, torch.zeros(1))
    statistics, _ = level.expectation(model, observed)
    return statistics.log_likelihood / statistics.count


def random_batches(
    pool: Int[Tensor, "P"], size: int, steps: int, keep: float, generator: torch.Generator
) -> Iterator[tuple[Int[Tensor, "b"], float]]:
    """``steps`` batches drawn without replacement within each."""
    for _ in range(steps):
        yield pool[torch.randperm(len(pool), generator=generator)[:size]], keep


def best_start(
    data: ParticleModes,
    radius: float,
    centres: Float[Tensor, "N 2"],
    schedule: Schedule,
    generator: torch.Generator,
    report: Report,
) -> tuple[SearchLevel, Model, list[float]]:
    """Steps 1 and 2 of the module's plan: the selected model, its level, and every start's held-out likelihood."""
    order = torch.randperm(len(data), generator=generator)
    held, pool = order[: min(schedule.held_out, len(data) // 5)], order[min(schedule.held_out, len(data) // 5) :]
    low = SearchLevel.at(data.grid, radius, schedule.start_bandwidth)
    high = SearchLevel.at(data.grid, radius, schedule.select_bandwidth)
    power = data.filter_power(pool).mean(0)
    started: list[tuple[float, Model]] = []
    for index in range(schedule.starts):
        model = low.random_model(generator, power)
        for size, steps, keep in (
            (schedule.start_batch, schedule.start_steps, 0.95),
            (schedule.settle_batch, schedule.settle_steps, 0.8),
        ):
            for model, likelihood in climb(
                data, low, model, centres, random_batches(pool, size, steps, keep, generator)
            ):
                report(f"start {index + 1}", low, model, likelihood)
        started.append((held_out_likelihood(data, low, model, centres, held), model))
    ranked = sorted(range(len(started)), key=lambda i: -started[i][0])
    finalists: list[tuple[float, Model]] = []
    for index in ranked[: math.ceil(schedule.starts / 2)]:
        model = low.carried(started[index][1], high)
        batches = random_batches(pool, schedule.select_batch, schedule.select_steps, 0.9, generator)
        for model, likelihood in climb(data, high, model, centres, batches):
            report(f"select {index + 1}", high, model, likelihood)
        finalists.append((held_out_likelihood(data, high, model, centres, held), model))
    return high, max(finalists, key=lambda f: f[0])[1], [score for score, _ in started]


def sweep(
    data: ParticleModes,
    level: SearchLevel,
    climbing: _Climb,
    particles: ParticleState,
    schedule: Schedule,
    order: Int[Tensor, "N"],
    *,
    update: bool = True,
) -> Iterator[tuple[Int[Tensor, "b"], Assignment, Float[Tensor, "s 2"], Float[Tensor, "b c"] | None, float]]:
    """One pass over all particles in ``order``; the model is updated after every batch unless told not to."""
    k_max = float(level.grid.nodes[-1])
    shifts = shift_grid(min(2.5 * particles.residual_px, 12 / k_max), 1.2 / k_max)
    log_shift = torch.log_softmax(-shifts.square().sum(1) / (2 * particles.residual_px**2), dim=0)
    nearest = (
        None
        if particles.directions is None
        else particles.directions.topk(min(schedule.candidates, len(level.directions)), dim=1).indices
    )
    keep = 1 - min(1.0, schedule.batch / len(data))
    for rows in order.split(schedule.batch):
        observed = data.observations(rows, level.grid, particles.centres[rows], shifts, log_shift)
        own = None if nearest is None else nearest[rows]
        statistics, assigned = level.expectation(climbing.model, observed, own)
        if update:
            climbing.step(level, statistics, keep)
        yield rows, assigned, shifts, own, statistics.log_likelihood / statistics.count


def march(
    data: ParticleModes,
    radius: float,
    level: SearchLevel,
    model: Model,
    particles: ParticleState,
    schedule: Schedule,
    generator: torch.Generator,
    report: Report,
) -> AbInitio:
    """Step 3 of the module's plan, from a model at the first bandwidth of ``schedule.march``."""
    poses = None
    for bandwidth in schedule.march:
        if bandwidth != level.bandwidth:
            finer = SearchLevel.at(data.grid, radius, bandwidth)
            if particles.directions is not None:
                particles.directions = particles.directions @ finer.directional_kernel(level).mT
            level, model = finer, level.carried(model, finer)
        climbing = _Climb(model)
        for _ in range(schedule.sweeps):
            order = torch.randperm(len(data), generator=generator)
            poses = _swept(data, level, climbing, particles, schedule, order, report)
        model = climbing.model
    if poses is None:
        raise ValueError("the march needs at least one bandwidth and one sweep")
    return AbInitio(level, model, *poses)


def _swept(
    data: ParticleModes,
    level: SearchLevel,
    climbing: _Climb,
    particles: ParticleState,
    schedule: Schedule,
    order: Int[Tensor, "N"],
    report: Report,
) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]]:
    """One sweep that brings the particles' state up to date; returns the most probable poses."""
    frames = direction_frames(level.directions)
    rotations = torch.empty(len(data), 3, 3, dtype=torch.float64)
    shifts_px = torch.empty(len(data), 2, dtype=torch.float64)
    found = torch.zeros(len(data), len(level.directions))
    moved, variance = particles.centres.clone(), 0.0
    for rows, assigned, shifts, own, likelihood in sweep(data, level, climbing, particles, schedule, order):
        s, c, a = assigned.best.unbind(1)
        d = c if own is None else own.gather(1, c[:, None]).squeeze(1)
        rotations[rows] = frames[d] @ in_plane(-level.circle.alphas[a])
        shifts_px[rows] = particles.centres[rows] + shifts[s]
        columns = torch.arange(len(level.directions)).expand(len(rows), -1) if own is None else own
        found[rows] = found[rows].scatter(1, columns, assigned.direction)
        weight = assigned.shift.double()
        mean = weight @ shifts
        moved[rows] += mean
        variance += float((weight @ shifts.square().sum(1) - mean.square().sum(1)).sum() / 2)
        report(f"march to bandwidth {level.bandwidth:g}", level, climbing.model, likelihood)
    particles.centres = moved
    # The lattice of shifts cannot tell less than its own spacing, nor should the next search be narrower than it.
    particles.residual_px = max((variance / len(data)) ** 0.5, 0.4 / float(level.grid.nodes[-1]))
    particles.directions = found @ level.directional_kernel(level).mT
    return rotations, shifts_px

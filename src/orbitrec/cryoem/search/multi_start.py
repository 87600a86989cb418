"""Many starts at a low resolution, the best of which goes on.

At a low bandwidth every start makes EM steps on small batches with discounted statistics, on centred images and without
a search over shifts: a batch costs a fraction of a second. Starts are ranked by the log-likelihood of particles that
were held out; the better half goes on to the next bandwidth, and the best of those is kept. Where the best two of the
first half of the starts end there in the same map, the others would only find it again, and are left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.config import AbInitioConfig, Schedule
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.likelihood import centred_likelihood, given_views
from orbitrec.cryoem.search.starts import Start, random_starts, seeded_spheres
from orbitrec.evaluation.alignment import align
from orbitrec.inference.orbit_likelihood import OrbitLikelihood
from orbitrec.optim.driver import continued, run
from orbitrec.optim.online import OnlineEM
from orbitrec.optim.problem import em_map
from orbitrec.optim.solvers import Solver
from orbitrec.optim.termination import StepInfo, Termination
from orbitrec.runtime.progress import RunState, Stage, restored

SAME_MAP = 0.98
"""Correlation, after alignment, above which two starts have found the same map. Wrong ones have come to 0.96."""


@dataclass(frozen=True)
class Candidate:
    """A start that went on to the second level.

    Attributes:
        start: its index.
        score: its held-out log-likelihood there, of one particle.
        agreement: correlation of its map with the chosen one's, after alignment over rotation, shift and handedness.
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
    candidates: list[Candidate]


WentOn = Callable[[int, ResolutionLevel, VolumeAndViews], tuple[VolumeAndViews, float]]
"""A function of a start's number, the first level and its model there: the model at the second level, and its score."""


@dataclass(frozen=True)
class OnlinePhase:
    """Steps of online EM.

    Attributes:
        batch: particles in a batch.
        steps: how many.
        kept: share of the old statistics that every step keeps.
    """

    batch: int
    steps: int
    kept: float


def held_out_likelihood(
    data: ParticleModes,
    level: ResolutionLevel,
    model: VolumeAndViews,
    centres: Float[Tensor, "N 2"],
    rows: Int[Tensor, "h"],
) -> float:
    """The mean log-likelihood of some particles, over that of images without a particle.

    Args:
        data: the particles.
        level: the resolution.
        model: volume and views.
        centres: (N, 2) displacement of each particle's content, in pixels.
        rows: (h,) indices of the particles.

    Returns:
        The log-likelihood of one particle.
    """
    statistics = centred_likelihood(data, level, centres, rows).statistics(level.unknowns(model))
    return statistics.log_likelihood / statistics.count


def in_rounds(
    problem: OrbitLikelihood,
    level: ResolutionLevel,
    model: VolumeAndViews,
    solver: Solver,
    schedule: Schedule,
    seed: int,
    callback: Callable[[StepInfo], None],
) -> VolumeAndViews:
    """Improve a model at one resolution by a solver other than online EM.

    Each round has its own objective, with the views of the last round and a prior from the power of its volume, so that
    the volume can grow from round to round.

    Args:
        problem: the likelihood of volume and views.
        level: its resolution.
        model: where to begin.
        solver: the method.
        schedule: its rounds and their passes.
        seed: of its random numbers.
        callback: called after every epoch of the solver.

    Returns:
        The model after the last round.
    """
    termination = Termination(measured=schedule.round_passes, least_epochs=2)
    for number in range(schedule.rounds):
        own = given_views(problem, level, model)
        found = run(solver, own, model.coefficients.double(), termination, seed=seed + number, callback=callback)
        model = replace(model, coefficients=found.w.to(model.coefficients.dtype))
        _, moved = em_map(problem, level.unknowns(model), None)
        model = replace(model, log_views=level.model(moved).log_views)
    return model


@dataclass(frozen=True)
class _MultiStart:
    """What the steps of every start have in common."""

    data: ParticleModes
    centres: Float[Tensor, "N 2"]
    pool: Int[Tensor, "P"]
    held: Int[Tensor, "h"]
    config: AbInitioConfig
    schedule: Schedule
    run: RunState

    def improved(
        self, level: ResolutionLevel, model: VolumeAndViews, phases: list[OnlinePhase], stage: Stage, number: int
    ) -> dict[str, object]:
        """A model after all steps of a stage, and its held-out likelihood, as a record."""
        problem = centred_likelihood(self.data, level, self.centres, self.pool)
        resolution = self.data.resolution_A(level.basis.k_max)

        done = 0.0

        def callback(info: StepInfo) -> None:
            nonlocal done
            before = 0.0 if info.cost.epochs == 1 else done  # a solver begins to count anew in every round and phase
            done = info.cost.measured
            self.run.record(stage, str(number), resolution, -info.value)
            self.run.advance(stage, (done - before) * len(self.pool), f"start {number}")

        if self.config.solver is not None:
            model = in_rounds(problem, level, model, self.config.solver, self.schedule, self.config.seed, callback)
        for phase in phases if self.config.solver is None else []:
            solver = OnlineEM(min(phase.batch, len(self.pool)), phase.kept, passes=False)
            begun = solver.init(problem, level.unknowns(model))
            model = level.model(continued(solver, problem, begun, self.run.generator, phase.steps, callback).w)
        score = held_out_likelihood(self.data, level, model, self.centres, self.held)
        return {**vars(model), "score": score}


def multi_start(
    data: ParticleModes,
    radius: float,
    centres: Float[Tensor, "N 2"],
    config: AbInitioConfig,
    schedule: Schedule,
    run: RunState,
    matched: Callable[[ResolutionLevel], list[Start]] = lambda level: [],
    went_on: WentOn | None = None,
) -> Selection:
    """Improve all starts, rank them by held-out likelihood, and choose the best at the second bandwidth.

    Args:
        data: the particles.
        radius: of the particle's ball, in pixels.
        centres: (N, 2) displacement of each particle's content, in pixels.
        config: of the search.
        schedule: its sizes for these particles.
        run: keeps a record of every start.
        matched: makes starts from the stack's moments at the first level.
        went_on: improves a candidate at the second bandwidth; if None, online EM on centred particles does.

    Returns:
        The chosen start, and the likelihoods of the others.
    """
    generator = run.generator
    order = torch.randperm(len(data), generator=generator)
    order = order[data.inliers()[order]]
    held, pool = order.tensor_split([schedule.held_out_of(len(order))])
    low, high = (
        ResolutionLevel.at(data.grid, radius, bandwidth, config.start_group, data.device)
        for bandwidth in (schedule.start_bandwidth, schedule.select_bandwidth)
    )
    common = _MultiStart(data, centres, pool, held, config, schedule, run)

    def begun() -> dict[str, object]:
        if config.start_group.polyhedral:  # where these differ from a sphere, moments have too many entries
            starts = seeded_spheres(low, data, centres, config.starts, generator)
        else:
            power = data.ctf2_over_noise(pool).mean(0)
            starts = [*matched(low), *random_starts(low, power, config.random, generator)]
        models = {
            part.name: torch.stack([getattr(start.model, part.name) for start in starts])
            for part in fields(VolumeAndViews)
        }
        return {"kinds": [start.kind for start in starts], **models}

    starts = run.step("starts", begun)
    kinds = starts.pop("kinds")
    models = [VolumeAndViews(*pair) for pair in zip(*starts.values(), strict=True)]
    first = [
        OnlinePhase(schedule.start_batch, schedule.start_steps, 0.95),
        OnlinePhase(schedule.settle_batch, schedule.settle_steps, 0.8),
    ]
    second = [OnlinePhase(schedule.select_batch, schedule.select_steps, 0.9)]

    def started(i: int) -> dict[str, Any]:
        return run.step(f"start {i + 1}", partial(common.improved, low, models[i], first, Stage.STARTS, i + 1))

    def centred_steps(number: int, level: ResolutionLevel, model: VolumeAndViews) -> tuple[VolumeAndViews, float]:
        begun = level.prolongated(model, high)
        found = run.step(f"select {number}", partial(common.improved, high, begun, second, Stage.SELECTION, number))
        return restored(VolumeAndViews, found), found["score"]

    went_on = centred_steps if went_on is None else went_on
    improved: list[dict[str, Any]] = []
    candidates: dict[int, tuple[VolumeAndViews, float]] = {}
    for count in _rounds(len(models)):
        improved += [started(i) for i in range(len(improved), count)]
        ranked = sorted(set(range(count)) - set(candidates), key=lambda i: -improved[i]["score"])
        for i in ranked[: math.ceil(count / 2) - len(candidates)]:
            candidates[i] = went_on(i + 1, low, restored(VolumeAndViews, improved[i]))
        # Shells under T, O and I are alike whether they are right or wrong.
        if count == len(models) or high.basis.group.polyhedral:
            continue
        if _agreement(high, *(model for model, _ in candidates.values())) > SAME_MAP:
            drawn = went_on is not centred_steps
            run.total -= sum(
                sign * work_of_starts(number, len(data), config, schedule, drawn)
                for sign, number in ((1, len(models)), (-1, count))
            )
            break
    chosen = max(candidates, key=lambda i: candidates[i][1])
    best = candidates[chosen][0]
    compared = [
        Candidate(i, score, 1.0 if i == chosen else _agreement(high, model, best))
        for i, (model, score) in candidates.items()
    ]
    return Selection(high, best, chosen, kinds[: len(improved)], [found["score"] for found in improved], compared)


def _rounds(starts: int) -> list[int]:
    """How many of the starts have been improved after each round: half of them, then all, if half of them are four."""
    return [starts // 2, starts] if starts >= 8 else [starts]


def work_of_starts(starts: int, count: int, config: AbInitioConfig, schedule: Schedule, drawn: bool) -> float:
    """Cost of so many starts and of the better half of them at the second bandwidth, as :attr:`Stage.cost` counts it.

    Args:
        starts: how many.
        count: of the particles.
        config: of the run.
        schedule: its sizes.
        drawn: whether displacements are drawn.

    Returns:
        Cost of an image times images.
    """
    pool = count - schedule.held_out_of(count)
    start, settle, select = (
        steps * min(batch, pool)
        for steps, batch in (
            (schedule.start_steps, schedule.start_batch),
            (schedule.settle_steps, schedule.settle_batch),
            (schedule.select_steps, schedule.select_batch),
        )
    )
    if config.solver is not None:
        rounds = schedule.rounds * schedule.round_passes * pool
        start, settle, select = rounds, 0.0, rounds
    if drawn:
        select = (schedule.first_trials + schedule.second_trials) * count
    selected = math.ceil(starts / 2)
    return Stage.STARTS.cost * starts * (start + settle) + Stage.SELECTION.cost * selected * select


def _agreement(level: ResolutionLevel, model: VolumeAndViews, other: VolumeAndViews) -> float:
    return align(*(level.density(each)[0] for each in (model, other))).correlation

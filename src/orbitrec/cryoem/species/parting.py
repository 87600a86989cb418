"""Parting a stack: K random volumes climb together until each particle can be told to be of one of them.

They are compared with the same batches by online EM at the first bandwidths of the search for one map. Several sets of
random volumes are tried, and the one goes on that explains particles best that it has not seen: a set of volumes that
has missed a structure explains that one's particles by others. Shares stay equal at first, so that none of the volumes
is given up while they are all alike; one that has died nevertheless begins anew as a part of the most populous one, if
that explains more.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.config import Schedule
from orbitrec.cryoem.preprocess import NO_SHIFT, ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel
from orbitrec.cryoem.search.multi_start import OnlinePhase
from orbitrec.cryoem.search.pose_search import ParticleState, shift_search
from orbitrec.cryoem.species.mixture import MixtureLevel, VolumesAndViews
from orbitrec.inference.likelihood import Assignment
from orbitrec.optim.driver import continued
from orbitrec.optim.online import OnlineEM
from orbitrec.optim.termination import StepInfo
from orbitrec.runtime.distributed import fill_in
from orbitrec.runtime.progress import RunState, Stage, restored

TRIES = 4
"""Sets of random volumes."""
DEAD = 0.25
"""A class with less than this part of the mean share has died."""
APART = 0.3
"""Random part of a volume that begins as a copy of another, over the standard deviation of its coefficients."""
SEARCHED = 0.15
"""Share of all volumes and directions, the likeliest without a displacement, that displacements are searched for."""
EQUAL = 0.2
"""Weight of equal shares in the estimated ones, once these are estimated."""


@dataclass(frozen=True, eq=False)
class Parted:
    """Which particle is of which structure, before there is a map of any.

    Attributes:
        posterior: (N, K) probability that a particle is of each class, given that it is of one.
        scores: held-out log-likelihood of one particle for every set of random volumes.
        revived: how many classes had died and began anew.
    """

    posterior: Float[Tensor, "N c"]
    scores: list[float]
    revived: int


@dataclass(frozen=True)
class _Climb:
    """What all sets of volumes have in common."""

    data: ParticleModes
    centres: Float[Tensor, "N 2"]
    pool: Int[Tensor, "P"]
    held: Int[Tensor, "h"]
    run: RunState

    def improved(
        self, level: MixtureLevel, model: VolumesAndViews, phases: list[tuple[OnlinePhase, float]], part: str
    ) -> dict[str, object]:
        """A model after steps of online EM, each phase with its weight of equal shares; and its held-out likelihood."""
        resolution = self.data.resolution_A(level.one.basis.k_max)
        for phase, equal in phases:
            problem = level.likelihood(self.data, self.centres, self.pool, NO_SHIFT, torch.zeros(1), equal=equal)
            batch = min(level.classes * phase.batch, len(self.pool))

            def callback(info: StepInfo, batch: int = batch) -> None:
                self.run.record(Stage.STARTS, part, resolution, -info.value)
                self.run.advance(Stage.STARTS, level.classes * batch, part)

            solver = OnlineEM(batch, phase.kept, passes=False)
            begun = solver.init(problem, level.unknowns(model))
            model = level.model(continued(solver, problem, begun, self.run.generator, phase.steps, callback).w)
        held = level.likelihood(self.data, self.centres, self.held, NO_SHIFT, torch.zeros(1), equal=0.0)
        return {**vars(model), "score": -held.value(level.unknowns(model))}


def parted(
    data: ParticleModes, radius: float, particles: ParticleState, classes: int, schedule: Schedule, run: RunState
) -> Parted:
    """Part the particles of a stack.

    Args:
        data: the particles.
        radius: of a ball that holds every one of the structures, in pixels.
        particles: where their contents are centred.
        classes: how many structures, K.
        schedule: sizes of the search; batches are K times as large.
        run: keeps a record of every set of volumes.

    Returns:
        The posterior of the classes.
    """
    order = torch.randperm(len(data), generator=run.generator)
    order = order[data.inliers()[order]]
    held, pool = order.tensor_split([schedule.held_out_of(len(order))])
    low, high = (
        MixtureLevel(ResolutionLevel.at(data.grid, radius, bandwidth, device=data.device), classes)
        for bandwidth in (schedule.start_bandwidth, schedule.select_bandwidth)
    )
    climb = _Climb(data, particles.centres, pool, held, run)
    first = [
        (OnlinePhase(schedule.start_batch, schedule.start_steps, 0.95), 1.0),
        (OnlinePhase(schedule.settle_batch, schedule.settle_steps, 0.8), EQUAL),
    ]
    second = [(OnlinePhase(schedule.select_batch, schedule.select_steps, 0.9), EQUAL)]
    power = data.ctf2_over_noise(pool).mean(0)

    def begun(name: str) -> dict[str, object]:
        return climb.improved(low, low.random_model(run.generator, power), first, name)

    tried = [run.step(f"parting {i + 1}", partial(begun, f"set {i + 1}")) for i in range(TRIES)]
    scores = [each["score"] for each in tried]
    ranked = sorted(range(TRIES), key=lambda i: -scores[i])[: (TRIES + 1) // 2]
    finer: list[tuple[VolumesAndViews, float]] = []
    for i in ranked:
        model = low.prolongated(restored(VolumesAndViews, tried[i]), high)
        found = run.step(f"parting {i + 1} finer", partial(climb.improved, high, model, second, f"set {i + 1}"))
        finer.append((restored(VolumesAndViews, found), found["score"]))
    model, score = max(finer, key=lambda each: each[1])
    model, revived = _revived(climb, high, model, score, second)
    posterior = run.step("parting of all", lambda: {"posterior": _of_all(data, high, model, particles, schedule, run)})
    return Parted(posterior["posterior"], scores, revived)


def work_of_parting(count: int, classes: int, schedule: Schedule) -> float:
    """Of the first stage, as :attr:`Stage.cost` counts it.

    Args:
        count: of the particles.
        classes: how many structures.
        schedule: sizes of the search.

    Returns:
        Cost of an image times images.
    """
    start = schedule.start_steps * schedule.start_batch + schedule.settle_steps * schedule.settle_batch
    climbs = classes**2 * (TRIES * start + (TRIES + 1) // 2 * schedule.select_steps * schedule.select_batch)
    return Stage.READING.cost * count + Stage.STARTS.cost * climbs + 2 * Stage.MARCHING.cost * classes * count


def _revived(
    climb: _Climb, level: MixtureLevel, model: VolumesAndViews, score: float, phases: list[tuple[OnlinePhase, float]]
) -> tuple[VolumesAndViews, int]:
    """The model with classes that have died begun anew from the most populous one, where the likelihood gains."""
    revived, run = 0, climb.run
    for attempt in range(level.classes - 1):
        shares = _shares_of(climb, level, model)
        dead, largest = int(shares.argmin()), int(shares.argmax())
        if float(shares[dead]) >= DEAD / level.classes:
            break
        volumes = list(model.coefficients.chunk(level.classes))
        views = list(model.log_views.chunk(level.classes))
        deviation = (
            level.one.prior_variance(volumes[largest]).sqrt() / 2
        )  # of the shell: the prior's is four times that
        drawn = torch.randn(len(deviation), generator=run.generator, dtype=torch.float64).to(deviation)
        volumes[dead] = volumes[largest] + APART * deviation * drawn
        views[dead] = views[largest]
        begun = VolumesAndViews(torch.cat(volumes), torch.cat(views).log_softmax(0))
        found = run.step(
            f"revival {attempt + 1}", partial(climb.improved, level, begun, phases, f"revival {attempt + 1}")
        )
        if found["score"] <= score:
            break
        model, score, revived = restored(VolumesAndViews, found), found["score"], revived + 1
    return model, revived


def _shares_of(climb: _Climb, level: MixtureLevel, model: VolumesAndViews) -> Float[Tensor, "c"]:
    """Share of the held-out particles that each class has."""
    problem = level.likelihood(climb.data, climb.centres, climb.held, NO_SHIFT, torch.zeros(1), equal=0.0)
    occupancy = problem.statistics(level.unknowns(model)).occupancy.sum(1).cpu()
    shares = occupancy.unflatten(0, (level.classes, -1)).sum(1)
    return shares / shares.sum()


def _of_all(
    data: ParticleModes,
    level: MixtureLevel,
    model: VolumesAndViews,
    particles: ParticleState,
    schedule: Schedule,
    run: RunState,
) -> Float[Tensor, "N c"]:
    """The posterior of the classes of all particles, from passes of online EM that also search displacements."""
    every, resolution = torch.arange(len(data)), data.resolution_A(level.one.basis.k_max)
    pairs = torch.zeros(len(data), level.classes * len(level.one.directions))

    def record(rows: Int[Tensor, "b"], assigned: Assignment) -> None:
        pairs[rows] = assigned.direction.to(pairs)

    def narrowed(rows: Int[Tensor, "b"], assigned: Assignment) -> None:
        pairs[rows] = pairs[rows].zero_().scatter(1, nearest[rows], assigned.direction.to(pairs))

    def callback(info: StepInfo) -> None:
        run.record(Stage.MARCHING, "", resolution, -info.value)
        run.advance(Stage.MARCHING, level.classes * len(data) / epochs)

    at_rest = level.likelihood(data, particles.centres, every, NO_SHIFT, torch.zeros(1), equal=EQUAL, record=record)
    at_rest.value(level.unknowns(model))
    fill_in(pairs)
    run.advance(Stage.MARCHING, level.classes * len(data))
    nearest = pairs.topk(math.ceil(SEARCHED * pairs.shape[1]), dim=1).indices
    lattice, log_shift = shift_search(level.one, particles.on_lattice(level.one))
    moved = level.likelihood(
        data, particles.centres, every, lattice, log_shift, equal=EQUAL, candidates=nearest, record=narrowed
    )  # fmt: skip
    solver = OnlineEM(-(-len(data) // max(5, -(-len(data) // (level.classes * schedule.batch)))))
    epochs = -(-len(data) // solver.batch)
    found = continued(solver, moved, solver.init(moved, level.unknowns(model)), run.generator, epochs, callback)
    pairs.zero_()
    moved.value(found.w)
    fill_in(pairs)
    return level.of_classes(pairs)

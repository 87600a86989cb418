"""Frequency marching of class averages: starts from random subsets, passes of online EM, classes that die revived.

The likelihood, its E-step and the solver are those of the ab initio search, with classes for directions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.cryoem.classes.level import ClassAverages, ClassLevel, ClassPowerPrior
from orbitrec.cryoem.classes.membership import (
    MembersFound,
    Membership,
    candidate_classes,
    centroids,
    recentred,
    shift_lattice,
)
from orbitrec.cryoem.preprocess import NO_SHIFT, ParticleModes
from orbitrec.inference.group_density import EstimatedDirections
from orbitrec.inference.likelihood import Observations
from orbitrec.inference.orbit_likelihood import ObservationSet, OrbitLikelihood, Recorder
from orbitrec.optim.driver import continued
from orbitrec.optim.online import OnlineEM
from orbitrec.optim.termination import StepInfo
from orbitrec.runtime.progress import RunState, Stage

WEIGHT_FLOOR = 1.0
"""Weight of equal shares that is mixed into the estimated shares of the classes: with shares of their own, large
classes would draw particles from small ones until these die."""
DEAD = 0.15
"""A class with less than this part of the mean share has died."""
FEWEST_BATCHES = 10
"""Least number of batches in a pass."""
MEMORY = 0.4
"""Passes that the statistics stand for. A particle's own noise, which was added to its class' average at the last pass,
has then gone from it when the particle is seen again: otherwise it would be taken for a likeness."""


@dataclass(frozen=True, eq=False)
class ClassState:
    """Where a classification is.

    Attributes:
        averages: of all classes.
        known: what is known of the particles.
        statistics: of online EM, kept from pass to pass at one level; None where there are none.
        terms: how many particles they stand for.
    """

    averages: ClassAverages
    known: Membership
    statistics: Float[Tensor, "s"] | None = None
    terms: float = 0.0


def class_likelihood(
    data: ParticleModes,
    level: ClassLevel,
    known: Membership,
    candidates: Int[Tensor, "N c"] | None = None,
    record: Recorder | None = None,
) -> OrbitLikelihood:
    """The likelihood of averages and of the classes' shares.

    It is marginal over a particle's class, in-plane angle and displacement around its centre.

    Args:
        data: the particles.
        level: the resolution.
        known: of the particles; only centres and their uncertainty count.
        candidates: (N, c) the classes that each is compared with; None for all.
        record: called with the indices and the posterior of the particles of every E-step.

    Returns:
        The likelihood, with the prior of a classification.
    """
    shifts, log_shift = shift_lattice(level, known.residual_px)

    def observe(rows: Int[Tensor, "b"]) -> Observations:
        return level.observations(data, rows, known.centres[rows], shifts, log_shift)

    power = data.ctf2_over_noise(torch.arange(len(data))).mean(0)[: level.grid.node_count]
    bytes_each = 8 * len(shifts) * (level.grid.max_mode + 1) * level.grid.node_count
    observed = ObservationSet(observe, len(data), power, max(1, (1 << 25) // bytes_each), candidates, record)
    classes, angles = level.projector.classes, level.circle.angles
    weights = EstimatedDirections(classes, angles, WEIGHT_FLOOR, level.projector.dtype)
    return OrbitLikelihood(level.projector, level.circle, weights, observed, ClassPowerPrior(level))


def aligned_sums(
    data: ParticleModes,
    level: ClassLevel,
    rows: Int[Tensor, "n"],
    centres: Float[Tensor, "n 2"],
    angles: Float[Tensor, "n"],
) -> tuple[Complex[Tensor, "m k"], Float[Tensor, "k"]]:
    """Sums of some particles' modes, moved back and rotated back, and of their h²: an average's normal equations.

    Args:
        data: the particles.
        level: the resolution.
        rows: (n,) their indices.
        centres: (n, 2) displacement (x, y) of the content of each, in pixels.
        angles: (n,) angle by which it is rotated, in radians.

    Returns:
        ``Σ Y e^{imα}`` and ``Σ h²``.
    """
    seen = level.observations(data, rows, centres, NO_SHIFT, torch.zeros(1))
    phase = angles[:, None] * level.circle.modes
    back = torch.polar(torch.ones_like(phase), phase).to(seen.modes.dtype)
    return (seen.modes[:, 0].cpu() * back[:, :, None]).sum(0), seen.ctf2_over_noise.cpu().sum(0)


def random_averages(
    data: ParticleModes,
    level: ClassLevel,
    centres: Float[Tensor, "N 2"],
    members: int,
    generator: torch.Generator,
) -> ClassAverages:
    """Averages of random subsets of the particles as they lie, with equal shares.

    Args:
        data: the particles.
        level: the resolution.
        centres: (N, 2) displacement of each particle's content, in pixels.
        members: particles of every subset.
        generator: draws the subsets.

    Returns:
        Averages, filtered by the prior of a classification.
    """
    projector, count = level.projector, level.projector.classes
    likely = data.inliers().nonzero().flatten()
    drawn = likely[torch.randint(len(likely), (count, members), generator=generator)]
    upright = torch.zeros(members, dtype=torch.float64)
    sums = [aligned_sums(data, level, rows, centres[rows], upright) for rows in drawn]
    first, second = (torch.stack(each) for each in zip(*sums, strict=True))
    right = projector.adjoint(first)
    w = projector.solve(right, second, torch.zeros_like(right))
    for _ in range(2):
        w = projector.solve(right, second, ClassPowerPrior(level).precision(w))
    return ClassAverages(w.to(projector.dtype), torch.full((count,), -math.log(count)))


def in_centre(level: ClassLevel, state: ClassState) -> ClassState:
    """The state with the centre of every average's density at the origin, and the particles' displacements with it."""
    projector, grid = level.projector, level.grid
    side = 2 * math.ceil(level.basis.radius) + 1
    offsets = centroids(level.images(state.averages, side))
    padded = torch.nn.functional.pad(
        torch.view_as_real(projector.templates(state.averages.coefficients)),
        (0, 0, 0, 0, 0, grid.max_mode - level.basis.max_mode),
    )
    moved = grid.moved(torch.view_as_complex(padded.contiguous()), -offsets)[:, : level.basis.max_mode + 1]
    equal = torch.ones(projector.classes, grid.node_count)
    w = projector.solve(projector.adjoint(moved.contiguous()), equal, torch.zeros(projector.dimension))
    averages = ClassAverages(w.to(projector.dtype), state.averages.log_weights)
    return ClassState(averages, recentred(state.known, offsets))


def revived(data: ParticleModes, level: ClassLevel, state: ClassState, generator: torch.Generator) -> ClassState:
    """The state with every class that has died made anew, from half of the members of one of the largest.

    Args:
        data: the particles.
        level: the resolution.
        state: after a pass.
        generator: draws the members.

    Returns:
        The state; the statistics of online EM hold the new averages.
    """
    known, projector, found = state.known, level.projector, state.known.found
    assert found is not None
    assert state.statistics is not None
    count, terms, share = projector.classes, state.terms, found.sizes
    dead = (share < DEAD * share.mean()).nonzero().flatten()
    dead = dead[: count // 2]
    if len(dead) == 0:
        return state
    log_weights, w = state.averages.log_weights.clone(), state.averages.coefficients.clone().reshape(count, -1)
    sizes = [projector.dimension, count * level.grid.node_count]
    right, second, occupancy = state.statistics.clone().split([*sizes, len(state.statistics) - sum(sizes)])
    right, second, occupancy = (part.reshape(count, -1) for part in (right, second, occupancy))
    for d, parent in zip(dead.tolist(), share.argsort(descending=True).tolist(), strict=False):
        own = (found.likely & (found.most_probable == parent)).nonzero().flatten()
        if len(own) < 4:
            break
        rows = own[torch.randperm(len(own), generator=generator)[: len(own) // 2]]
        first, h2 = aligned_sums(data, level, rows, found.shifts_px[rows], found.angles[rows])
        alone = replace(projector, classes=1)
        right[d] = alone.adjoint(first[None]).double() / terms
        second[d] = h2.double() / terms
        occupancy[d] = len(rows) / terms / occupancy.shape[1]
        prior = ClassPowerPrior(replace(level, projector=alone)).precision(w[parent])
        w[d] = alone.solve(right[d] * terms, h2[None], prior).to(w.dtype)
        log_weights[[d, parent]] = log_weights[parent] - math.log(2)
    statistics = torch.cat([part.flatten() for part in (right, second, occupancy)])
    averages = ClassAverages(w.flatten(), log_weights.log_softmax(0))
    return ClassState(averages, known, statistics, terms)


@dataclass(frozen=True)
class ClassSearch:
    """The steps that a set of particles can make.

    Attributes:
        data: the particles.
        run: random numbers, records, history.
    """

    data: ParticleModes
    run: RunState

    def online_pass(self, batch: int, narrowed: bool = False) -> Callable[[ClassLevel, ClassState], ClassState]:
        """A step that makes one pass of online EM, and then revives classes that have died.

        Args:
            batch: particles after which the averages are updated.
            narrowed: whether a particle is compared only with the classes that its last posterior favours. While
                averages still change much, that would hold particles to classes that are not theirs.

        Returns:
            The step: a function of the level and of the state before, which returns the state after.
        """

        def step(level: ClassLevel, state: ClassState) -> ClassState:
            candidates = candidate_classes(state.known) if narrowed else None
            found = MembersFound(level, state.known, candidates, shift_lattice(level, state.known.residual_px)[0])
            problem = class_likelihood(self.data, level, state.known, candidates, found.record)
            size = min(batch, -(-len(self.data) // FEWEST_BATCHES))
            solver, epochs = OnlineEM(size, memory=MEMORY), -(-len(self.data) // size)
            begun = solver.init(problem, level.unknowns(state.averages))
            if state.statistics is not None:
                begun = begun._replace(statistics=state.statistics, terms=state.terms)
            ended = continued(solver, problem, begun, self.run.generator, epochs, self._reported(level, size))
            after = ClassState(level.averages(ended.w), found.membership(), ended.statistics, ended.terms)
            return revived(self.data, level, after, self.run.generator)

        return step

    def _reported(self, level: ClassLevel, size: int) -> Callable[[StepInfo], None]:
        resolution = self.data.resolution_A(level.basis.k_max)

        def callback(info: StepInfo) -> None:
            self.run.record(Stage.MARCHING, "", resolution, -info.value)
            self.run.advance(Stage.MARCHING, size)

        return callback

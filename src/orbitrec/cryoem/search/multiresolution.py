"""Frequency marching: a model and the poses of all particles, from a coarse resolution to a fine one.

One driver (:class:`orbitrec.optim.multiresolution.MultiResolution`) serves the ab initio search and the refinement of a
given map. They differ in their steps:

* a pass of online EM searches every particle once, near its last posterior, and updates the model after every batch:
  search and refinement in one, the cheapest way while the model still changes much;
* a pose search searches every particle with the model held; then any solver of :mod:`orbitrec.optim` updates the model
  with the particles' candidate directions and shifts held.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.likelihood import given_views, searched_likelihood
from orbitrec.cryoem.search.pose_search import ParticleState, PosesFound, with_trials
from orbitrec.densities.gridded import mixed_with_uniform
from orbitrec.inference.likelihood import Assignment
from orbitrec.optim.driver import continued, run
from orbitrec.optim.multiresolution import MultiResolution
from orbitrec.optim.online import OnlineEM, OnlineState
from orbitrec.optim.solvers import Solver
from orbitrec.optim.termination import Cost, StepInfo, Termination
from orbitrec.runtime.distributed import count
from orbitrec.runtime.progress import RunState, Stage

FEWEST_BATCHES = 5
"""Least number of batches in a pass of online EM, so that the model changes during the pass."""
MEMORIES = (0.25, 0.25, 0.5, 0.5, 1.0)
"""Passes that the statistics stand for, pass by pass at a level, where displacements are drawn. EM is slow there: a
short memory is quicker and a long one has less noise, as with the falling steps of Cappé and Moulines (2009)."""
RELAXATION = 1.8
"""Of EM while displacements are drawn (:attr:`orbitrec.optim.online.OnlineEM.relaxation`)."""


@dataclass(frozen=True, eq=False)
class SearchState:
    """Where a multi-resolution run is.

    Attributes:
        model: volume and views.
        particles: what is known of the particles.
        rotations: (N, 3, 3) most probable rotation of each; None before the first pass.
        shifts_px: (N, 2) displacement (x, y) of its content, in pixels.
        statistics: of online EM, kept from pass to pass at one level.
        terms: how many particles the statistics stand for.
        log_likelihood: of one particle, the mean over the last pass; minus infinity before the first at a level.
        gain: what the shells beyond the bandwidth before add to it, of particles that these shells are not yet made of
            (:meth:`Search.finer_pass`); zero after other passes.
        passes: made at the level.
    """

    model: VolumeAndViews
    particles: ParticleState
    rotations: Float[Tensor, "N 3 3"] | None = None
    shifts_px: Float[Tensor, "N 2"] | None = None
    statistics: Float[Tensor, "s"] | None = None
    terms: float = 0.0
    log_likelihood: float = -math.inf
    gain: float = 0.0
    passes: int = 0

    def on_lattice(self, level: ResolutionLevel) -> "SearchState":
        """The same model, with the displacements of a lattice to be compared instead of drawn ones.

        Args:
            level: its resolution.
        """
        return SearchState(self.model, self.particles.on_lattice(level))

    def reopened(self, level: ResolutionLevel, coarser: ResolutionLevel, spread_px: float) -> "SearchState":
        """The model's part at a coarser resolution, and particles of which nothing is known but how far they spread.

        Args:
            level: of the state.
            coarser: the level to begin at anew.
            spread_px: standard deviation of the displacements, in pixels.

        Returns:
            The state at the coarser level.
        """
        particles = ParticleState(torch.zeros_like(self.particles.centres), spread_px)
        return SearchState(level.restricted(self.model, coarser), particles.on_lattice(coarser))

    def of(self, rows: Int[Tensor, "n"]) -> "SearchState":
        """The same model, for some of the particles alone."""
        rotations, shifts_px = (None if each is None else each[rows] for each in (self.rotations, self.shifts_px))
        return SearchState(self.model, self.particles.subset(rows), rotations, shifts_px)


@dataclass(frozen=True)
class PosedVolume:
    """A volume, and the pose of every particle: the end of a multi-resolution run.

    Attributes:
        level: the finest resolution.
        model: volume and views there.
        particles: posterior of each particle.
        rotations: (N, 3, 3) the most probable rotation of each.
        shifts_px: (N, 2) displacement (x, y) of its content, in pixels.
    """

    level: ResolutionLevel
    model: VolumeAndViews
    particles: ParticleState
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]

    @classmethod
    def of(cls, level: ResolutionLevel, state: SearchState) -> "PosedVolume":
        """The volume and the poses of a state, after at least one pass."""
        assert state.rotations is not None
        assert state.shifts_px is not None
        return cls(level, state.model, state.particles, state.rotations, state.shifts_px)


@dataclass(frozen=True)
class Search:
    """The steps that a set of particles can make.

    Attributes:
        data: the particles.
        candidates: directions that each is compared with once its search has been narrowed.
        run: random numbers, records, history.
        stage: that the history and the progress bar name.
        part: of the stage, say a half-set; may be empty.
        counted: whether significant samples are counted, which takes about as long as a pass of its own.
    """

    data: ParticleModes
    candidates: int
    run: RunState
    stage: Stage
    part: str = ""
    counted: bool = False

    def online_pass(
        self, batch: int, memory: float = 1.0, relaxation: float = 1.0
    ) -> Callable[[ResolutionLevel, SearchState], SearchState]:
        """A step that makes one pass of online EM, which updates model and poses.

        Args:
            batch: particles after which the model is updated.
            memory: passes that the statistics stand for.
            relaxation: of EM.

        Returns:
            The step: a function of the level and of the state before, which returns the state after.
        """

        def step(level: ResolutionLevel, state: SearchState) -> SearchState:
            return self._passed(level, state, OnlineEM(self._even(batch), memory=memory, relaxation=relaxation))

        return step

    def finer_pass(self, batch: int, before: float) -> Callable[[ResolutionLevel, SearchState], SearchState]:
        """The first pass at a finer bandwidth, which also finds whether the particles tell anything there.

        The particles of its last batch have no part yet in the shells beyond the bandwidth before. Shells of noise make
        them less likely.

        Args:
            batch: particles after which the model is updated.
            before: the bandwidth before.

        Returns:
            The step: a function of the level and of the state before, which returns the state after.
        """

        def step(level: ResolutionLevel, state: SearchState) -> SearchState:
            return self._passed(level, state, OnlineEM(self._even(batch)), before)

        return step

    def _even(self, batch: int) -> int:
        """The size of equal batches of at most ``batch``, of which there are at least :data:`FEWEST_BATCHES`."""
        return -(-len(self.data) // max(FEWEST_BATCHES, -(-len(self.data) // batch)))

    def _passed(
        self, level: ResolutionLevel, state: SearchState, solver: OnlineEM, before: float | None = None
    ) -> SearchState:
        """The state after a pass; its gain is that of the shells beyond the bandwidth ``before``."""
        found = PosesFound(level, state.particles, self.candidates)
        problem = searched_likelihood(self.data, level, state.particles, self.candidates, found.record, self.counted)
        at = _with_statistics(solver.init(problem, level.unknowns(state.model)), state)
        epochs, values, reported = -(-len(self.data) // solver.batch), [], self._reported(level)

        def callback(info: StepInfo) -> None:
            reported(info)
            values.append(-info.value)

        at = continued(solver, problem, at, self.run.generator, epochs - 1, callback)
        without = 0.0 if before is None else -problem.value(level.without_shells(at.w, before), at.left)
        at = continued(solver, problem, at, self.run.generator, 1, callback)
        gain = 0.0 if before is None else values[-1] - without
        poses, mean = (found.state(), found.rotations, found.shifts_px), sum(values) / len(values)
        return SearchState(level.model(at.w), *poses, at.statistics, at.terms, mean, gain, state.passes + 1)

    def trial_pass(self, batch: int) -> Callable[[ResolutionLevel, SearchState], SearchState]:
        """The same with displacements that are drawn for each particle.

        See :func:`orbitrec.cryoem.search.pose_search.with_trials`.
        """

        def step(level: ResolutionLevel, state: SearchState) -> SearchState:
            particles = with_trials(state.particles, self.run.generator)
            memory = MEMORIES[min(state.passes, len(MEMORIES) - 1)]
            return self.online_pass(batch, memory, RELAXATION)(level, replace(state, particles=particles))

        return step

    def pose_search(self, level: ResolutionLevel, state: SearchState) -> SearchState:
        """A pass with the volume held, which updates the particles, the density of views and the best poses."""
        found = PosesFound(level, state.particles, self.candidates)

        def record(rows: Int[Tensor, "b"], assigned: Assignment) -> None:
            found.record(rows, assigned)
            self.run.advance(Stage.POSE_SEARCH, len(rows), self.part)

        problem = searched_likelihood(self.data, level, state.particles, self.candidates, record, self.counted)
        problem.statistics(level.unknowns(state.model))
        particles = found.state()
        assert particles.directions is not None
        assert particles.posterior is not None
        inlier = particles.posterior.inlier_probability
        views = inlier @ particles.directions / inlier.sum()
        views = mixed_with_uniform(views, level.view_floor)
        model = VolumeAndViews(state.model.coefficients, views.log())
        return SearchState(model, particles, found.rotations, found.shifts_px)

    def solved(
        self, solver: Solver, passes: float, seed: int, name: str
    ) -> Callable[[ResolutionLevel, SearchState], SearchState]:
        """A step that updates the volume by a solver; views, candidate directions and shifts are held.

        Args:
            solver: the method.
            passes: data passes that it may make.
            seed: of its random numbers.
            name: of the checkpoint of its own state, which is written after each of its epochs.

        Returns:
            The step: a function of the level and of the state before, which returns the state after.
        """

        def step(level: ResolutionLevel, state: SearchState) -> SearchState:
            problem = searched_likelihood(self.data, level, state.particles, self.candidates)
            own, start = given_views(problem, level, state.model), state.model.coefficients.double()
            alone = count() == 1  # several processes would have to agree on where to go on
            kept = self.run.checkpoints.file(self.run.named(name)) if alone else None
            seconds: dict[int, float] = {}
            advanced = self._advanced(seconds)
            result = run(
                solver, own, start, Termination(measured=passes, least_epochs=2),
                seed=seed, callback=advanced, checkpoint=kept, every=1,
            )  # fmt: skip
            resolution = self.data.resolution_A(level.basis.k_max)
            for info in result.trace:
                at = seconds.get(info.cost.epochs, self.run.elapsed())
                self.run.record(self.stage, self.part, resolution, -info.value, at)
            coefficients = result.w.to(state.model.coefficients.dtype)
            return replace(state, model=VolumeAndViews(coefficients, state.model.log_views))

        return step

    def _advanced(self, seconds: dict[int, float]) -> Callable[[StepInfo], None]:
        """Moves the progress bar by the passes of an epoch and notes when it ended."""
        done = 0.0

        def callback(info: StepInfo) -> None:
            nonlocal done
            seconds[info.cost.epochs] = self.run.elapsed()
            self.run.advance(self.stage, (info.cost.measured - done) * len(self.data), self.part)
            done = info.cost.measured

        return callback

    def _reported(self, level: ResolutionLevel) -> Callable[[StepInfo], None]:
        """Enters every batch into the history and moves the progress bar."""
        resolution, last = self.data.resolution_A(level.basis.k_max), Cost()

        def callback(info: StepInfo) -> None:
            nonlocal last
            images = (info.cost.measured - last.measured) * len(self.data)
            last = info.cost
            self.run.record(self.stage, self.part, resolution, -info.value)
            self.run.advance(self.stage, images, self.part)

        return callback


Plan = Sequence[tuple[float, Callable[[ResolutionLevel, SearchState], SearchState]]]
"""Bandwidth and step, one after the other."""


def frequency_marching(
    name: str, search: Search, level: ResolutionLevel, state: SearchState, plan: Plan
) -> PosedVolume:
    """The steps of a plan, from a state at some level.

    Args:
        name: of the run's records.
        search: whose steps they are.
        level: of the state; it gives symmetry and ball to the others.
        state: where to begin.
        plan: bandwidths and steps.

    Returns:
        Model and poses at the last level.

    Raises:
        ValueError: if there is no step.
    """
    return PosedVolume.of(*stepped(name, search, level, state, plan))


def stepped(
    name: str, search: Search, level: ResolutionLevel, state: SearchState, plan: Plan
) -> tuple[ResolutionLevel, SearchState]:
    """The steps of a plan, as :func:`frequency_marching` makes them, to a state that can go on.

    Args:
        name: of the run's records.
        search: whose steps they are.
        level: of the state; it gives symmetry and ball to the others.
        state: where to begin.
        plan: bandwidths and steps.

    Returns:
        Level and state at the end.
    """

    def at(bandwidth: float) -> ResolutionLevel:
        if bandwidth == level.bandwidth:
            return level
        return ResolutionLevel.at(
            search.data.grid, level.basis.radius, bandwidth, level.basis.group, search.data.device
        )

    if plan and plan[0][0] != level.bandwidth:  # a resolution that is asked for moves the first step, not the starts
        first = at(plan[0][0])
        level, state = first, prolongated(level, first, state)
    return MultiResolution(name, plan, at, prolongated).run(state, search.run)


def prolongated(level: ResolutionLevel, finer: ResolutionLevel, state: SearchState) -> SearchState:
    """The state on a finer level: volume, views and posteriors; statistics of online EM begin anew there.

    Args:
        level: of the state.
        finer: the level that is next.
        state: at ``level``.

    Returns:
        The state at ``finer``: coefficients embedded in the larger basis, densities interpolated.
    """
    model, particles = level.prolongated(state.model, finer), state.particles.prolongated(level, finer)
    return SearchState(model, particles, state.rotations, state.shifts_px)


def _with_statistics(begun: OnlineState, state: SearchState) -> OnlineState:
    """A solver's state that goes on with the statistics of the pass before."""
    if state.statistics is None:
        return begun
    return begun._replace(statistics=state.statistics, terms=state.terms)

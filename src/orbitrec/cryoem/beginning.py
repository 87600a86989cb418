"""What frequency marching begins with: starts, of which one is chosen, for all particles or for each half-set.

Half-sets that have starts of their own share nothing, so their agreement says whether the map is right. Where the
chosen starts are not the same map, one of them is wrong, which each half-set can tell of the other's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from orbitrec.cryoem.checks import OTHER_MAP
from orbitrec.cryoem.config import AbInitioConfig, Schedule, SearchConfig
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.result import Session
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.multi_start import Selection, held_out_likelihood, multi_start
from orbitrec.cryoem.search.multiresolution import Search, SearchState, stepped
from orbitrec.cryoem.search.pose_search import ParticleState
from orbitrec.cryoem.search.starts import matched_starts
from orbitrec.cryoem.symmetry import SymmetryCheck, impose_symmetry, symmetry_evidence
from orbitrec.evaluation.alignment import align
from orbitrec.runtime.progress import RunState, Stage


@dataclass(frozen=True)
class Beginning:
    """What frequency marching of some particles begins with.

    Attributes:
        selection: their starts.
        symmetry: how symmetric the chosen start was; None without a symmetry.
        level: the resolution of the state.
        state: the chosen start, and what is known of the particles.
    """

    selection: Selection
    symmetry: SymmetryCheck | None
    level: ResolutionLevel
    state: SearchState


@dataclass(frozen=True)
class BeginningsOfHalves:
    """What frequency marching of both half-sets begins with.

    Attributes:
        of_halves: for half-set 1 and half-set 2.
        apart: whether the two have nothing in common, frame and hand included.
        checks: a sentence if they are not.
    """

    of_halves: tuple[Beginning, Beginning]
    apart: bool
    checks: list[str]


def some_of(session: Session, rows: Int[Tensor, "n"]) -> ParticleModes:
    """The particles ``rows`` of a session."""
    return session.data if len(rows) == len(session.data) else session.data.subset(rows)


def beginning(
    session: Session, config: AbInitioConfig, schedule: Schedule, rows: Int[Tensor, "n"], particles: ParticleState
) -> Beginning:
    """Starts, the best of which is made symmetric where that is asked for.

    Where displacements are drawn, starts are compared after passes of frequency marching (:class:`_Drawn`).

    Args:
        session: the run.
        config: of the search.
        schedule: its sizes.
        rows: (n,) indices of the particles.
        particles: what is known of them, above all where they are centred; trials, if displacements are to be drawn.

    Returns:
        The model, and what is known of the particles.
    """
    run, data = session.run, some_of(session, rows)
    used, drawn = rows[data.inliers()], None
    if particles.trials is not None:
        drawn = _Drawn(data, schedule, particles, run)
    selection = multi_start(
        data, config.radius_px(session.stack), particles.centres, config, schedule, run,
        matched=lambda level: matched_starts(
            config.start, session.stack, used, level, config.matched, run.generator
        ),
        went_on=drawn,
    )  # fmt: skip
    run.timer("starts")
    level, model, symmetry = _symmetric(session, config, selection, data, particles)
    begun = SearchState(model, particles)
    if drawn is None:
        return Beginning(selection, symmetry, level, begun)
    if level is selection.level:  # otherwise what is known of views would be of another frame
        assert drawn.best is not None
        begun = drawn.best
    # From here on displacements are marginalised: at few of them EM is too slow to tell fine shells.
    return Beginning(selection, symmetry, level, begun.on_lattice(level))


def _symmetric(
    session: Session,
    config: AbInitioConfig,
    selection: Selection,
    data: ParticleModes,
    particles: ParticleState,
) -> tuple[ResolutionLevel, VolumeAndViews, SymmetryCheck | None]:
    """Level and model with the symmetry of the configuration, and what speaks for it; None without a symmetry."""
    level, model, run = selection.level, selection.model, session.run
    if level.basis.group.order == 1:
        return impose_symmetry(level, model, config.group, data, particles.centres)

    def judged() -> dict[str, object]:
        free = SearchConfig.schedule_for(config, session.stack)  # without the symmetry, for all functions
        found = symmetry_evidence(level, model, data, particles.centres, free, run.generator)
        return {"score": found.score, "kept": found.kept}

    return level, model, SymmetryCheck(level.basis.group, **run.step("symmetry", judged))


@dataclass
class _Drawn:
    """How starts go on where displacements are drawn: with all particles, at the first bandwidth and at the second.

    A start that is wrong there can be as likely as one that is right until its displacements are marginalised and a
    finer resolution is tried; EM stays with either.

    Attributes:
        data: the particles.
        schedule: sizes of the search.
        particles: what is known of them before.
        run: keeps a record of every start.
        best: the most likely of the states at the second bandwidth so far.
    """

    data: ParticleModes
    schedule: Schedule
    particles: ParticleState
    run: RunState
    best: SearchState | None = None

    def __call__(self, number: int, level: ResolutionLevel, model: VolumeAndViews) -> tuple[VolumeAndViews, float]:
        """The start after these passes, and its log-likelihood in the last of them, of one particle."""
        schedule = self.schedule
        search = Search(self.data, schedule.candidates, self.run, Stage.SELECTION, str(number))
        step, begun = search.trial_pass(schedule.trial_batch), SearchState(model, self.particles)
        plan = [(level.bandwidth, step) for _ in range(schedule.first_trials)]
        plan += [(schedule.select_bandwidth, step) for _ in range(schedule.second_trials)]
        _, state = stepped(f"start {number} with displacements", search, level, begun, plan)
        if self.best is None or state.log_likelihood > self.best.log_likelihood:
            self.best = state
        return state.model, state.log_likelihood


def beginnings_of_halves(
    session: Session,
    config: AbInitioConfig,
    schedule: Schedule,
    halves: Sequence[Int[Tensor, "n"]],
    particles: ParticleState,
) -> BeginningsOfHalves:
    """What each half-set begins with: starts of its own, as far as the module's docstring lets it.

    Args:
        session: the run.
        config: of the search.
        schedule: its sizes.
        halves: indices of the particles of half-set 1 and of half-set 2.
        particles: what is known of all particles.

    Returns:
        The two beginnings.
    """
    found: list[Beginning] = []
    for number, rows in enumerate(halves, start=1):
        with session.run.working_on(f"half {number}"):
            found.append(beginning(session, config, schedule, rows, particles.subset(rows)))
    first, second = found
    densities = [each.level.density(each.state.model)[0] for each in found]
    agreement = align(densities[1], densities[0]).correlation
    if agreement > OTHER_MAP:
        return BeginningsOfHalves((first, second), apart=True, checks=[])
    # Each is judged by the particles that it has not seen.
    foreign = [_explained(session, found[i], halves[1 - i], found[1 - i]) for i in (0, 1)]
    best = found[0] if foreign[0] >= foreign[1] else found[1]
    both = tuple(replace(best, state=replace(best.state, particles=each.state.particles)) for each in found)
    sentence = (
        f"The two half-sets' starts ended in different maps (correlation {agreement:.2f}); both went on from the one "
        "that explains the other half's particles better, so their agreement is no witness: try other seeds."
    )
    return BeginningsOfHalves((both[0], both[1]), apart=False, checks=[sentence])


def _explained(session: Session, model: Beginning, rows: Int[Tensor, "n"], owner: Beginning) -> float:
    """Log-likelihood of one of the particles ``rows``, which are those of another beginning, under a model."""
    data = some_of(session, rows)
    return held_out_likelihood(
        data, model.level, model.state.model, owner.state.particles.centres, data.inliers().nonzero().flatten()
    )

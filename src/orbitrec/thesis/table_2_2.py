"""Tables 2.2 and 2.3: volumes from the first two moments of 5·10⁶ particles, with views and volume unknown.

The problem is that of :mod:`orbitrec.thesis.two_moments`. Methods: "coefficients" matches spherical-Bessel
coefficients under a Gaussian prior from a random start, the classical method of moments; "FourierNets" matches networks
as the thesis does, on shells, takes their mean, and refines that by another network on top
(:mod:`orbitrec.thesis.volume_matching.neural_ensemble`); "pseudo-atoms" has the best solution of
:mod:`orbitrec.thesis.volume_matching.pseudo_atom_search`, the mean of those that were kept, and that mean with the
least change that gives it the moments (:mod:`orbitrec.thesis.volume_matching.correction`); "three moments" matches the
third cumulants too (:mod:`orbitrec.thesis.volume_matching.three_moments`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments, uniform_moments
from orbitrec.moments.cumulant_matching import MarchSettings
from orbitrec.moments.losses import relative_errors
from orbitrec.moments.matching import MomentTarget, match_moments
from orbitrec.thesis.steps import NOT_KEPT, Steps, TimedSteps
from orbitrec.thesis.two_moments import Matching, TrueVolume
from orbitrec.thesis.volume_matching.consensus import Consensus, VoxelEstimate
from orbitrec.thesis.volume_matching.correction import corrected
from orbitrec.thesis.volume_matching.neural_ensemble import Member, NeuralEnsemble, NeuralSettings
from orbitrec.thesis.volume_matching.pseudo_atom_search import match_pseudo_atoms
from orbitrec.thesis.volume_matching.pseudo_atom_search import step_count as search_step_count
from orbitrec.thesis.volume_matching.pseudo_atoms import Molecule, PseudoAtomMatching, PseudoAtomSettings, Solution
from orbitrec.thesis.volume_matching.three_moments import ThreeMomentPlan, ThreeMomentSolution, three_moment_solution
from orbitrec.volumes.base import Volume
from orbitrec.volumes.spherical_bessel import SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume


@dataclass(frozen=True)
class Plan:
    """How a volume is looked for.

    Attributes:
        band_A: pseudo-atoms' moments are matched to here, Å.
        pseudo_atoms: how they are matched; of the Gaussians the number is given.
        smooth_band_A: the other methods' moments are matched to here. Their unknowns grow with the band's cube.
        networks: how they are matched.
    """

    band_A: float
    pseudo_atoms: PseudoAtomSettings
    smooth_band_A: float
    networks: NeuralSettings


@dataclass(frozen=True)
class VolumeTableSize:
    """Plans by the volumes' names, and the most iterations of the classical method."""

    plans: dict[str, Plan]
    iterations: int


QUICK = VolumeTableSize(
    {
        "EMD-0409": Plan(
            20.0, PseudoAtomSettings(pseudo_atoms=35, starts=24, tries=4), 20.0, NeuralSettings(members=4)
        ),
        "EMD-25892": Plan(
            45.0, PseudoAtomSettings(pseudo_atoms=36, starts=24, finalists=4, tries=2), 60.0, NeuralSettings(members=2)
        ),
        "4 Gaussians": Plan(
            3.0, PseudoAtomSettings(pseudo_atoms=4, starts=12, finalists=4, tries=1), 3.0, NeuralSettings(members=2)
        ),
    },
    200,
)
FULL = VolumeTableSize(
    {
        "EMD-0409": Plan(20.0, PseudoAtomSettings(pseudo_atoms=35, tries=8), 15.0, NeuralSettings(members=8)),
        "EMD-25892": Plan(
            20.0,
            PseudoAtomSettings(pseudo_atoms=200, kept=6, tries=2, last_rounds=5, late_trust=1e5),
            60.0,
            NeuralSettings(members=4),
        ),
        "4 Gaussians": Plan(2.5, PseudoAtomSettings(pseudo_atoms=4, tries=4), 2.5, NeuralSettings(members=4)),
    },
    600,
)
QUICK_THREE = {
    "EMD-0409": ThreeMomentPlan((30.0, 20.0), MarchSettings(starts=2)),
    "EMD-25892": ThreeMomentPlan((110.0, 75.0), MarchSettings(starts=2)),
    "4 Gaussians": ThreeMomentPlan((6.0, 4.0), MarchSettings(starts=2)),
}
FULL_THREE = {
    "EMD-0409": ThreeMomentPlan((30.0, 20.0, 15.0, 12.0)),
    "EMD-25892": ThreeMomentPlan((110.0, 75.0, 55.0, 45.0)),
    "4 Gaussians": ThreeMomentPlan((6.0, 4.0, 3.0, 2.5)),
}
"""How third cumulants are matched as well, by the volumes' names: to bandwidths radius · k of 11, 16, 22 and 27."""


@dataclass(frozen=True)
class VolumeRow:
    """One volume and method; ``correlation`` is of the aligned maps, ``views`` of their log densities of views.

    ``views`` is NaN in results that are older than that column.
    """

    volume: str
    method: str
    band_A: float
    unknowns: int
    starts: int
    first_error: float
    second_error: float
    resolution_A: float
    correlation: float
    views: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Found:
    """A method's answer: a volume of so many unknowns, probabilities of the problem's directions, and moments."""

    volume: Volume
    unknowns: int
    views: Float[Tensor, "d"]
    moments: Moments


@dataclass(frozen=True, eq=False)
class Picture:
    """A method's map, aligned, and its views in the truth's frame: directions and probabilities."""

    aligned: Float[Tensor, "n n n"]
    directions: Float[Tensor, "d 3"]
    views: Float[Tensor, "d"]


Pictures = dict[str, dict[str, Picture]]
"""By the truth's name and the method's."""


def single(target: MomentTarget) -> MomentTarget:
    """The same in single precision."""
    first, second, weights = target.moments.first, target.moments.second, target.moments.weights
    moments = Moments(first.to(torch.complex64), second.to(torch.complex64), weights.float())
    return replace(target, moments=moments, variance=target.variance.float())


def pseudo_atom_problem(matching: Matching, settings: PseudoAtomSettings) -> PseudoAtomMatching:
    """The moments, to be matched by pseudo-atoms."""
    return PseudoAtomMatching(single(matching.target), matching.truth.max_radius, matching.truth.radius, settings)


def step_count(truths: Sequence[TrueVolume], size: VolumeTableSize, three: Mapping[str, ThreeMomentPlan]) -> int:
    """How many steps the table has.

    Args:
        truths: the volumes.
        size: how they are looked for.
        three: how third cumulants are matched as well.

    Returns:
        Their number.
    """
    plans = [(truth, size.plans[truth.name]) for truth in truths]
    searches = [
        search_step_count(pseudo_atom_problem(Matching(truth, plan.band_A), plan.pseudo_atoms)) for truth, plan in plans
    ]
    return (
        sum(searches)
        + sum(1 + plan.networks.members for _, plan in plans)
        + sum(three[truth.name].most_steps for truth in truths)
    )


def pseudo_atom_solutions(matching: Matching, settings: PseudoAtomSettings, steps: TimedSteps) -> dict[str, Found]:
    """The best solution, the mean, and the mean with a change on top that gives it the moments.

    Args:
        matching: the moments.
        settings: of the search.
        steps: keep the search's steps.

    Returns:
        Answers by their method's name.
    """
    problem, truth = pseudo_atom_problem(matching, settings), matching.truth
    generator = torch.Generator().manual_seed(matching.seed)

    def step(name: str, compute: Callable[[], Solution]) -> Solution:
        return Solution(**steps.record(f"{truth.name} {name}", lambda: vars(compute())))

    best = match_pseudo_atoms(problem, generator, step)
    molecules = [Molecule.of(problem, one) for one in best]
    mean = Consensus.of(molecules)
    trusted = replace(problem.target, count=settings.late_trust)
    change = corrected(mean, trusted, truth.radius, matching.directions)
    unknowns = 4 * settings.pseudo_atoms + 2 + settings.form_factor_terms + len(problem.background)
    answers = {"best": (molecules[0], unknowns), "mean": (mean, unknowns), "corrected": (change, change.unknowns)}
    return {f"pseudo-atoms, {name}": _found(matching, *answer) for name, answer in answers.items()}


def neural_solutions(matching: Matching, settings: NeuralSettings, steps: TimedSteps) -> dict[str, Found]:
    """What networks find in the mean, and another on top of that.

    Args:
        matching: the moments.
        settings: of the networks.
        steps: keep each network.

    Returns:
        Answers by their method's name.
    """
    projector, name = PolarProjector(matching.basis, matching.grid, matching.directions), matching.truth.name
    problem = NeuralEnsemble(single(matching.target), projector, matching.truth.max_radius, settings)
    generator = torch.Generator().manual_seed(matching.seed)

    def step(member: str, compute: Callable[[], Member]) -> Member:
        return Member(**steps.record(f"{name} {member}", lambda: vars(compute())))

    members = problem.members(generator, step)
    mean = Consensus.of(members)
    answers = {"FourierNets, mean": mean, "FourierNets, refined": problem.refined(mean, generator)}
    return {method: _found(matching, answer, problem.unknowns) for method, answer in answers.items()}


def _found(matching: Matching, answer: VoxelEstimate, unknowns: int) -> Found:
    volume, views = VoxelVolume(answer.voxels), answer.view_density(matching.directions)
    moments = uniform_moments(matching.templates(volume, matching.directions), views, matching.grid)
    return Found(volume, unknowns, views, moments)


def classical_solutions(matching: Matching, iterations: int) -> dict[str, Found]:
    """What the classical method finds."""
    generator = torch.Generator().manual_seed(matching.seed)
    best = match_moments(
        matching.target, matching.basis, matching.directions,
        starts=1, shift_px=0.0, iterations=iterations, generator=generator,
    )[0]  # fmt: skip
    projector = PolarProjector(matching.basis, matching.grid, matching.directions, torch.float64)
    views = best.log_density.exp()
    moments = uniform_moments(projector.templates(best.coefficients), views, matching.grid)
    volume = SphericalBesselVolume(matching.basis, best.coefficients)
    return {"coefficients": Found(volume, len(matching.basis), views, moments)}


def table(
    truths: Sequence[TrueVolume],
    size: VolumeTableSize,
    three: Mapping[str, ThreeMomentPlan],
    steps: Steps = NOT_KEPT,
) -> tuple[list[VolumeRow], Pictures]:
    """Every method on every truth, and the means that were found.

    Args:
        truths: the volumes.
        size: how they are looked for.
        three: how third cumulants are matched as well.
        steps: keep what is done, as long as it takes.

    Returns:
        Rows and pictures.
    """
    rows, pictures = [], {}
    for truth in truths:
        plan, shown = size.plans[truth.name], {}
        smooth, sparse = Matching(truth, plan.smooth_band_A), Matching(truth, plan.band_A)
        methods = (
            (1, smooth, lambda _, at=smooth: classical_solutions(at, size.iterations)),
            (plan.networks.members, smooth, partial(neural_solutions, smooth, plan.networks)),
            (plan.pseudo_atoms.starts, sparse, partial(pseudo_atom_solutions, sparse, plan.pseudo_atoms)),
        )
        for starts, matching, solve in methods:
            timed = TimedSteps(steps)
            found = solve(timed)
            seconds = timed.seconds
            for method, one in found.items():
                row, picture = judged(matching, one)
                rows.append(replace(row, method=method, starts=starts, seconds=seconds))
                if method.endswith("mean"):
                    shown[method] = picture
        row, shown["three moments"] = _three_moments(truth, three[truth.name], steps)
        rows.append(row)
        steps.callback()
        pictures[truth.name] = shown
    return rows, pictures


def _three_moments(truth: TrueVolume, plan: ThreeMomentPlan, steps: Steps) -> tuple[VolumeRow, Picture]:
    timed = TimedSteps(steps)
    solution = three_moment_solution(truth, plan, 0, timed)
    seconds = timed.seconds
    for _ in range(plan.most_steps - plan.steps(solution.starts)):  # of starts that were not needed
        steps.callback()
    row, picture = judged_solution(Matching(truth, plan.bands_A[-1]), solution)
    return replace(row, seconds=seconds), picture


def judged_solution(matching: Matching, solution: ThreeMomentSolution) -> tuple[VolumeRow, Picture]:
    """As :func:`judged`, of three moments; the row says whether starts agreed, and lacks the seconds."""
    problem, x = solution.problem, solution.candidate.x
    volume, views = problem.volume(x), problem.view_density(x, matching.directions)
    moments = uniform_moments(matching.templates(volume, matching.directions), views, matching.grid)
    row, picture = judged(matching, Found(volume, len(x), views, moments))
    method = f"three moments, starts {'agree' if solution.agreed else 'differ'}"
    return replace(row, method=method, starts=solution.starts), picture


def judged(matching: Matching, found: Found) -> tuple[VolumeRow, Picture]:
    """An answer beside the truth, its volume aligned and its views rotated with it; some of the row is left empty."""
    truth = matching.truth
    first, second = (float(error) for error in relative_errors(matching.target.moments, found.moments))
    volume = found.volume.to_grid(len(truth.voxels))
    alignment = align(volume, truth.voxels)
    aligned = alignment.apply(volume)
    resolution = fourier_shell_correlation(aligned, truth.voxels).cutoff_A(0.5, truth.voxel_size_A)
    agreement = alignment.correlation, matching.view_correlation(alignment, found.views)
    row = VolumeRow(truth.name, "", matching.band_A, found.unknowns, 0, first, second, resolution, *agreement, 0.0)
    return row, Picture(aligned, alignment.rotated(matching.directions), found.views)

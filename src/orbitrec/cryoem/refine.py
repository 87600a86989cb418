"""Likelihood refinement: a given map, marched through finer resolutions by any solver of :mod:`orbitrec.optim`.

At each resolution a sweep with the map held fixed gives every particle its likely directions and its centre. With those
fixed the likelihood, marginal over each particle's own directions, all in-plane angles and shifts around its centre, is
a finite sum in the map's coefficients, with a Gaussian prior from the map's own power: that is what a solver is given.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.config import FEWEST_PARTICLES, Options
from orbitrec.cryoem.image_statistics import image_statistics
from orbitrec.cryoem.level import DENSITY_FLOOR, ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.multiresolution import PosedVolume, Selection
from orbitrec.cryoem.pipeline import centred
from orbitrec.cryoem.pose_refinement import Poses
from orbitrec.cryoem.pose_search import Fixed, ParticleState, candidate_directions, images_at_once, shift_search, sweep
from orbitrec.cryoem.preprocess import ParticleModes, prepare
from orbitrec.cryoem.result import Ending, InitialModel, half_sets, rebuilt_map, refined_poses
from orbitrec.cryoem.starts import fitted_coefficients
from orbitrec.cryoem.symmetry import symmetrised
from orbitrec.errors import InputError
from orbitrec.evaluation.alignment import align
from orbitrec.inference.likelihood import Observations
from orbitrec.inference.orbit_likelihood import CryoEMLikelihood
from orbitrec.io.particles import ParticleStack
from orbitrec.optim.driver import Termination, run
from orbitrec.optim.solvers import StepInfo, Stepper, em
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.distributed import count
from orbitrec.runtime.progress import POSE, READ, REBUILD, SWEEP, RunState, Stage, restored
from orbitrec.volumes.voxel import VoxelVolume

SCALE_IMAGES = 300
"""Images that the map's scale and sign are found on."""


@dataclass(frozen=True)
class Refinement:
    """How to refine.

    ``solver``: of :mod:`orbitrec.optim.solvers`; ``passes``: its data passes at each resolution; ``candidates``: likely
    directions of a particle that the likelihood is marginal over.
    """

    solver: Stepper = field(default_factory=em)
    passes: float = 6
    candidates: int = 32


def refine(
    stack: ParticleStack,
    initial: Float[Tensor, "n n n"],
    options: Options,
    refinement: Refinement,
    callback: Callable[[str, float], None] = lambda stage, share: None,
    checkpoints: Checkpoints | None = None,
) -> InitialModel:
    """Refine a map on two half-sets of a stack: its scale and sign are found, poses are searched for anew.

    The halves begin with what the map shows at the first resolution, and then know nothing of each other.

    Args:
        stack: the particles; where the STAR file has origins, particles are taken to be centred there.
        initial: the map in the box and pixels of the stack.
        options: resolutions and particle size as for an initial model; the first of its march is what the map is
            believed to.
        refinement: solver and budget.
        callback: told the stage and the share of the work done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Raises:
        InputError: for too few particles, bad images, a map that does not resemble them at any scale, or options that
            do not fit the stack.
    """
    if len(stack) < FEWEST_PARTICLES:
        raise InputError(f"{len(stack)} particles are too few to refine on; give at least {FEWEST_PARTICLES}")
    halves, looked = half_sets(stack), image_statistics(stack)
    stack, options = looked.applied(stack), options.completed(looked)
    radius, bandwidths = options.radius_px(stack), options.bandwidths(stack).march
    rounds = len(bandwidths) * (refinement.passes + 1) + 1
    journal = RunState(
        torch.Generator().manual_seed(options.seed), (READ + POSE + REBUILD + SWEEP * rounds) * len(stack), callback,
        checkpoints or Checkpoints(),
    )  # fmt: skip
    reading = journal.reader("reading particles", READ)
    data = prepare(stack, max(bandwidths) / radius, radius + 3, progress=reading, device=options.device)
    journal.lap("read")
    particles = _centred(stack, data, radius, options, journal)
    journal.lap("centre")

    level = ResolutionLevel.at(data.grid, radius, bandwidths[0], device=data.device)
    start = _scaled(data, level, _fitted(level, initial), particles.centres)
    level, start, symmetry = symmetrised(level, start, options.group, data, particles.centres)
    found, poses = [], []
    for half in (1, 2):
        rows = (halves == half).nonzero().flatten()
        part = replace(data, modes=data.modes[rows], filter_index=data.filter_index[rows])
        begun = _State(0, start, ParticleState(particles.centres[rows], particles.residual_px))
        one = _HalfSet(f"half {half}", part, refinement, options.seed, journal)
        found.append(one.refined(radius, bandwidths, level, begun))
        poses.append(refined_poses(part, found[-1], journal, f"half {half} poses"))
    journal.lap("refine")
    together = _joined(halves, (poses[0], _aligned(poses[1], found[1], found[0])))
    rebuilt = rebuilt_map(stack, data.noise, together, halves, options, journal)
    given = Selection(level, start, 0, ["map"], [], [])
    return Ending(stack, data, looked, options, journal).result(
        together, halves, rebuilt, given, symmetry, independent=True
    )


def _aligned(poses: Poses, own: PosedVolume, other: PosedVolume) -> Poses:
    """Poses of one half-set in the frame of the other, from which the maps have drifted apart by a little.

    The map m of these poses becomes ``m(Rᵀ(x − s))``, which is seen from ``R R_j``, moved by minus s in that view.
    """
    moving, pixel = own.level.density(own.model)
    drift = align(moving, other.level.density(other.model)[0], hand=False, search=False)
    rotations = drift.rotation @ poses.rotations
    moved = torch.einsum("bji,j->bi", rotations, pixel * drift.shift_px)[:, :2]
    return Poses(rotations, poses.shifts_px - moved, poses.log_likelihood)


def _joined(halves: Int[Tensor, "N"], poses: tuple[Poses, Poses]) -> Poses:
    """The poses of all particles, in their order."""
    order = torch.cat([(halves == half).nonzero().flatten() for half in (1, 2)]).argsort()
    return Poses(*(torch.cat(column)[order] for column in zip(*(vars(part).values() for part in poses), strict=True)))


def _centred(
    stack: ParticleStack, data: ParticleModes, radius: float, options: Options, journal: RunState
) -> ParticleState:
    """Where the STAR file says, or where a radially symmetric template fits."""
    k_max = float(data.grid.nodes[-1])
    known = stack.poses()
    if known is not None and bool(known[1].any()):
        return ParticleState(known[1].double(), 1.0 / k_max)
    shift_px = options.shift_px if options.shift_px is not None else 0.05 * stack.n
    centring = centred(data, radius, k_max * radius, shift_px, journal)
    return ParticleState(centring.centres, max(centring.residual_px, 0.4 / k_max))


def _fitted(level: ResolutionLevel, grid: Float[Tensor, "n n n"]) -> VolumeAndViews:
    return VolumeAndViews(fitted_coefficients(level, VoxelVolume(grid.double())), level.uniform_views())


def _scaled(
    data: ParticleModes, level: ResolutionLevel, model: VolumeAndViews, centres: Float[Tensor, "N 2"]
) -> VolumeAndViews:
    """The sign and scale of greatest likelihood, by doubling from a faint map of either sign.

    Raises:
        InputError: if no scale explains the images better than no particle at all.
    """
    rows = torch.linspace(0, len(data) - 1, min(SCALE_IMAGES, len(data))).long()
    observed = data.observations(rows, level.grid, centres[rows], torch.zeros(1, 2).double(), torch.zeros(1))
    power = (
        level.projector.templates(model.coefficients).abs().square().sum(1).mean(0) * observed.ctf2_over_noise
    ).sum(1)
    faint = float(power.mean()) ** -0.5
    best, explained = model, 0.0
    for sign in (1, -1):
        previous = 0.0
        for doubling in range(24):
            tried = VolumeAndViews(sign * faint * 2 ** (doubling / 2) * model.coefficients, model.log_views)
            statistics, _ = level.expectation(tried, observed)
            if statistics.log_likelihood > explained:
                best, explained = tried, statistics.log_likelihood
            if statistics.log_likelihood < previous and doubling > 4:
                break
            previous = statistics.log_likelihood
    if explained == 0.0:
        raise InputError("at no scale does the map explain the images better than none; is it of these particles?")
    return best


@dataclass(frozen=True)
class _State:
    """Where a half-set is: steps done, its map, what is known of its particles, and their poses."""

    done: int
    model: VolumeAndViews
    particles: ParticleState
    rotations: Float[Tensor, "N 3 3"] | None = None
    shifts_px: Float[Tensor, "N 2"] | None = None

    def record(self) -> dict[str, object]:
        own = {"done": self.done, "rotations": self.rotations, "shifts_px": self.shifts_px}
        return {**own, **vars(self.model), **vars(self.particles)}

    @classmethod
    def of(cls, record: dict[str, Any]) -> "_State":
        model, particles = restored(VolumeAndViews, record), restored(ParticleState, record)
        return cls(record["done"], model, particles, record["rotations"], record["shifts_px"])


@dataclass(frozen=True)
class _HalfSet:
    """One of two sets of particles, each refined on its own: two steps at each resolution, and a last search."""

    name: str
    data: ParticleModes
    refinement: Refinement
    seed: int
    journal: RunState

    def refined(
        self, radius: float, bandwidths: tuple[float, ...], level: ResolutionLevel, state: _State
    ) -> PosedVolume:
        """Marched through ``bandwidths`` from a state at the first of them."""
        plan = [(bandwidth, step) for bandwidth in bandwidths for step in (self._surveyed, self._solved)]
        plan.append((bandwidths[-1], self._surveyed))
        saved = self.journal.load(self.name)
        if saved is not None:
            state = _State.of(saved)
            present = plan[state.done - 1][0]
            level = ResolutionLevel.at(self.data.grid, radius, present, level.basis.group, self.data.device)
        for bandwidth, step in plan[state.done :]:
            if bandwidth != level.bandwidth:
                finer = ResolutionLevel.at(self.data.grid, radius, bandwidth, level.basis.group, self.data.device)
                directions = state.particles.directions
                if directions is not None:
                    directions = directions @ finer.directional_kernel(level).mT
                particles = replace(state.particles, directions=directions)
                level, state = finer, replace(state, model=level.prolongated(state.model, finer), particles=particles)
            stepped = replace(step(level, state), done=state.done + 1)
            state = _State.of(self.journal.save(self.name, stepped.record()))
        assert state.rotations is not None
        assert state.shifts_px is not None
        return PosedVolume(level, state.model, state.particles, state.rotations, state.shifts_px)

    def _surveyed(self, level: ResolutionLevel, state: _State) -> _State:
        """A sweep with the map fixed: particles and the density of views brought up to date, and the best poses."""

        def report(level: ResolutionLevel, model: VolumeAndViews, likelihood: float, count: int) -> None:
            self.journal.advance(f"looking for poses, {self.name}", SWEEP * count)

        particles = replace(state.particles)
        order = torch.randperm(len(self.data), generator=self.journal.generator)
        poses = sweep(
            self.data, level, Fixed(state.model), particles, order, report,
            candidates=self.refinement.candidates, batch=1000,
        )  # fmt: skip
        assert particles.directions is not None
        views = particles.directions.mean(0)
        views = (1 - DENSITY_FLOOR) * views / views.sum() + DENSITY_FLOOR / len(views)
        return _State(state.done, VolumeAndViews(state.model.coefficients, views.log()), particles, *poses)

    def _solved(self, level: ResolutionLevel, state: _State) -> _State:
        """The map after the solver's passes, the density of views known."""
        stage, done = f"refine {self.name} to bandwidth {level.bandwidth:g}", 0.0
        seconds: dict[int, float] = {}

        def report(info: StepInfo) -> None:
            nonlocal done
            seconds[info.cost.epochs] = self.journal.elapsed()
            self.journal.advance(stage, SWEEP * (info.cost.measured - done) * len(self.data))
            done = info.cost.measured

        problem = level_likelihood(self.data, level, state.model, state.particles, self.refinement.candidates)
        stop, start = Termination(measured=self.refinement.passes), state.model.coefficients.double()
        alone = count() == 1  # several processes would have to agree on where to go on
        kept = self.journal.checkpoints.file(f"{self.name} solver at {level.bandwidth:g}") if alone else None
        result = run(
            self.refinement.solver, problem, start, stop, seed=self.seed, report=report, checkpoint=kept, every=1
        )
        resolution = 2 * math.pi * self.data.pixel_size_A / level.basis.k_max
        for info in result.trace:
            at = seconds.get(info.cost.epochs, self.journal.elapsed())
            self.journal.history.append(Stage(stage, info.cost.epochs, resolution, -info.value, at))
        return replace(state, model=VolumeAndViews(result.w.to(state.model.coefficients.dtype), state.model.log_views))


def level_likelihood(
    data: ParticleModes, level: ResolutionLevel, model: VolumeAndViews, particles: ParticleState, candidates: int
) -> CryoEMLikelihood:
    """The likelihood of the map at one resolution, each particle seen from its ``candidates`` likeliest directions."""
    shifts, log_shift = shift_search(level, particles)
    nearest = candidate_directions(level, particles, candidates)

    def observe(rows: Int[Tensor, "b"]) -> Observations:
        return data.observations(rows, level.grid, particles.centres[rows], shifts, log_shift)

    angles = level.circle.angles
    log_density = (model.log_views - math.log(angles))[:, None].expand(-1, angles).contiguous()
    power = data.ctf2_over_noise(torch.arange(len(data))).mean(0)[: level.grid.node_count]
    precision = 1 / level.prior_variance(model.coefficients).double()
    narrowed = nearest if nearest.shape[1] < len(level.directions) else None
    return CryoEMLikelihood(
        level.projector, level.circle, log_density, observe, len(data), power, precision,
        images_at_once(level, len(shifts)), narrowed,
    )  # fmt: skip

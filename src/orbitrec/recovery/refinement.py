"""Likelihood refinement: a given map, marched through finer resolutions by any solver of :mod:`orbitrec.optim`.

At each resolution a sweep with the map held fixed gives every particle its likely directions and its centre. With those
fixed the likelihood, marginal over each particle's own directions, all in-plane angles and shifts around its centre, is
a finite sum in the map's coefficients, with a Gaussian prior from the map's own power: that is what a solver is given.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.inference.likelihood import Observations
from orbitrec.io.particles import ParticleStack
from orbitrec.optim.driver import Stop, run
from orbitrec.optim.solvers import Info, Stepper, em
from orbitrec.recovery.abinitio import AbInitio, Selected
from orbitrec.recovery.centring import centre_marching
from orbitrec.recovery.cryoem_likelihood import CryoEMLikelihood
from orbitrec.recovery.pipeline import (
    CENTRING_BANDWIDTHS,
    FEWEST_PARTICLES,
    POSE,
    READ,
    REBUILD,
    SWEEP,
    Clock,
    InitialModel,
    Options,
    Progress,
    Stage,
    finished_model,
)
from orbitrec.recovery.preparation import ParticleModes, prepare
from orbitrec.recovery.search import DENSITY_FLOOR, Model, SearchLevel
from orbitrec.recovery.starts import fitted_coefficients
from orbitrec.recovery.sweep import Fixed, ParticleState, candidate_directions, images_at_once, shift_search, sweep
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
    listen: Callable[[str, float], None] = lambda stage, share: None,
) -> InitialModel:
    """Refine a map on a stack: the map's scale and sign are found, poses are searched for anew.

    Args:
        stack: the particles; where the STAR file has origins, particles are taken to be centred there.
        initial: the map in the box and pixels of the stack.
        options: resolutions and particle size as for an initial model; the first of its march is what the map is
            believed to.
        refinement: solver and budget.
        listen: told the stage and the share of the work done.

    Raises:
        InputError: for too few particles, bad images, a map that does not resemble them at any scale, or options that
            do not fit the stack.
    """
    if len(stack) < FEWEST_PARTICLES:
        raise InputError(f"{len(stack)} particles are too few to refine on; give at least {FEWEST_PARTICLES}")
    radius, bandwidths = options.radius_px(stack), options.bandwidths(stack).march
    generator = torch.Generator().manual_seed(options.seed)
    clock = Clock()
    rounds = len(bandwidths) * (refinement.passes + 1) + 1
    progress = Progress(listen, (READ + POSE + REBUILD + SWEEP * rounds) * len(stack))
    data = prepare(
        stack, max(bandwidths) / radius, radius + 3,
        progress=lambda count: progress.advance("reading particles", READ * count),
    )  # fmt: skip
    clock.lap("read")
    particles = _centred(stack, data, radius, options)
    clock.lap("centre")

    level = SearchLevel.at(data.grid, radius, bandwidths[0])
    model = _scaled(data, level, _fitted(level, initial), particles.centres)
    steps = _Steps(data, refinement, generator, options.seed, clock, progress)
    for bandwidth in bandwidths:
        if bandwidth != level.bandwidth:
            finer = SearchLevel.at(data.grid, radius, bandwidth)
            if particles.directions is not None:
                particles.directions = particles.directions @ finer.directional_kernel(level).mT
            level, model = finer, level.carried(model, finer)
        model, _ = steps.surveyed(level, model, particles)
        model = steps.solved(level, model, particles)
    model, poses = steps.surveyed(level, model, particles)
    clock.lap("refine")
    found, given = AbInitio(level, model, *poses), Selected(level, model, 0, ["map"], [])
    return finished_model(stack, data, found, radius, given, steps.history, clock, progress)


def _centred(stack: ParticleStack, data: ParticleModes, radius: float, options: Options) -> ParticleState:
    """Where the STAR file says, or where a radially symmetric template fits."""
    k_max = float(data.grid.nodes[-1])
    known = stack.poses()
    if known is not None and bool(known[1].any()):
        return ParticleState(known[1].double(), 1.0 / k_max)
    shift_px = options.shift_px if options.shift_px is not None else 0.05 * stack.n
    at = sorted({min(bandwidth / radius, k_max) for bandwidth in CENTRING_BANDWIDTHS})
    centring = centre_marching(data, at, prior_px=shift_px)
    return ParticleState(centring.centres, max(centring.residual_px, 0.4 / k_max))


def _fitted(level: SearchLevel, grid: Float[Tensor, "n n n"]) -> Model:
    return Model(fitted_coefficients(level, VoxelVolume(grid.double())), level.uniform_views())


def _scaled(data: ParticleModes, level: SearchLevel, model: Model, centres: Float[Tensor, "N 2"]) -> Model:
    """The sign and scale of greatest likelihood, by doubling from a faint map of either sign.

    Raises:
        InputError: if no scale explains the images better than no particle at all.
    """
    rows = torch.linspace(0, len(data) - 1, min(SCALE_IMAGES, len(data))).long()
    observed = data.observations(rows, level.grid, centres[rows], torch.zeros(1, 2).double(), torch.zeros(1))
    power = (level.projector.templates(model.coefficients).abs().square().sum(1).mean(0) * observed.filter_power).sum(1)
    faint = float(power.mean()) ** -0.5
    best, explained = model, 0.0
    for sign in (1, -1):
        previous = 0.0
        for doubling in range(24):
            tried = Model(sign * faint * 2 ** (doubling / 2) * model.coefficients, model.log_views)
            statistics, _ = level.expectation(tried, observed)
            if statistics.log_likelihood > explained:
                best, explained = tried, statistics.log_likelihood
            if statistics.log_likelihood < previous and doubling > 4:
                break
            previous = statistics.log_likelihood
    if explained == 0.0:
        raise InputError("at no scale does the map explain the images better than none; is it of these particles?")
    return best


@dataclass
class _Steps:
    """The two steps at each resolution, with the history they leave."""

    data: ParticleModes
    refinement: Refinement
    generator: torch.Generator
    seed: int
    clock: Clock
    progress: Progress
    history: list[Stage] = field(default_factory=list)

    def surveyed(
        self, level: SearchLevel, model: Model, particles: ParticleState
    ) -> tuple[Model, tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]]]:
        """A sweep with the map fixed: particles and the density of views brought up to date, and the best poses."""

        def report(level: SearchLevel, model: Model, likelihood: float, count: int) -> None:
            self.progress.advance("looking for poses", SWEEP * count)

        poses = sweep(
            self.data, level, Fixed(model), particles, torch.randperm(len(self.data), generator=self.generator), report,
            candidates=self.refinement.candidates, batch=1000,
        )  # fmt: skip
        assert particles.directions is not None
        views = particles.directions.mean(0)
        views = (1 - DENSITY_FLOOR) * views / views.sum() + DENSITY_FLOOR / len(views)
        return Model(model.coefficients, views.log()), poses

    def solved(self, level: SearchLevel, model: Model, particles: ParticleState) -> Model:
        """The map after the solver's passes, the density of views known."""
        stage, done = f"refine to bandwidth {level.bandwidth:g}", 0.0
        resolution = 2 * math.pi * self.data.pixel_size_A / level.basis.k_max

        def report(info: Info) -> None:
            nonlocal done
            self.history.append(Stage(stage, info.spent.epochs, resolution, -info.value, self.clock.elapsed()))
            self.progress.advance(stage, SWEEP * (info.spent.measured - done) * len(self.data))
            done = info.spent.measured

        problem = level_likelihood(self.data, level, model, particles, self.refinement.candidates)
        stop, start = Stop(measured=self.refinement.passes), model.coefficients.double()
        result = run(self.refinement.solver, problem, start, stop, seed=self.seed, report=report)
        return Model(result.w.to(model.coefficients.dtype), model.log_views)


def level_likelihood(
    data: ParticleModes, level: SearchLevel, model: Model, particles: ParticleState, candidates: int
) -> CryoEMLikelihood:
    """The likelihood of the map at one resolution, each particle seen from its ``candidates`` likeliest directions."""
    shifts, log_shift = shift_search(level, particles)
    nearest = candidate_directions(level, particles, candidates)

    def observe(rows: Int[Tensor, "b"]) -> Observations:
        return data.observations(rows, level.grid, particles.centres[rows], shifts, log_shift)

    angles = level.circle.angles
    log_density = (model.log_views - math.log(angles))[:, None].expand(-1, angles).contiguous()
    power = data.filter_power(torch.arange(len(data))).mean(0)[: level.grid.node_count]
    precision = 1 / level.prior_variance(model.coefficients).double()
    narrowed = nearest if nearest.shape[1] < len(level.directions) else None
    return CryoEMLikelihood(
        level.projector, level.circle, log_density, observe, len(data), power, precision,
        images_at_once(level, len(shifts)), narrowed,
    )  # fmt: skip

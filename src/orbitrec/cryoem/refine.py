"""Likelihood refinement: a given map, from coarse to fine resolutions by any solver of :mod:`orbitrec.optim`.

At each resolution a pose search with the map held gives every particle its likely directions and its centre. With those
held the likelihood, marginal over each particle's own directions, all in-plane angles and shifts around its centre, is
a finite sum in the map's coefficients, with a Gaussian prior from the map's own power: that is what a solver is given.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.cryoem.centring import centred
from orbitrec.cryoem.config import FEWEST_PARTICLES, RefineConfig
from orbitrec.cryoem.halves import joined, placed
from orbitrec.cryoem.image_statistics import image_statistics
from orbitrec.cryoem.memory import require_memory
from orbitrec.cryoem.outliers import with_outliers
from orbitrec.cryoem.preprocess import ParticleModes, preprocess
from orbitrec.cryoem.result import PosedMap, Session, half_sets
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.likelihood import centred_likelihood
from orbitrec.cryoem.search.multi_start import Selection
from orbitrec.cryoem.search.multiresolution import PosedVolume, Search, SearchState, frequency_marching
from orbitrec.cryoem.search.pose_search import ParticleState
from orbitrec.cryoem.search.starts import fitted_coefficients
from orbitrec.cryoem.symmetry import impose_symmetry
from orbitrec.errors import InputError
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Callback, RunState, Stage, ignore
from orbitrec.volumes.voxel import VoxelVolume

SCALE_IMAGES = 300
"""Number of images on which the map's scale and sign are found."""


def refined_map(
    stack: ParticleStack,
    initial: Float[Tensor, "n n n"],
    config: RefineConfig,
    callback: Callback = ignore,
    checkpoints: Checkpoints | None = None,
) -> PosedMap:
    """A map refined on two half-sets of a stack: its scale and sign are found, poses are searched for anew.

    Both halves begin with what the map shows at the first resolution; from then on they are independent.

    Args:
        stack: the particles. If their table has origins, particles are taken to be centred there.
        initial: the map in the box and pixels of the stack.
        config: of the refinement. The map is used up to the first bandwidth of its schedule.
        callback: called with the status of the run whenever work has been done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Returns:
        Map, poses, and how they were found.

    Raises:
        InputError: for too few particles, bad images, a map that does not resemble them at any scale, or a
            configuration that does not fit the stack.
    """
    if len(stack) < FEWEST_PARTICLES:
        raise InputError(f"{len(stack)} particles are too few to refine on; give at least {FEWEST_PARTICLES}")
    halves, statistics = half_sets(stack), image_statistics(stack)
    stack, config = statistics.applied(stack), config.with_diameter(statistics.diameter_A)
    radius, schedule = config.radius_px(stack), config.schedule_for(stack)
    generator, total = torch.Generator().manual_seed(config.seed), _work(len(schedule.bandwidths), config) * len(stack)
    run = RunState(generator, total, callback, checkpoints or Checkpoints())
    k_max = max(schedule.bandwidths) / radius
    require_memory(stack, k_max, radius, copies=1.5)  # those of one half-set once more
    data = preprocess(stack, k_max, radius + 3, progress=run.counter(Stage.READING), device=config.device)
    data = with_outliers(data, radius)
    run.timer("read")
    session = Session(stack, data, statistics, config, run)
    particles = _centred(session, radius)
    run.timer("centre")

    level = ResolutionLevel.at(data.grid, radius, schedule.bandwidths[0], device=data.device)
    start = _scaled(data, level, _fitted(level, initial), particles.centres)
    level, start, symmetry = impose_symmetry(level, start, config.group, data, particles.centres)
    found, poses = [], []
    for half in (1, 2):
        rows = (halves == half).nonzero().flatten()
        part = data.subset(rows)
        search = Search(part, schedule.candidates, run, Stage.REFINEMENT, f"half {half}")
        begun = SearchState(start, ParticleState(particles.centres[rows], particles.residual_px))
        found.append(_half_refined(search, level, begun, schedule.bandwidths, config))
        poses.append(session.refined_poses(found[-1], f"half {half} poses", part))
    run.timer("refine")
    moved = placed(poses[1], found[1], found[0], apart=False)
    together = joined(halves, (poses[0], moved.poses))
    given = Selection(level, start, 0, ["map"], [], [])
    return session.result(together, found[0].level, halves, given, symmetry, agreement=moved.agreement)


def _half_refined(
    search: Search, level: ResolutionLevel, state: SearchState, bandwidths: tuple[float, ...], config: RefineConfig
) -> PosedVolume:
    """One half-set: a pose search and a solver's passes at each resolution, and a last search."""
    plan = [
        (bandwidth, step)
        for bandwidth in bandwidths
        for step in (
            search.pose_search,
            search.solved(config.solver, config.passes, config.seed, f"{search.part} solver at {bandwidth:g}"),
        )
    ]
    last = replace(search, counted=True)
    return frequency_marching(search.part, search, level, state, [*plan, (bandwidths[-1], last.pose_search)])


def _work(levels: int, config: RefineConfig) -> float:
    """For each image, in the units of :attr:`Stage.cost`."""
    searches = Stage.POSE_SEARCH.cost * (levels + 1) + Stage.REFINEMENT.cost * levels * config.passes
    return searches + Stage.READING.cost + Stage.POSE_REFINEMENT.cost + Stage.RECONSTRUCTION.cost


def _centred(session: Session, radius: float) -> ParticleState:
    """Centres from the particles' table, or from the fit of a radially symmetric template."""
    stack, data, config = session.stack, session.data, session.config
    k_max = float(data.grid.nodes[-1])
    known = stack.poses()
    if known is not None and bool(known[1].any()):
        return ParticleState(known[1].double(), 1.0 / k_max)
    shift_px = config.shift_px if config.shift_px is not None else 0.05 * stack.n
    centring = centred(data, radius, k_max * radius, shift_px, session.run)
    return ParticleState(centring.centres, max(centring.residual_px, 0.4 / k_max))


def _fitted(level: ResolutionLevel, grid: Float[Tensor, "n n n"]) -> VolumeAndViews:
    return VolumeAndViews(fitted_coefficients(level, VoxelVolume(grid.double())), level.uniform_views())


def _scaled(
    data: ParticleModes, level: ResolutionLevel, model: VolumeAndViews, centres: Float[Tensor, "N 2"]
) -> VolumeAndViews:
    """The sign and scale of greatest likelihood, by doubling from a map of low energy and either sign.

    Raises:
        InputError: if no scale explains the images better than no particle at all.
    """
    rows = torch.linspace(0, len(data) - 1, min(SCALE_IMAGES, len(data))).long()
    problem = centred_likelihood(data, level, centres, rows)
    shells = level.projector.templates(model.coefficients).abs().square().sum(1).mean(0).cpu()
    energy = float((shells * problem.data.ctf2_over_noise).sum())
    lowest, signs = (energy**-0.5, (1, -1)) if energy > 0 else (0.0, ())  # an empty map has no scale
    best, explained = model, 0.0
    for sign in signs:
        previous = 0.0
        for doubling in range(24):
            tried = VolumeAndViews(sign * lowest * 2 ** (doubling / 2) * model.coefficients, model.log_views)
            likelihood = problem.statistics(level.unknowns(tried)).log_likelihood
            if likelihood > explained:
                best, explained = tried, likelihood
            if likelihood < previous and doubling > 4:
                break
            previous = likelihood
    if explained == 0.0:
        raise InputError("at no scale does the map explain the images better than none; is it of these particles?")
    return best

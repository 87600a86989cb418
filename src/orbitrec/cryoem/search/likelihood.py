"""The likelihood at one resolution as a finite sum, the form that solvers of :mod:`orbitrec.optim` work on."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.preprocess import NO_SHIFT, ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel, ShellPowerPrior, VolumeAndViews
from orbitrec.cryoem.search.pose_search import ParticleState, candidate_directions, images_at_once, shift_search
from orbitrec.inference.group_density import EstimatedDirections, KnownDensity
from orbitrec.inference.likelihood import Observations
from orbitrec.inference.orbit_likelihood import MStep, ObservationSet, OrbitLikelihood, Recorder

FEW_ITERATIONS = MStep(dense=0, iterations=8, relative_residual=1e-3)
"""How a generalised EM step is solved: after one batch, whose statistics are noisy, more iterations are wasted."""


def centred_likelihood(
    data: ParticleModes, level: ResolutionLevel, centres: Float[Tensor, "N 2"], rows: Int[Tensor, "n"]
) -> OrbitLikelihood:
    """The likelihood of volume and views given centred particles: all directions are searched, and no shift.

    Args:
        data: the particles.
        level: the resolution.
        centres: (N, 2) displacement of each particle's content, in pixels.
        rows: indices of the particles that are used.

    Returns:
        The likelihood, with the prior and the M-step of an ab initio search.
    """

    def observe(index: Int[Tensor, "b"]) -> Observations:
        own = rows[index]
        return data.observations(own, level.grid, centres[own], NO_SHIFT, torch.zeros(1))

    power = data.ctf2_over_noise(rows).mean(0)[: level.grid.node_count]
    observed = ObservationSet(observe, len(rows), power, batch=max(1, len(rows)))
    return OrbitLikelihood(
        level.projector, level.circle, _unknown_views(level), observed, ShellPowerPrior(level), FEW_ITERATIONS
    )


def searched_likelihood(
    data: ParticleModes,
    level: ResolutionLevel,
    particles: ParticleState,
    candidates: int,
    record: Recorder | None = None,
    counted: bool = False,
) -> OrbitLikelihood:
    """The likelihood of volume and views, each particle searched near its last posterior.

    It is marginal over a particle's ``candidates`` most probable directions, all in-plane angles, and shifts around its
    centre: the sum (4.25) restricted to where the posterior is not negligible.

    Args:
        data: the particles.
        level: the resolution.
        particles: what is known of each of them.
        candidates: directions that a particle is compared with once its search has been narrowed.
        record: called with the indices and the posterior of the particles of every E-step.
        counted: whether significant samples are counted for it.

    Returns:
        The likelihood, with the prior and the M-step of an ab initio search.
    """
    shifts, log_shift = shift_search(level, particles)
    nearest = candidate_directions(level, particles, candidates)

    def observe(rows: Int[Tensor, "b"]) -> Observations:
        own = shifts if particles.trials is None else shifts[rows]
        return data.observations(rows, level.grid, particles.centres[rows], own, log_shift)

    power = data.ctf2_over_noise(torch.arange(len(data))).mean(0)[: level.grid.node_count]
    narrowed = nearest if nearest.shape[1] < len(level.directions) else None
    batch = images_at_once(level, shifts.shape[-2])
    observed = ObservationSet(observe, len(data), power, batch, narrowed, record, counted)
    return OrbitLikelihood(
        level.projector, level.circle, _unknown_views(level), observed, ShellPowerPrior(level), FEW_ITERATIONS
    )


def given_views(problem: OrbitLikelihood, level: ResolutionLevel, model: VolumeAndViews) -> OrbitLikelihood:
    """The same likelihood as a function of the volume alone, with the model's views and a fixed prior.

    The prior is that of the model's own power. With both held, the objective is one function, whose values at two
    points a solver can compare.

    Args:
        problem: the likelihood of volume and views.
        level: its resolution.
        model: gives the views and the prior.

    Returns:
        The likelihood of the volume's coefficients.
    """
    angles = level.circle.angles
    log_density = (model.log_views - math.log(angles))[:, None].expand(-1, angles).contiguous()
    prior = ShellPowerPrior(level).fixed(model.coefficients)
    return OrbitLikelihood(problem.projector, problem.circle, KnownDensity(log_density), problem.data, prior)


def _unknown_views(level: ResolutionLevel) -> EstimatedDirections:
    return EstimatedDirections(len(level.directions), level.circle.angles, level.view_floor, level.projector.dtype)

"""Starts of the search: volumes from the stack's moments, beside random ones of low energy.

Moments are matched with the settings that were found best for them: frequencies up to two thirds of the first
bandwidth's, in a ball of radius 0.44 box, since everything in the images enters the moments and not only the particle.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.cryoem.accumulate import accumulate_moments
from orbitrec.cryoem.config import StartKind
from orbitrec.cryoem.preprocess import NO_SHIFT, ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews, design_degree
from orbitrec.densities.kernel import smoothing_weights
from orbitrec.evaluation.symmetry import find_axes
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.io.particles import ParticleStack
from orbitrec.models.cryoem import polar_templates
from orbitrec.moments.matching import MomentTarget, match_moments
from orbitrec.networks.momnet_moments import interpolated_moments, log_views
from orbitrec.networks.pretrained import load_momnet
from orbitrec.optim.conjugate_gradients import solve_symmetric
from orbitrec.volumes.base import Volume
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume

FREQUENCY_SHARE = 2 / 3
BALL_SHARE = 0.44
DENSITY_DEGREE = 4
SEEDED_SHARE = 0.1
"""Power of the random part of a start that is otherwise a sphere. From 3 % and from 10 % EM comes to the same maps;
from starts of low energy it stays on the sphere."""
AVERAGED = 2000
"""Particles whose mean makes the sphere."""


@dataclass(frozen=True)
class Start:
    """A model to begin with and the kind of start it is."""

    kind: StartKind
    model: VolumeAndViews


def matched_starts(
    kind: StartKind,
    stack: ParticleStack,
    rows: Int[Tensor, "n"],
    level: ResolutionLevel,
    count: int,
    generator: torch.Generator,
) -> list[Start]:
    """Starts from the moments of a stack.

    Args:
        kind: by matching moments, or by the pretrained network.
        stack: the particles.
        rows: (n,) indices of those that are used.
        level: the resolution of the starts.
        count: how many are wanted; the network has one, and the kind ``random`` none.
        generator: source of the random numbers of moment matching.

    Returns:
        At most ``count`` starts.

    Raises:
        InputError: if the images do not reach the network's resolution, or one of them is bad.
    """
    if kind.at_most(count) == 0:
        return []
    if kind is StartKind.momnet:
        return [momnet_start(stack, rows, level)]
    return moment_starts(stack, rows, level, count, generator)


def moment_starts(
    stack: ParticleStack,
    rows: Int[Tensor, "n"],
    level: ResolutionLevel,
    count: int,
    generator: torch.Generator,
) -> list[Start]:
    """Starts by moment matching: one pass over the stack for its moments, then several matches of them.

    Each match gives a volume and a density of views; the particles' shifts are fitted as one Gaussian, (3.6) and (3.7).
    See :func:`orbitrec.moments.matching.match_moments` for the loss.

    Args:
        stack: the particles.
        rows: (n,) indices of those that are used.
        level: the resolution of the starts.
        count: how many.
        generator: source of the random numbers of moment matching.

    Returns:
        The starts, in order of their loss.

    Raises:
        InputError: if an image is bad.
    """
    if count == 0:
        return []
    pixel, n, k_max = stack.pixel_size_A, stack.n, level.basis.k_max
    resolution_A = min(2 * math.pi * pixel / (FREQUENCY_SHARE * k_max), n * pixel)
    moments = accumulate_moments(stack, resolution_A, n * pixel / 2, rows=rows, device=level.projector.device)
    shrink = moments.grid.box / n  # they count lengths in larger pixels
    radius = BALL_SHARE * moments.grid.box
    group = level.basis.group
    basis = SphericalBesselBasis(radius, float(moments.grid.nodes[-1]) + math.pi / radius, group=group)
    target = MomentTarget.estimated(moments)
    own = basis.rescaled(shrink)
    starts = []
    # Means over views want an exact rule, which directions in an asymmetric unit are not.
    directions = level.directions if group.order == 1 else spherical_design(design_degree(level.bandwidth))
    degree = 0 if level.view_floor == 1 else DENSITY_DEGREE
    for match in match_moments(target, basis, directions, generator=generator, starts=count, density_degree=degree):
        # An orthonormal function's transform goes with radius^{3/2}, polar coordinates with frequency.
        volume = SphericalBesselVolume(own, match.coefficients * math.sqrt(shrink))
        log_views = match.log_density
        if group.order > 1:
            near = smoothing_weights(directions, level.directions, len(directions) / 4)
            log_views = (near @ log_views.exp()).log().log_softmax(0)
        log_views = log_views.to(level.projector.dtype)
        starts.append(Start(StartKind.moments, VolumeAndViews(fitted_coefficients(level, volume), log_views)))
    return starts


def momnet_start(stack: ParticleStack, rows: Int[Tensor, "n"], level: ResolutionLevel) -> Start:
    """A start by the pretrained network: one pass over the stack for its moments, and what the network makes of them.

    Args:
        stack: the particles.
        rows: (n,) indices of those that are used.
        level: the resolution of the start.

    Returns:
        The start.

    Raises:
        InputError: if the images do not reach the network's resolution.
    """
    net, pixel, n = load_momnet(), stack.pixel_size_A, stack.n
    radius = level.basis.radius
    k_max = net.setting.grid_for(n, radius).k_max
    moments = accumulate_moments(
        stack, 2 * math.pi * pixel / k_max, n * pixel / 2, rows=rows, device=level.projector.device
    )
    shrink = moments.grid.box / n  # they count lengths in larger pixels
    target = interpolated_moments(moments.estimate(), moments.grid, net.setting, radius * shrink)
    with torch.no_grad():
        found = net(target)
    small = net.setting.volume(found.coefficients[0], radius * shrink)
    own = SphericalBesselBasis(radius, small.basis.k_max * shrink)
    volume: Volume = SphericalBesselVolume(own, small.coefficients * math.sqrt(shrink))
    if level.basis.group.order > 1:
        density = volume.to_grid(n).double()
        volume = VoxelVolume(find_axes(density, level.basis.group).standard(density))
        return Start(StartKind.momnet, VolumeAndViews(fitted_coefficients(level, volume), level.uniform_views()))
    views = log_views(found, net.setting, level.directions).to(level.projector.dtype)
    return Start(StartKind.momnet, VolumeAndViews(fitted_coefficients(level, volume), views))


def random_starts(
    level: ResolutionLevel, ctf2_over_noise: Float[Tensor, "k"], count: int, generator: torch.Generator
) -> list[Start]:
    """Random volumes of low energy, with uniform views (:meth:`ResolutionLevel.random_model`).

    Args:
        level: the resolution of the starts.
        ctf2_over_noise: (k,) mean h² of the particles.
        count: how many.
        generator: source of the random coefficients.

    Returns:
        The starts.
    """
    return [Start(StartKind.random, level.random_model(generator, ctf2_over_noise)) for _ in range(count)]


def seeded_spheres(
    level: ResolutionLevel, data: ParticleModes, centres: Float[Tensor, "N 2"], count: int, generator: torch.Generator
) -> list[Start]:
    """The sphere that explains the particles best, with random parts that are not spherical, and uniform views.

    A shell under T, O or I is a sphere but for a few per cent of its power. EM from a volume of low energy finds the
    sphere first and stays there, since its posteriors are flat whatever the rest is.

    Args:
        level: the resolution of the starts.
        data: the particles.
        centres: (N, 2) displacement of each particle's content, in pixels.
        count: how many starts.
        generator: source of the random coefficients.

    Returns:
        The starts; each random part has :data:`SEEDED_SHARE` of the power, and the sphere's spectrum.
    """
    rows = data.inliers().nonzero().flatten()
    rows = rows[torch.linspace(0, len(rows) - 1, min(AVERAGED, len(rows))).long()]
    observed = data.observations(rows, level.grid, centres[rows], NO_SHIFT, torch.zeros(1))
    power = observed.ctf2_over_noise.sum(0)
    templates = observed.modes.new_zeros(len(level.directions), *observed.modes.shape[2:])
    templates[:, 0] = observed.modes[:, 0, 0].real.sum(0) / power  # of a sphere, mode 0 is all there is
    sphere = _fitted(level, templates, power / len(rows)).double()
    round_part = level.basis.lm == 0
    sphere[~round_part] = 0
    deviation = level.prior_variance(sphere).double().sqrt()
    deviation[round_part] = 0
    energy, starts = SEEDED_SHARE / (1 - SEEDED_SHARE) * sphere.square().sum(), []
    for _ in range(count):
        drawn = deviation * torch.randn(len(sphere), generator=generator, dtype=torch.float64)
        w = (sphere + drawn * (energy / drawn.square().sum()).sqrt()).to(level.projector.dtype)
        starts.append(Start(StartKind.random, VolumeAndViews(w, level.uniform_views())))
    return starts


def fitted_coefficients(level: ResolutionLevel, volume: Volume) -> Float[Tensor, "p"]:
    """Coefficients of any volume in the level's basis, by regularised least squares on its templates."""
    return _fitted(level, polar_templates(volume, level.grid, level.directions), torch.ones(level.grid.node_count))


def _fitted(
    level: ResolutionLevel, templates: Complex[Tensor, "d m k"], weight: Float[Tensor, "k"]
) -> Float[Tensor, "p"]:
    """Coefficients whose templates are nearest to given ones, with a weight for each frequency."""
    projector = level.projector
    kind = torch.complex64 if projector.dtype == torch.float32 else torch.complex128
    weight = weight.to(projector.device, projector.dtype).expand(len(level.directions), -1)
    right = projector.adjoint(templates.to(projector.device, kind) * weight[:, None])
    ridge = 1e-3 * projector.uniform_diagonal(weight.sum(0))
    return solve_symmetric(lambda w: projector.normal(w, weight) + ridge * w, right, iterations=50)

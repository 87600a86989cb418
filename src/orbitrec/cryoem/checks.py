"""Quality checks of a finished run: for each thing that goes wrong in practice, a test and a sentence.

Thresholds are far from the values of good data, so that most runs get no sentence.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.cryoem.config import FEWEST_PARTICLES
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.reconstruct import CombinedMap
from orbitrec.cryoem.search.multi_start import Selection
from orbitrec.cryoem.symmetry import SymmetryCheck
from orbitrec.evaluation.orientation import ConicalFSC, FourierSampling
from orbitrec.geometry.grids import radii
from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.geometry.quadrature import spherical_design

FEW_PARTICLES = 1000
CONE_DEG = 20.0
"""Half-angle of the cone, and half-width of the belt, in which views are counted."""
COLLAPSED_SHARE = 0.5
"""Share of all views in one cone above which they have collapsed; the cone holds 6 % of uniform views."""
UNSEEN_SHARE = 0.1
"""Slices through a direction, over those of uniform views, below which the direction is hardly seen."""
ANISOTROPIC = 0.2
"""Conical FSC area ratio below which a map is smeared; cryoSPARC calls below 0.5 anisotropic, as many good maps are."""
SILENT_SHARE = 0.02
"""Power of the CTF, over that at neighbouring frequencies, below which a frequency is not measured."""
EDGE_SHARE = 0.5
"""Largest share of the density's power in the outer tenth of the ball's radius, a quarter of its volume."""
AS_GOOD = 0.01
"""Starts whose likelihood is within this share of the best explain the particles as well."""
SYMMETRIC = 0.5
"""Mean correlation of a map's shells with themselves rotated, below which it does not have a symmetry."""
SYMMETRIC_KEPT = 0.9
"""Share of the log-likelihood that a map with the symmetry keeps when it is averaged over it."""
ROUND = 0.005
"""Share of a start's power in functions that are not spherical, below which it shows nothing of T, O or I. Of real
apoferritin it is 0.018 where EM begins with the true map and below 0.0005 where it stays on a sphere."""
FEW_SLICES = 0.2
"""SCF* of a map with the symmetry T, O or I below which its views have collapsed; equivalent views make it near 1. Of
real apoferritin it is 0.03 where particles gather on few directions."""
MANY_OUTLIERS = 0.1
"""Share of images that are no views, above which a run says so."""
OTHER_MAP = 0.8
"""Correlation below which maps at this resolution are not the same."""


@dataclass(frozen=True)
class Evidence:
    """What a result is judged by.

    Attributes:
        combined: map and half-maps.
        rotations: (N, 3, 3) RELION's rotation of every particle.
        group: the symmetry that was imposed.
        radius: of the particle's ball, in pixels.
        pixel_size_A: of the images, in Å.
        data: the particles.
        selection: the starts.
        symmetry: how symmetric the map was before a symmetry was imposed; None without.
        sampling: how the views sample Fourier space.
        conical_fsc: the half-maps' correlation in each direction, within the mask.
        inlier: (images,) probability that each particle is a view of the map.
        agreement: correlation of the maps of half-sets that were worked on apart; None if one model posed both.
    """

    combined: CombinedMap
    rotations: Float[Tensor, "N 3 3"]
    group: PointGroup
    radius: float
    pixel_size_A: float
    data: ParticleModes
    selection: Selection
    symmetry: SymmetryCheck | None
    sampling: FourierSampling
    conical_fsc: ConicalFSC
    inlier: Float[Tensor, "images"]
    agreement: float | None


def quality_checks(evidence: Evidence) -> list[str]:
    """One sentence for each reason to doubt the result; most results have none."""
    parts = (_particles, _outliers, _halves, _symmetry, _round, _starts, _views, _resolution, _ball, _silent_shells)
    return [sentence for part in parts for sentence in part(evidence)]


def _particles(evidence: Evidence) -> Iterator[str]:
    count = len(evidence.rotations)
    if count < FEWEST_PARTICLES:
        yield (
            f"{count} images without CTF are taken for class averages: each counts alike, however many particles it "
            "stands for, and views that none of them shows are missing. Expect an outline at best, to begin from with "
            "the particles themselves; resolutions of so few images mean little."
        )
    elif count < FEW_PARTICLES:
        yield f"{count} particles are few: expect the outline of the particle, and another run to differ in the rest."


def _outliers(evidence: Evidence) -> Iterator[str]:
    share = float((evidence.inlier < 0.5).double().mean())
    if share > MANY_OUTLIERS:
        yield (
            f"{100 * share:.0f} % of the images look like no view of the particle and have no part in the map: ice, "
            "contamination or empty boxes, or a map that is wrong; look at some of them (particle_statistics.csv)."
        )


def _halves(evidence: Evidence) -> Iterator[str]:
    if evidence.agreement is not None and evidence.agreement < OTHER_MAP:
        yield (
            "The two half-sets, worked on apart, ended in different maps (correlation "
            f"{evidence.agreement:.2f}): do not believe this one; clean the particles, or collect more."
        )


def _symmetry(evidence: Evidence) -> Iterator[str]:
    found = evidence.symmetry
    if found is not None and (found.score < SYMMETRIC or found.kept < SYMMETRIC_KEPT):
        yield (
            f"The map does not show the symmetry {found.group} that was asked for: its shells correlate by "
            f"{found.score:.2f} with themselves rotated, and averaged it keeps {100 * found.kept:.0f} % of the "
            "likelihood; run without a symmetry and look."
        )


def _round(evidence: Evidence) -> Iterator[str]:
    basis, power = evidence.selection.level.basis, evidence.selection.model.coefficients.square()
    if basis.group.polyhedral and float(power[basis.lm != 0].sum() / power.sum()) < ROUND:
        yield (
            f"The search ended on a sphere, which has the symmetry {basis.group} and no detail: do not believe the map "
            "or its poses; other seeds, a finer `resolution_A` or the right `diameter_A` may help."
        )
    if evidence.group.polyhedral and evidence.sampling.scf_star < FEW_SLICES:
        yield (
            f"With the symmetry {evidence.group} views cover everything many times over, yet these lie on few "
            f"directions (SCF* {evidence.sampling.scf_star:.2f}): the search collapsed; do not believe the map or its "
            "poses."
        )


def _starts(evidence: Evidence) -> Iterator[str]:
    candidates = evidence.selection.candidates
    best = max((candidate.score for candidate in candidates), default=0.0)
    for candidate in candidates:
        if candidate.score > best - AS_GOOD * abs(best) and candidate.agreement < OTHER_MAP:
            yield (
                f"Start {candidate.start + 1} explains the particles as well as the chosen one and is another map "
                f"(correlation {candidate.agreement:.2f}): the result may be one of several; try other seeds."
            )


def view_shares(
    rotations: Float[Tensor, "N 3 3"], group: PointGroup = NO_SYMMETRY
) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """How evenly views cover the sphere: for many directions, the share of views near each, and the slices through it.

    A view and its opposite are the same. The slice of a view goes through the directions at right angles to it.

    Args:
        rotations: (N, 3, 3) RELION's rotation of every particle.
        group: of the map; views that it makes equivalent count as one at each of their directions.

    Returns:
        Share of the views in a cone around each direction, and the number of slices that go near it over that of
        uniform views.
    """
    directions = spherical_design(15)
    half = math.radians(CONE_DEG)
    cone, slices = torch.zeros(2, len(directions), dtype=torch.float64)
    for element in group.matrices():
        cosine = (directions @ element @ rotations[:, :, 2].to(directions).mT).abs()
        cone += (cosine > math.cos(half)).double().mean(1) / group.order
        slices += (cosine < math.sin(half)).double().mean(1) / group.order / math.sin(half)
    return cone, slices


def _views(evidence: Evidence) -> Iterator[str]:
    cone, slices = view_shares(evidence.rotations, evidence.group)
    if float(cone.max()) > COLLAPSED_SHARE:
        yield (
            f"{100 * float(cone.max()):.0f} % of the views are within {CONE_DEG:.0f}° of one axis: either the "
            "particles lie that way, or the search collapsed; other seeds tell, and a tilted data set helps."
        )
    if float(slices.min()) < UNSEEN_SHARE:
        yield (
            f"Some directions of the map are hardly seen from any view (SCF* {evidence.sampling.scf_star:.2f}), so it "
            "is smeared along them: collect other views, or tilt."
        )
    elif evidence.conical_fsc.area_ratio < ANISOTROPIC:
        finest, coarsest = evidence.conical_fsc.extremes_A(evidence.pixel_size_A)
        yield (
            f"The resolution depends on the direction, {finest:.1f} Å in one and "
            f"{'none' if math.isinf(coarsest) else f'{coarsest:.1f} Å'} in another (cFAR "
            f"{evidence.conical_fsc.area_ratio:.2f}): the map may be smeared there."
        )


def _resolution(evidence: Evidence) -> Iterator[str]:
    limit = 2 * evidence.pixel_size_A
    found = evidence.combined.masked.corrected.cutoff_A(0.143, evidence.pixel_size_A)
    if math.isinf(found):
        yield "The half-maps have nothing in common: this is no reconstruction."
    elif found < 1.05 * limit:
        yield (
            f"The resolution is at the limit of the pixels, {limit:.1f} Å: extract the particles with smaller pixels "
            "to see more."
        )


def _ball(evidence: Evidence) -> Iterator[str]:
    n, radius = len(evidence.combined.volume), evidence.radius
    distance = radii(n, 3)
    density = evidence.combined.volume.clamp(min=0).double().square()
    inside = float(density[distance < radius].sum())
    edge = float(density[(distance > 0.9 * radius) & (distance < radius)].sum())
    if inside > 0 and edge / inside > EDGE_SHARE:
        yield (
            f"Most of the density lies at the edge of its ball, an empty shell: the particle is larger or smaller than "
            f"{2 * radius * evidence.pixel_size_A:.0f} Å (`diameter_A`), or nothing was found."
        )


def _silent_shells(evidence: Evidence) -> Iterator[str]:
    nodes = evidence.data.grid.nodes
    power = evidence.data.ctf2_over_noise(torch.arange(len(evidence.data))).double().mean(0)
    around = torch.stack([power.roll(shift) for shift in (-2, -1, 1, 2)]).amax(0)
    silent = (power < SILENT_SHARE * around)[2:-2] & (nodes[2:-2] > math.pi / evidence.radius)
    for k in nodes[2:-2][silent].tolist():
        yield (
            f"No particle's CTF passes {2 * math.pi * evidence.pixel_size_A / k:.0f} Å, so the map has an empty shell "
            "there: use micrographs of several defocus values."
        )

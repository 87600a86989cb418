"""What an alignment adds: volumes with the right moments, as they stand under the true views and aligned to the truth.

    python benchmarks/thesis/moment_frames.py emd_0409.mrc

Two moments leave rotation and handedness of volume and views together open, so solutions are aligned before they are
judged. If the views are given and held, nothing is left to align but the inversion: what has the moments should be the
truth as it stands. Printed are, for Table 2.2's problem, the FSC 0.5 of each kind as it stands (the better handedness)
and aligned:

- clouds of pseudo-atoms that share nothing with the map but its second moments about the centre: what an alignment
  alone does;
- FourierNets matched with free views (:mod:`orbitrec.thesis.volume_matching.neural_ensemble`), and the correlation
  of their log density of views with the true one, rotated with the volume;
- FourierNets matched under the true views;
- these with the least change that gives them the moments (:mod:`orbitrec.thesis.volume_matching.correction`);
- the truth, cut to the band, with that.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.geometry.grids import pixel_vectors
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import uniform_moments
from orbitrec.moments.information import projected
from orbitrec.moments.losses import relative_errors
from orbitrec.runtime.threads import run_threaded
from orbitrec.thesis.table_2_2 import single
from orbitrec.thesis.two_moments import Matching, TrueVolume
from orbitrec.thesis.volume_matching.consensus import VoxelEstimate
from orbitrec.thesis.volume_matching.correction import corrected
from orbitrec.thesis.volume_matching.neural_ensemble import NeuralEnsemble, NeuralSettings
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume

_TRUST = 1e5  # clean images that moments are trusted like in the least change
_BEADS, _WIDTH = 35, 2.0  # of a cloud; pixels


@dataclass(frozen=True, eq=False)
class UnderTrueViews:
    """A volume seen from the true views."""

    voxels: Float[Tensor, "n n n"]
    views: VonMisesFisherMixture

    def view_density(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions, which should be spread evenly."""
        return self.views.probabilities(directions)


def clouds(truth: TrueVolume, count: int, generator: torch.Generator) -> list[Float[Tensor, "n n n"]]:
    """Pseudo-atoms drawn from the Gaussian that has the second moments of the map's positive density."""
    n = len(truth.voxels)
    points, weights = pixel_vectors(n, 3).reshape(-1, 3), truth.compact.flatten().clamp(min=0)
    weights = weights / weights.sum()
    centred = points - weights @ points
    root = torch.linalg.cholesky(centred.mT @ (weights[:, None] * centred))
    normal = torch.randn(count, _BEADS, 3, generator=generator, dtype=torch.float64)
    ones = torch.ones(_BEADS, dtype=torch.float64)
    return [GaussianMixture(part @ root.mT, _WIDTH * ones, ones).to_grid(n) for part in normal]


def resolutions(voxels: Float[Tensor, "n n n"], truth: TrueVolume) -> tuple[float, float]:
    """FSC 0.5 as it stands, of the better handedness, and aligned; Å."""
    aligned = align(voxels, truth.voxels).apply(voxels)
    # The inversion x → −x has the same images under the same views, rotated by 180° in their planes.
    fscs = [fourier_shell_correlation(one, truth.voxels) for one in (voxels, voxels.flip(0, 1, 2), aligned)]
    stands, inverted, moved = (fsc.cutoff_A(0.5, truth.voxel_size_A) for fsc in fscs)
    return min(stands, inverted), moved


def errors(matching: Matching, estimate: VoxelEstimate) -> tuple[float, float]:
    """Relative errors of both moments."""
    templates = matching.templates(VoxelVolume(estimate.voxels), matching.directions)
    found = uniform_moments(templates, estimate.view_density(matching.directions), matching.grid)
    first, second = relative_errors(matching.target.moments, found)
    return float(first), float(second)


def span(values: Sequence[float], digits: int = 1) -> str:
    """Smallest and largest."""
    return f"{min(values):.{digits}f} – {max(values):.{digits}f}" if len(values) > 1 else f"{values[0]:.{digits}f}"


def row(matching: Matching, estimates: Sequence[VoxelEstimate], *, stands: bool) -> list[str]:
    """Errors, resolutions as they stand if that means anything, and aligned."""
    firsts, seconds = zip(*(errors(matching, one) for one in estimates), strict=True)
    as_is, aligned = zip(*(resolutions(one.voxels, matching.truth) for one in estimates), strict=True)
    return [span(firsts, 4), span(seconds, 4), span(as_is) if stands else "", span(aligned)]


def views_found(matching: Matching, members: Sequence[VoxelEstimate]) -> str:
    """Correlations with the true views."""
    found = []
    for member in members:
        alignment = align(member.voxels, matching.truth.voxels)
        found.append(matching.view_correlation(alignment, member.view_density(matching.directions)))
    return span(found, 2)


def fill(table: Table, matching: Matching, count: int) -> None:
    """All rows, with ``count`` solutions of a kind."""
    truth, generator = matching.truth, torch.Generator().manual_seed(0)
    drawn = [resolutions(voxels, truth)[1] for voxels in clouds(truth, count, generator)]
    table.add_row("clouds of pseudo-atoms", "", "", "", span(drawn), "")
    projector = PolarProjector(matching.basis, matching.grid, matching.directions)
    free = NeuralEnsemble(single(matching.target), projector, truth.max_radius, NeuralSettings(members=count))
    members = free.members(generator)
    table.add_row("networks, views free", *row(matching, members, stands=False), views_found(matching, members))
    held = replace(free, settings=NeuralSettings(density_degree=0))
    seeds = torch.randint(2**62, (count,), generator=generator).tolist()
    logits = matching.views.log_density(matching.directions)
    found = run_threaded([partial(held.member, seed, logits) for seed in seeds])
    cut = SphericalBesselVolume(matching.basis, projected(matching.basis, truth.compact)).to_grid(len(truth.voxels))
    target = replace(single(matching.target), count=_TRUST)
    kinds = {"networks, true views held": [member.voxels for member in found], "the truth, cut to the band": [cut]}
    for name, volumes in kinds.items():
        known = [UnderTrueViews(voxels, matching.views) for voxels in volumes]
        table.add_row(name, *row(matching, known, stands=True), "")
        changed = [corrected(one, target, truth.radius, matching.directions) for one in known]
        table.add_row("… with the least change", *row(matching, changed, stands=True), "")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path, help="EMD-0409 or EMD-25892 (MRC), its number in the name")
    parser.add_argument("--band", type=float, default=15.0, help="moments are matched to here, Å")
    parser.add_argument("-n", dest="count", type=int, default=8, help="solutions of each kind")
    arguments = parser.parse_args()
    matching = Matching(TrueVolume.of_map(arguments.map), arguments.band)
    table = Table(title=f"{matching.truth.name}, moments to {arguments.band:g} Å")
    for heading in ("", "M¹ error", "M² error", "FSC 0.5 as it stands, Å", "aligned, Å", "views"):
        table.add_column(heading, justify="right" if heading else "left")
    fill(table, matching, arguments.count)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()

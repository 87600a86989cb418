"""Table 3.1 and section 3.4.1: what MoM-net's trained encoder finds by itself.

First the family it was trained on, 1.3·10⁴ fresh problems. Then maps that are not of the family: exact moments of the
map at full resolution, seen by densities of 𝒫 with shifts of 𝒩, given to the encoder; and what matching (L-BFGS)
makes of its answer. Beside them stands an answer that looks at no moments: the family's mean volume.

A basis of compact support cannot hold what fills the box. Deposited maps have rings and noise out to its corners, in
EMD-0409 a fifth of the moments; so maps are centred and masked first, as particles are (:func:`compact_map`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.evaluation.masks import soft_sphere
from orbitrec.geometry.grids import pixels
from orbitrec.geometry.harmonics import harmonic_count
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.io.mrc import read_map
from orbitrec.io.plain import from_plain
from orbitrec.io.runs import RunFolder
from orbitrec.models.cryoem import PolarProjector, polar_templates
from orbitrec.moments.analytic import Moments, shifted_uniform_moments, uniform_moments
from orbitrec.networks.molecules import PLAIN, ViewLaw
from orbitrec.networks.momnet import MomNet, MomNetEstimate, MomNetSetting
from orbitrec.networks.momnet_training import MomNetTraining
from orbitrec.networks.pretrained import MOMNET, load_momnet, load_provenance
from orbitrec.report.sphere import draw_sphere
from orbitrec.thesis.momnet_matching import MomNetMatching
from orbitrec.thesis.plots.volumes import draw_volumes
from orbitrec.thesis.records import ExperimentResult, TextTable
from orbitrec.volumes.base import Volume
from orbitrec.volumes.voxel import VoxelVolume


@dataclass(frozen=True)
class ReportedMap:
    """The thesis's Kam loss on a map, and its resolution in Å."""

    kam_loss: float
    fsc05_A: float


REPORTED_FAMILY = 0.056
"""The thesis's mean Kam loss on its family."""
REPORTED = {"0409": ReportedMap(0.094, 74.27), "25892": ReportedMap(0.068, 88.44)}
"""By a part of the map's name."""

RADIUS_SHARE = 0.3125
"""Radius of the particle's ball in boxes."""
_DESIGN = 35  # directions of the true moments: exact for twice the degree and the densities
_TEST_STREAM = 10
_CHUNK = 500


@dataclass(frozen=True)
class FamilyRow:
    """Means over fresh problems of a family; the shift's error is in pixels of 15 × 15 images."""

    family: str
    samples: int
    kam_loss: float
    volume_error: float
    view_divergence: float
    shift_error_px: float


@dataclass(frozen=True)
class MapRow:
    """One map, one density of views and one spread of shifts: Kam losses and resolutions at FSC 0.5 in Å."""

    map: str
    problem: int
    shift_px: float
    kam_loss: float
    shift_estimate_px: float
    fsc05_A: float
    mean_fsc05_A: float
    matched_kam_loss: float
    matched_fsc05_A: float


@dataclass(frozen=True)
class TrainedMomNetTable(ExperimentResult):
    """Table 3.1 and section 3.4.1.

    Attributes:
        families: means over fresh problems.
        rows: of maps outside the families.
        reported_family: the thesis's mean Kam loss on its family.
        reported: the thesis's figures for maps, by a part of their names.
    """

    families: tuple[FamilyRow, ...]
    rows: tuple[MapRow, ...]
    reported_family: float
    reported: dict[str, ReportedMap]

    @classmethod
    def of(cls, tested: Sequence[FamilyRow], cases: "Sequence[MapCase]") -> "TrainedMomNetTable":
        """The table of these families and cases."""
        return cls("table-3.1", tuple(tested), tuple(case.row for case in cases), REPORTED_FAMILY, REPORTED)

    def tables(self) -> list[TextTable]:
        """Families, and maps."""
        rows = [("20 atoms, reported", f"{self.reported_family:.3f}", "", "", "")]
        rows += [
            (
                row.family,
                f"{row.kam_loss:.4f}",
                f"{row.volume_error:.3f}",
                f"{row.view_divergence:.3f}",
                f"{row.shift_error_px:.3f}",
            )
            for row in self.families
        ]
        title = f"Section 3.4.1: means over {self.families[0].samples:,} fresh problems"
        headings = ("family", "Kam loss (3.13)", "volume error", "views, nats", "|η̂ − η| px")
        return [TextTable.of(title, headings, rows), self._maps()]

    def _maps(self) -> TextTable:
        groups = []
        for name in dict.fromkeys(row.map for row in self.rows):
            reported = [values for part, values in self.reported.items() if part in name]
            group = [
                (f"{name}, reported", "", "", f"{r.kam_loss:.3f}", f"{r.fsc05_A:.2f}", "", "", "") for r in reported
            ]
            groups.append((*group, *(_map_cells(row) for row in self.rows if row.map == name)))
        title = "Table 3.1: maps outside the family; shifts in pixels of 15 × 15 images, FSC 0.5 in Å"
        headings = ("map", "η", "η̂", "Kam loss", "encoder Å", "family's mean Å", "Kam matched", "matched Å")
        return TextTable(title, headings, tuple(groups))


def _map_cells(row: MapRow) -> tuple[str, ...]:
    shifts = f"{row.shift_px:.2f}", f"{row.shift_estimate_px:.2f}"
    alone = f"{row.kam_loss:.4f}", f"{row.fsc05_A:.1f}", f"{row.mean_fsc05_A:.1f}"
    return (row.map, *shifts, *alone, f"{row.matched_kam_loss:.4f}", f"{row.matched_fsc05_A:.1f}")


@dataclass(frozen=True, eq=False)
class MapProblem:
    """A true map, its views on the design of the true moments, and the spread of shifts in the setting's pixels."""

    name: str
    index: int
    truth: Float[Tensor, "n n n"]
    voxel_A: float
    density: Float[Tensor, "d"]
    shift_px: float


@dataclass(frozen=True, eq=False)
class MapCase:
    """A row with what its pictures show: truth and aligned reconstructions, true and estimated views."""

    row: MapRow
    volumes: dict[str, Float[Tensor, "n n n"]]
    views: dict[str, tuple[Float[Tensor, "d 3"], Float[Tensor, "d"]]]


def compact_map(path: Path) -> tuple[Float[Tensor, "n n n"], float]:
    """A map of norm 1, its centre of energy at the origin, inside a soft sphere of 0.31 boxes; and its voxel in Å.

    Raises:
        InputError: if the map cannot be read.
    """
    grid, voxel_A = read_map(path)
    grid, n = grid.double(), len(grid)
    axis, energy = pixels(n), grid.square()
    centre = [float((energy.movedim(i, 0).sum((1, 2)) @ axis) / energy.sum()) for i in range(3)]
    grid = grid.roll([-round(c) for c in centre], (0, 1, 2)) * soft_sphere(n, 0.25 * n, 0.0625 * n).double()
    return grid / grid.norm(), voxel_A


def families(samples: int, callback: Callable[[int], None] = lambda done: None) -> list[FamilyRow]:
    """Errors on problems that training never saw: of the thesis's family, and of the wider one of training.

    ``callback`` is called with the number of problems that were done since the last call.
    """
    wide = pretrained_training()
    laws = {"20 Gaussian atoms": replace(wide, proteins=PLAIN), "and rods, stretched, filtered": wide}
    return [_family(name, training, samples, callback) for name, training in laws.items()]


def _family(name: str, training: MomNetTraining, samples: int, callback: Callable[[int], None]) -> FamilyRow:
    net = load_momnet()
    sums: dict[str, float] = dict.fromkeys(("kam_loss", "volume_error", "view_divergence", "shift_error_px"), 0.0)
    for chunk in range(0, samples, _CHUNK):
        size = min(_CHUNK, samples - chunk)
        problems = training.held_out(size, stream=_TEST_STREAM + chunk // _CHUNK)
        for error, value in training.validation(net, problems).items():
            sums[error] += value * size / samples
        callback(size)
    return FamilyRow(name, samples, **sums)


def maps(
    paths: list[Path], problems: int, iterations: int, callback: Callable[[MapRow], None] = lambda row: None
) -> list[MapCase]:
    """Cases of every map.

    Args:
        paths: the maps.
        problems: densities of views, each with a spread of shifts, for every map.
        iterations: of matching.
        callback: called with each row.

    Returns:
        A case for each map and problem.

    Raises:
        InputError: if a map cannot be read.
    """
    net, cases = load_momnet(), []
    mean = _mean_volume(net.setting)
    for path in paths:
        truth, voxel_A = compact_map(path)
        templates = slices(net.setting, VoxelVolume(truth), len(truth))
        generator = torch.Generator().manual_seed(1)
        for index, views in enumerate(ViewLaw().draw(problems, generator)):
            shift = float(torch.rand(1, generator=generator)) * net.setting.largest_shift_px
            problem = MapProblem(path.stem, index, truth, voxel_A, views.density(spherical_design(_DESIGN)), shift)
            cases.append(
                _case(net, problem, exact_moments(net.setting, templates, problem.density, shift), mean, iterations)
            )
            callback(cases[-1].row)
    return cases


def slices(setting: MomNetSetting, volume: Volume, n: int) -> Complex[Tensor, "d m k"]:
    """Templates of an n³ map on the grid where its moments are a setting's, from the design of the true moments.

    Args:
        setting: the network's.
        volume: the map.
        n: its box, pixels.

    Returns:
        Templates.
    """
    return polar_templates(volume, setting.grid_for(n, RADIUS_SHARE * n), spherical_design(_DESIGN))


def exact_moments(
    setting: MomNetSetting, templates: Complex[Tensor, "d m k"], density: Float[Tensor, "d"], shift_px: float
) -> Moments:
    """Exact moments of templates on a grid of the setting's.

    Args:
        setting: the network's.
        templates: along the directions of the design.
        density: of these directions.
        shift_px: spread of shifts in the setting's pixels.

    Returns:
        A batch of one.
    """
    own = setting.grid
    moments = uniform_moments(templates, density / density.sum(), own)
    moments = shifted_uniform_moments(moments, own, torch.tensor(shift_px, dtype=torch.float64))
    return Moments(moments.first[None], moments.second[None], moments.weights)


def reconstruction(setting: MomNetSetting, target: Moments) -> MomNetMatching:
    """Matching in the setting's own pixels."""
    projector = PolarProjector(setting.basis, setting.grid, setting.directions, torch.float64)
    return MomNetMatching(target, projector, setting.density_degree, setting.largest_shift_px)


@dataclass(frozen=True, eq=False)
class Aligned:
    """An estimate's volume moved onto the truth, its FSC 0.5 in Å, and its views as directions of the moved volume."""

    volume: Float[Tensor, "n n n"]
    fsc05_A: float
    views: tuple[Float[Tensor, "d 3"], Float[Tensor, "d"]]


def aligned(setting: MomNetSetting, estimate: MomNetEstimate, truth: Float[Tensor, "n n n"], voxel_A: float) -> Aligned:
    """An estimate beside the true map; its handedness is free, as moments do not know it.

    Args:
        setting: the network's.
        estimate: a batch of one.
        truth: the true map.
        voxel_A: its voxel in Å.

    Returns:
        The volume on the truth, its resolution, and its views.
    """
    n = len(truth)
    found = setting.volume(estimate.coefficients[0], RADIUS_SHARE * n).to_grid(n)
    alignment = align(found, truth)
    moved = alignment.apply(found)
    resolution_A = fourier_shell_correlation(moved, truth).cutoff_A(0.5, voxel_A)
    density = estimate.density(setting.harmonics(setting.directions))[0]
    return Aligned(moved, resolution_A, (alignment.rotated(setting.directions), density))


def _case(net: MomNet, problem: MapProblem, target: Moments, mean: MomNetEstimate, iterations: int) -> MapCase:
    matching = reconstruction(net.setting, target)
    with torch.no_grad():
        estimate = net(target).double()
        loss = float(matching.loss(estimate))
    matched = matching.matched(estimate, iterations)
    known = problem.truth, problem.voxel_A
    alone, average, after = (aligned(net.setting, e, *known) for e in (estimate, mean, matched))
    row = MapRow(
        problem.name, problem.index, problem.shift_px, loss, float(estimate.shift_px), alone.fsc05_A, average.fsc05_A,
        float(matching.loss(matched)), after.fsc05_A,
    )  # fmt: skip
    true_views = spherical_design(_DESIGN), problem.density
    return MapCase(
        row,
        {"truth": problem.truth, f"encoder, {alone.fsc05_A:.0f} Å": alone.volume,
         f"matched, {after.fsc05_A:.0f} Å": after.volume},
        {"truth": true_views, "encoder": alone.views, "matched": after.views},
    )  # fmt: skip


def pretrained_training() -> MomNetTraining:
    """The training that made the pretrained network."""
    return from_plain(MomNetTraining, load_provenance(MOMNET).training)


def _mean_volume(setting: MomNetSetting) -> MomNetEstimate:
    """The family's mean volume."""
    problems = pretrained_training().held_out(1000)
    mean = problems.coefficients.mean(0, keepdim=True)
    return MomNetEstimate(
        mean, mean.new_zeros(1, harmonic_count(setting.density_degree) - 1), mean.new_zeros(1)
    ).double()


def draw(run: RunFolder, cases: list[MapCase]) -> None:
    """Of every map's first problem the volumes (Figures 3.3, 3.4) and the views."""
    for case in cases:
        if case.row.problem == 0:
            draw_volumes(run.file(f"volumes-{case.row.map}.png"), case.volumes, case.row.map)
            draw_sphere(run.file(f"views-{case.row.map}.png"), case.views, f"{case.row.map}: density of views")

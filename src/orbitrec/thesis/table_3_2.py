"""Table 3.2: the reconstruction phase on EMD-0409 in 45 × 45 images with shifts of 0, 2 and 4 pixels.

Moments are those of N = 5·10⁶ particles with σ = 0.5 of a volume of norm 1: exact ones of the real map, centred and
masked, with noise drawn from its covariance. "MoM-net" starts from what the trained encoder finds and fits volume,
views and shifts; "chapter 2" fits the same from the same volume and views, but knows no shifts. Then a FourierNet that
starts at zero is trained beside either volume (3.11).
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.io.runs import RunFolder
from orbitrec.models.cryoem import PolarProjector, polar_templates
from orbitrec.moments.analytic import Moments, shifted_uniform_moments, uniform_moments
from orbitrec.moments.losses import kam_loss
from orbitrec.moments.noise import sampled_moments
from orbitrec.networks.momnet import MomNet, MomNetEstimate
from orbitrec.networks.pretrained import load_momnet
from orbitrec.report.sphere import draw_sphere
from orbitrec.runtime.checkpoints import Checkpoints, Record
from orbitrec.thesis.momnet_matching import MomNetMatching, smooth_views
from orbitrec.thesis.plots.volumes import draw_volumes
from orbitrec.thesis.records import ExperimentResult, TextTable
from orbitrec.thesis.table_3_1 import RADIUS_SHARE, compact_map
from orbitrec.volumes.fourier_net import FourierNet
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume


@dataclass(frozen=True)
class ReportedLosses:
    """The thesis's Kam losses for one spread of shifts, with MoM-net and with the framework of chapter 2."""

    momnet: float
    chapter_2: float


REPORTED = {0.0: ReportedLosses(0.012, 0.013), 2.0: ReportedLosses(0.008, 0.014), 4.0: ReportedLosses(0.007, 0.017)}
"""By the spread of shifts in pixels."""
MOMNET_METHOD, CHAPTER_2_METHOD = "MoM-net", "chapter 2"

BOX = 45
LARGEST_SHIFT_PX = 6.0
"""η_max of the reconstruction."""


_ROUNDS = 3  # of L-BFGS


@dataclass(frozen=True)
class ShiftTableSize:
    """How much to do; all else is as in the thesis.

    Attributes:
        bandwidth: radius · k_max of the moments; π · radius = 44 is Nyquist.
        view_degree: of the design of viewing directions.
        iterations: of L-BFGS.
        refining: steps of FourierNet.
        count: N.
        sigma: standard deviation of the noise in a pixel, of a volume of norm 1.
        seed: of views and noise.
        as_seen: moments at the frequencies that MoM-net's encoder sees, and no others.
    """

    bandwidth: float = 22.0
    view_degree: int = 31
    iterations: int = 1500
    refining: int = 300
    count: int = 5_000_000
    sigma: float = 0.5
    seed: int = 1
    as_seen: bool = False


QUICK = ShiftTableSize(
    bandwidth=math.pi * RADIUS_SHARE * 15, view_degree=17, iterations=1500, refining=10, as_seen=True
)
"""The frequencies that 15 × 15 images have, and MoM-net's encoder sees."""


@dataclass(frozen=True)
class ShiftRow:
    """One spread of shifts and one method: Kam losses after L-BFGS and after FourierNet.

    ``noise_loss`` is the Kam loss of the exact moments against the noisy ones: what noise alone makes.
    """

    shift_px: float
    method: str
    start_kam_loss: float
    kam_loss: float
    refined_kam_loss: float
    noise_loss: float
    shift_estimate_px: float
    fsc05_A: float
    seconds: float


@dataclass(frozen=True)
class ShiftTable(ExperimentResult):
    """Table 3.2.

    Attributes:
        size: how much was done.
        rows: ours.
        reported: the thesis's Kam losses, by the spread of shifts in pixels.
    """

    size: ShiftTableSize
    rows: tuple[ShiftRow, ...]
    reported: dict[float, ReportedLosses]

    @classmethod
    def of(cls, found: "ShiftComparison", size: ShiftTableSize) -> "ShiftTable":
        """The table of these cases."""
        return cls("table-3.2", size, tuple(case.row for case in found.cases), REPORTED)

    def tables(self) -> list[TextTable]:
        """The reported Kam losses beside ours."""
        title = f"Table 3.2: Kam loss after reconstruction, moments to bandwidth {self.size.bandwidth:.1f} of 44"
        headings = (
            "method",
            "η px",
            "reported",
            "start",
            "matched",
            "and FourierNet",
            "noise alone",
            "η̂ px",
            "FSC 0.5 Å",
            "s",
        )
        return [TextTable.of(title, headings, [self._cells(row) for row in self.rows])]

    def _cells(self, row: ShiftRow) -> tuple[str, ...]:
        losses = self.reported[row.shift_px]
        reported = losses.momnet if row.method == MOMNET_METHOD else losses.chapter_2
        values = (reported, row.start_kam_loss, row.kam_loss, row.refined_kam_loss, row.noise_loss)
        ends = f"{row.shift_estimate_px:.2f}", f"{row.fsc05_A:.1f}", f"{row.seconds:.0f}"
        return (row.method, f"{row.shift_px:g}", *(f"{value:.4f}" for value in values), *ends)


@dataclass(frozen=True, eq=False)
class _Particles:
    """The truth, unit norm on 45³ voxels, and what its particles' moments are on any grid."""

    truth: Float[Tensor, "n n n"]
    voxel_A: float
    size: ShiftTableSize

    @cached_property
    def views(self) -> VonMisesFisherMixture:
        return VonMisesFisherMixture.random(torch.Generator().manual_seed(self.size.seed), 8)

    def moments(self, grid: PolarGrid, shift_px: float) -> tuple[Moments, Moments]:
        """Exact and noisy moments, batches of one.

        Noise is added after the shifts; that they would damp what noise and signal make together is left out.
        """
        design = spherical_design(min(63, 2 * self.size.view_degree + 5))
        templates = polar_templates(VoxelVolume(self.truth), grid, design)
        density = self.views.probabilities(design)
        generator = torch.Generator().manual_seed(self.size.seed)
        clean = uniform_moments(templates, density, grid)
        drawn = sampled_moments(
            templates, density, grid, sigma=self.size.sigma, count=self.size.count, generator=generator
        )
        exact = shifted_uniform_moments(clean, grid, torch.tensor(shift_px, dtype=torch.float64))
        noise = drawn - clean
        noisy = Moments(exact.first + noise.first, exact.second + noise.second, exact.weights)
        return _batch(exact), _batch(noisy)


@dataclass(frozen=True, eq=False)
class ShiftCase:
    """A row with what its pictures show: the aligned volume, and its views in the truth's frame."""

    row: ShiftRow
    volume: Float[Tensor, "n n n"]
    directions: Float[Tensor, "d 3"]
    density: Float[Tensor, "d"]

    def as_record(self) -> Record:
        """For a checkpoint."""
        kept = {"volume": self.volume, "directions": self.directions, "density": self.density}
        return {"row": asdict(self.row), **kept}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ShiftCase":
        """What :meth:`as_record` made of one."""
        return cls(ShiftRow(**record["row"]), record["volume"], record["directions"], record["density"])


@dataclass(frozen=True, eq=False)
class ShiftComparison:
    """All cases, and the truth with its views."""

    truth: Float[Tensor, "n n n"]
    directions: Float[Tensor, "d 3"]
    density: Float[Tensor, "d"]
    cases: list[ShiftCase]


def _batch(moments: Moments) -> Moments:
    return Moments(moments.first[None], moments.second[None], moments.weights)


def table(
    path: Path,
    size: ShiftTableSize,
    callback: Callable[[ShiftRow], None] = lambda row: None,
    checkpoints: Checkpoints | None = None,
) -> ShiftComparison:
    """All cases for the map.

    Args:
        path: the true map.
        size: how much to do.
        callback: called with each row.
        checkpoints: keep each case that is done.

    Returns:
        All cases.

    Raises:
        InputError: if the map cannot be read, or a checkpoint is broken.
    """
    full, full_voxel_A = compact_map(path)
    truth = VoxelVolume(full).resampled(BOX).grid
    particles = _Particles(truth / truth.norm(), full_voxel_A * len(full) / BOX, size)
    net, cases, kept = load_momnet(), [], checkpoints or Checkpoints()
    for shift in REPORTED:
        for method, largest in ((MOMNET_METHOD, LARGEST_SHIFT_PX), (CHAPTER_2_METHOD, 0.0)):
            name = f"{method} {shift:g}"
            record = kept.load(name)
            if record is None:
                case = _case(net, particles, shift, largest)
                case = replace(case, row=replace(case.row, method=method))
                record = kept.save(name, case.as_record())
            cases.append(ShiftCase.from_record(record))
            callback(cases[-1].row)
    directions = spherical_design(size.view_degree)
    return ShiftComparison(particles.truth, directions, particles.views.density(directions), cases)


def _grid(bandwidth: float) -> PolarGrid:
    radius = RADIUS_SHARE * BOX
    # Shifts of 4 px widen the images: more nodes and modes than the particle alone would need.
    margin = 6 + 1.5 * bandwidth ** (1 / 3)
    return PolarGrid(
        BOX, min(bandwidth / radius, math.pi), math.ceil(0.9 * bandwidth + margin), math.ceil(bandwidth + margin)
    )


def _in_own_pixels(net: MomNet, found: MomNetEstimate, basis: SphericalBesselBasis) -> MomNetEstimate:
    """The encoder's estimate in a basis of the images' own pixels."""
    small = net.setting.volume(found.coefficients[0], basis.radius)
    w = small.basis.embed(small.coefficients, basis)[None]
    return MomNetEstimate(w, found.log_density, found.shift_px * (basis.radius / net.setting.radius))


def _case(net: MomNet, particles: _Particles, shift_px: float, largest_px: float) -> ShiftCase:
    size, radius = particles.size, RADIUS_SHARE * BOX
    basis = SphericalBesselBasis(radius, max(size.bandwidth + 1, net.setting.bandwidth) / radius)
    seen = net.setting.grid_for(BOX, radius)
    grid = seen if size.as_seen else _grid(size.bandwidth)
    projector = PolarProjector(basis, grid, spherical_design(size.view_degree), torch.float64)
    exact, noisy = particles.moments(grid, shift_px)
    with torch.no_grad():
        found = net(particles.moments(seen, shift_px)[1]).double()
    start = _in_own_pixels(net, smooth_views(found, net.setting, projector.directions), basis)
    if not largest_px:
        start = replace(start, shift_px=torch.zeros_like(start.shift_px))
    matching = MomNetMatching(noisy, projector, net.setting.density_degree, largest_px)
    begun, first, found = time.process_time(), float(matching.loss(start).detach()), start
    for _ in range(_ROUNDS):  # each begins with a new metric and a new unit of the loss
        found = matching.matched(found, size.iterations // _ROUNDS)
    volume = SphericalBesselVolume(basis, found.coefficients[0].detach())
    refined = _refined(matching, found, volume, size)
    row = ShiftRow(
        shift_px, "", first, float(matching.loss(found).detach()), refined, float(kam_loss(noisy, exact)),
        float(found.shift_px.detach()), 0.0, time.process_time() - begun,
    )  # fmt: skip
    return _beside_truth(row, volume.to_grid(BOX), found.density(matching.harmonics)[0].detach(), particles)


def _refined(
    matching: MomNetMatching, found: MomNetEstimate, volume: SphericalBesselVolume, size: ShiftTableSize
) -> float:
    """Least Kam loss with a FourierNet beside the volume."""
    k_max = float(matching.projector.grid.k_max)
    scale = 0.3 * float(volume.fourier(torch.tensor([[0.0, 0.0, k_max / 3]], dtype=torch.float64)).abs().max())
    generator = torch.Generator().manual_seed(size.seed)
    net = FourierNet(volume.basis.radius, generator, scale=scale, k_max=k_max, width=64).zero_()
    return matching.refined(found, net, size.refining)


def _beside_truth(
    row: ShiftRow, grid: Float[Tensor, "n n n"], density: Float[Tensor, "d"], particles: _Particles
) -> ShiftCase:
    alignment = align(grid, particles.truth)
    moved = alignment.apply(grid)
    resolution_A = fourier_shell_correlation(moved, particles.truth).cutoff_A(0.5, particles.voxel_A)
    directions = alignment.rotated(spherical_design(particles.size.view_degree))
    return ShiftCase(replace(row, fsc05_A=resolution_A), moved, directions, density)


def draw(run: RunFolder, found: ShiftComparison) -> None:
    """For every spread of shifts volumes (Figures 3.5, 3.6) and views."""
    for shift in REPORTED:
        cases = [case for case in found.cases if case.row.shift_px == shift]
        volumes = {f"{case.row.method}, {case.row.fsc05_A:.0f} Å": case.volume for case in cases}
        views = {case.row.method: (case.directions, case.density) for case in cases}
        title = f"EMD-0409, η = {shift:g} px"
        draw_volumes(run.file(f"volumes-{shift:g}-px.png"), {"truth": found.truth, **volumes}, title)
        true_views = {"truth": (found.directions, found.density)}
        draw_sphere(run.file(f"views-{shift:g}-px.png"), true_views | views, f"{title}: density of views")

"""Tables 2.2 and 2.3: volumes from the first two moments of 5·10⁶ particles, with views and volume unknown.

Truth: the deposited maps at 63³ and four Gaussians at 25³, of norm 1, projected at continuous rotations and not the
network's own representation that the thesis uses. Maps are cut by a soft sphere first, without which a basis of compact
support has a fifth of EMD-0409's moments wrong; resolutions are against the maps as they are. Views are eight von
Mises–Fisher caps; concentrations are not printed, ours are log-uniform in [2, 12] (:meth:`random`). Moments are the
exact ones plus noise of the exact covariance for σ = 0.5 (:mod:`orbitrec.inference.moment_noise`); they are matched up
to a frequency, and errors are those up to there.

Methods: "coefficients" matches spherical-Bessel coefficients under a Gaussian prior from random starts, the classical
method of moments; "non-negative" is :mod:`orbitrec.recovery.volume_matching.positive`.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from rich.table import Table
from torch import Tensor

from orbitrec.densities import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation, soft_sphere
from orbitrec.geometry.fourier import radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.inference.losses import relative_errors
from orbitrec.inference.moment_noise import sampled_moments
from orbitrec.inference.moments import Moments, uniform_moments
from orbitrec.io.files import write_csv, write_json
from orbitrec.io.mrc import read_map
from orbitrec.io.runs import RunFolder
from orbitrec.models.cryoem import PolarProjector, polar_templates
from orbitrec.recovery.matching import MomentTarget, match_moments
from orbitrec.recovery.volume_matching.positive import PositiveMatching, Settings, Solution, match_positive
from orbitrec.report.volumes import draw_volumes
from orbitrec.volumes.blobs import BlobGrid
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume

PRINTED = {
    "EMD-0409": (0.003, 0.013, 16.86),
    "EMD-25892": (0.007, 0.035, 21.52),
    "4 Gaussians": (0.007, 0.016, 4.45),
}
"""The thesis's relative errors of both moments, and resolutions in Å."""

SIGMA, PARTICLES = 0.5, 5_000_000
_TRUE_DESIGN = 63  # directions of the true moments, the largest shipped


@dataclass(frozen=True)
class Size:
    """How far moments are matched, in Å, and from how many starts."""

    band_A: dict[str, float]
    starts: int
    baseline_iterations: int


QUICK = Size({"EMD-0409": 20.0, "EMD-25892": 60.0, "4 Gaussians": 3.6}, 3, 200)
FULL = Size({"EMD-0409": 15.0, "EMD-25892": 30.0, "4 Gaussians": 2.5}, 16, 600)


@dataclass(frozen=True)
class Row:
    """One volume and method."""

    volume: str
    method: str
    band_A: float
    unknowns: int
    starts: int
    first_error: float
    second_error: float
    resolution_A: float
    correlation: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Truth:
    """A volume of norm 1.

    Attributes:
        name: as in the table.
        voxels: (z, y, x), as it is.
        compact: what is projected: the same in a soft sphere.
        voxel_size_A: Å.
        radius: of the ball that holds the compact map, pixels.
        reach: of the ball that holds its density, pixels.
    """

    name: str
    voxels: Float[Tensor, "n n n"]
    compact: Float[Tensor, "n n n"]
    voxel_size_A: float
    radius: float
    reach: float

    @classmethod
    def of_map(cls, path: Path) -> "Truth":
        """A deposited map at 63³.

        Raises:
            InputError: if the map cannot be read, or its name tells neither 0409 nor 25892.
        """
        names = [name for name in PRINTED if name.removeprefix("EMD-") in path.stem]
        if not names:
            raise InputError(f"{path}: the table has EMD-0409 and EMD-25892; name the file after one of them")
        grid, voxel_size_A = read_map(path)
        n = 63
        voxels = VoxelVolume(grid.double()).resampled(n).grid
        solvent = voxels[radial_frequencies(n, 3) > math.pi * 0.9].mean()
        compact = (voxels - solvent) * soft_sphere(n, 0.25 * n, 6.0)
        size = voxel_size_A * len(grid) / n
        return cls(names[0], voxels / voxels.norm(), compact / compact.norm(), size, 0.36 * n, 0.27 * n)

    @classmethod
    def gaussians(cls) -> "Truth":
        """Four Gaussians not on a plane, 1 Å wide, within 6 Å of the origin, in 25³ voxels of 1 Å."""
        centers = torch.tensor([[4.0, 1.0, -2.0], [-3.0, 3.5, 1.0], [0.5, -4.5, 2.0], [-1.0, 0.0, -4.5]]).double()
        weights = torch.tensor([1.0, 1.3, 0.8, 1.1], dtype=torch.float64)
        grid = GaussianMixture(centers, torch.ones(4, dtype=torch.float64), weights).to_grid(25)
        grid = grid / grid.norm()
        return cls("4 Gaussians", grid, grid, 1.0, 10.0, 8.0)


@dataclass(frozen=True, eq=False)
class Matching:
    """The moments of a truth up to a frequency, and what they are matched by."""

    truth: Truth
    band_A: float
    seed: int = 0

    @property
    def k_max(self) -> float:
        """Largest frequency, radians per pixel."""
        return min(math.pi, 2 * math.pi * self.truth.voxel_size_A / self.band_A)

    @cached_property
    def grid(self) -> PolarGrid:
        """Where moments live."""
        return PolarGrid.for_radius(len(self.truth.voxels), self.k_max, self.truth.radius)

    @cached_property
    def basis(self) -> SphericalBesselBasis:
        """Of the estimate; it reaches one function's width beyond the band."""
        return SphericalBesselBasis(self.truth.radius, self.k_max + math.pi / self.truth.radius)

    @cached_property
    def directions(self) -> Float[Tensor, "d 3"]:
        """Of the estimate's views."""
        return spherical_design(min(_TRUE_DESIGN, 2 * self.basis.degree - 5))

    @cached_property
    def views(self) -> VonMisesFisherMixture:
        """Eight caps."""
        return VonMisesFisherMixture.random(torch.Generator().manual_seed(self.seed), 8)

    @cached_property
    def true_templates(self) -> Complex[Tensor, "d m k"]:
        """Exact projections along the design's directions."""
        volume, parts = VoxelVolume(self.truth.compact), spherical_design(_TRUE_DESIGN).split(256)
        return torch.cat([polar_templates(volume, self.grid, part) for part in parts])

    @cached_property
    def true_density(self) -> Float[Tensor, "d"]:
        """Probabilities of the same directions."""
        density = self.views.density(spherical_design(_TRUE_DESIGN))
        return density / density.sum()

    @cached_property
    def target(self) -> MomentTarget:
        """What the particles would give."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        draw = {"sigma": SIGMA, "count": PARTICLES, "generator": generator}
        moments = sampled_moments(self.true_templates, self.true_density, self.grid, **draw)
        noise = SIGMA**2 * torch.diagonal(self.grid.noise_gram(), dim1=1, dim2=2).real
        variance = torch.diagonal(moments.second, dim1=1, dim2=2).real.clamp(min=0) + noise
        return MomentTarget(moments, self.grid, variance, float(PARTICLES))

    @property
    def noise_errors(self) -> tuple[float, float]:
        """Relative errors of the particles' own moments: what a perfect volume has."""
        exact = uniform_moments(self.true_templates, self.true_density, self.grid)
        first, second = relative_errors(self.target.moments, exact)
        return float(first), float(second)


def positive_solution(matching: Matching, size: Size, listen: Callable[[Solution], None]) -> tuple[Tensor, Tensor]:
    """Coefficients and log density of the non-negative method."""
    target, moments = matching.target, matching.target.moments
    single = Moments(moments.first.to(torch.complex64), moments.second.to(torch.complex64), moments.weights.float())
    spacing = 0.3 * matching.band_A / matching.truth.voxel_size_A
    problem = PositiveMatching(
        MomentTarget(single, target.grid, target.variance.float(), target.count),
        PolarProjector(matching.basis, matching.grid, matching.directions),
        BlobGrid(matching.basis, matching.truth.reach, spacing, 0.7 * spacing),
        Settings(starts=size.starts),
    )
    best, _ = match_positive(problem, torch.Generator().manual_seed(matching.seed), listen)
    return best.coefficients.double(), problem.view_density(best, matching.directions).log()


def classical_solution(matching: Matching, size: Size) -> tuple[Tensor, Tensor]:
    """Coefficients and log density of the classical method."""
    generator = torch.Generator().manual_seed(matching.seed)
    options = {"starts": 1, "shift_px": 0.0, "iterations": size.baseline_iterations, "generator": generator}
    best = match_moments(matching.target, matching.basis, matching.directions, **options)[0]
    return best.coefficients, best.log_density


def table(
    truths: Sequence[Truth], size: Size, listen: Callable[[str], None] = lambda done: None
) -> tuple[list[Row], dict[str, Float[Tensor, "n n n"]]]:
    """Both methods on every truth, and the non-negative method's aligned maps by the truth's name."""
    rows, maps = [], {}
    for truth in truths:
        matching = Matching(truth, size.band_A[truth.name])
        for method in ("coefficients", "non-negative"):
            begin = time.perf_counter()
            if method == "coefficients":
                found = classical_solution(matching, size)
            else:
                found = positive_solution(matching, size, lambda solution, name=truth.name: listen(name))
            seconds = time.perf_counter() - begin
            row, aligned = _judged(matching, method, size, found, seconds)
            rows.append(row)
            maps[truth.name] = aligned
            listen(truth.name)
    return rows, maps


def _judged(
    matching: Matching, method: str, size: Size, found: tuple[Tensor, Tensor], seconds: float
) -> tuple[Row, Float[Tensor, "n n n"]]:
    truth, (w, log_density) = matching.truth, found
    projector = PolarProjector(matching.basis, matching.grid, matching.directions, torch.float64)
    moments = uniform_moments(projector.templates(w), log_density.exp(), matching.grid)
    first, second = (float(error) for error in relative_errors(matching.target.moments, moments))
    volume = SphericalBesselVolume(matching.basis, w).to_grid(len(truth.voxels))
    alignment = align(volume, truth.voxels)
    aligned = alignment.apply(volume)
    resolution = fourier_shell_correlation(aligned, truth.voxels).cutoff_A(0.5, truth.voxel_size_A)
    starts = size.starts if method == "non-negative" else 1
    row = Row(
        truth.name, method, matching.band_A, len(w), starts, first, second, resolution, alignment.correlation, seconds
    )
    return row, aligned


def write_results(run: RunFolder, size: Size, truths: Sequence[Truth], found: tuple[list[Row], dict]) -> None:
    """table.json, table.csv, and the truth beside the map for each volume."""
    rows, maps = found
    write_json(run.file("table.json"), as_json(rows, size))
    write_csv(run.file("table.csv"), [asdict(row) for row in rows])
    for truth in truths:
        name = truth.name.lower().replace(" ", "-")
        pictures = {"truth": truth.voxels, "from two moments": maps[truth.name]}
        draw_volumes(run.file(f"{name}.png"), pictures, f"{truth.name} (Figures 2.8–2.10)")


def as_json(rows: list[Row], size: Size) -> dict[str, object]:
    """The rows and the printed figures."""
    return {"tables": ["2.2", "2.3"], "size": asdict(size), "rows": [asdict(row) for row in rows], "thesis": PRINTED}


def as_text(rows: list[Row]) -> Table:
    """The rows, the printed ones among them."""
    shown = Table(title="Tables 2.2 and 2.3: volumes from two moments of 5·10⁶ particles, σ = 0.5")
    for heading in ("volume", "method"):
        shown.add_column(heading)
    for heading in ("moments to, Å", "unknowns", "starts", "M¹ error", "M² error", "FSC 0.5, Å", "correlation", "s"):
        shown.add_column(heading, justify="right")
    for name, (first, second, resolution) in PRINTED.items():
        mine = [row for row in rows if row.volume == name]
        if mine:
            shown.add_row(name, "as printed", "", "", "", f"{first:.3f}", f"{second:.3f}", f"{resolution:.2f}", "", "")
        for row in mine:
            shown.add_row(
                "", row.method, f"{row.band_A:g}", str(row.unknowns), str(row.starts), f"{row.first_error:.4f}",
                f"{row.second_error:.4f}", f"{row.resolution_A:.2f}", f"{row.correlation:.3f}", f"{row.seconds:.0f}",
            )  # fmt: skip
    return shown

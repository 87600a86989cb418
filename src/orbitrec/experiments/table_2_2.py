"""Tables 2.2 and 2.3: volumes from the first two moments of 5·10⁶ particles, with views and volume unknown.

The problem is that of :mod:`orbitrec.experiments.two_moments`. Methods: "coefficients" matches spherical-Bessel
coefficients under a Gaussian prior from random starts, the classical method of moments; "beads" is
:mod:`orbitrec.recovery.volume_matching.bead_search`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.experiments.two_moments import Matching, Truth
from orbitrec.inference.losses import relative_errors
from orbitrec.inference.moments import Moments, uniform_moments
from orbitrec.io.checkpoints import Checkpoints
from orbitrec.io.files import write_csv, write_json
from orbitrec.io.runs import RunFolder
from orbitrec.models.cryoem import PolarProjector
from orbitrec.recovery.matching import match_moments
from orbitrec.recovery.volume_matching.bead_search import match_beads
from orbitrec.recovery.volume_matching.bead_search import steps as search_steps
from orbitrec.recovery.volume_matching.beads import BeadMatching, BeadStage, Settings, Solution
from orbitrec.report.sphere import draw_sphere
from orbitrec.report.volumes import draw_volumes
from orbitrec.volumes.base import Volume
from orbitrec.volumes.spherical_bessel import SphericalBesselVolume

PRINTED = {
    "EMD-0409": (0.003, 0.013, 16.86),
    "EMD-25892": (0.007, 0.035, 21.52),
    "4 Gaussians": (0.007, 0.016, 4.45),
}
"""The thesis's relative errors of both moments, and resolutions in Å."""


@dataclass(frozen=True)
class Size:
    """How far moments are matched, in Å, with how many beads, and how much is searched.

    Of Gaussians the number is told. ``starts`` and ``tries`` are those of the beads (:class:`Settings`). The classical
    method, whose unknowns grow with the cube of the band, has its own.
    """

    band_A: dict[str, float]
    beads: dict[str, int]
    starts: int
    tries: dict[str, int]
    baseline_band_A: dict[str, float]
    baseline_iterations: int


QUICK = Size(
    {"EMD-0409": 20.0, "EMD-25892": 40.0, "4 Gaussians": 3.0},
    {"EMD-0409": 35, "EMD-25892": 40, "4 Gaussians": 4},
    48,
    {"EMD-0409": 12, "EMD-25892": 4, "4 Gaussians": 10},
    {"EMD-0409": 20.0, "EMD-25892": 40.0, "4 Gaussians": 3.0},
    200,
)
FULL = Size(
    {"EMD-0409": 15.0, "EMD-25892": 18.0, "4 Gaussians": 2.5},
    {"EMD-0409": 45, "EMD-25892": 180, "4 Gaussians": 4},
    64,
    {"EMD-0409": 25, "EMD-25892": 2, "4 Gaussians": 10},
    {"EMD-0409": 15.0, "EMD-25892": 40.0, "4 Gaussians": 2.5},
    600,
)


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
class Found:
    """A method's answer: a volume of so many unknowns, probabilities of the problem's directions, and moments."""

    volume: Volume
    unknowns: int
    views: Float[Tensor, "d"]
    moments: Moments


@dataclass(frozen=True, eq=False)
class Picture:
    """The beads' map, aligned, and views in the truth's frame: directions and probabilities."""

    aligned: Float[Tensor, "n n n"]
    directions: Float[Tensor, "d 3"]
    views: Float[Tensor, "d"]


@dataclass(frozen=True, eq=False)
class Watch:
    """Of a long run: ``listen`` is called after each step, and each is kept in ``checkpoints``."""

    listen: Callable[[], None] = lambda: None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    def step(self, name: str, compute: Callable[[], Solution]) -> Solution:
        """What was kept under ``name``, else what ``compute`` returns."""
        record = self.checkpoints.load(name) or self.checkpoints.save(name, vars(compute()))
        self.listen()
        variables, loss = record["variables"], record["loss"]
        assert isinstance(variables, Tensor)
        assert isinstance(loss, float)
        return Solution(variables, loss)


ALONE = Watch()
"""Nobody listens, and nothing is kept."""


def bead_problem(matching: Matching, size: Size) -> BeadMatching:
    """The moments in single precision, to be matched by beads."""
    target, moments = matching.target, matching.target.moments
    single = Moments(moments.first.to(torch.complex64), moments.second.to(torch.complex64), moments.weights.float())
    target = replace(target, moments=single, variance=target.variance.float())
    name = matching.truth.name
    settings = Settings(beads=size.beads[name], starts=size.starts, tries=size.tries[name])
    return BeadMatching(target, matching.truth.reach, matching.truth.radius, settings)


def steps(truths: Sequence[Truth], size: Size) -> int:
    """How many steps the table has."""
    return sum(search_steps(bead_problem(Matching(truth, size.band_A[truth.name]), size)) + 1 for truth in truths)


def bead_solution(matching: Matching, size: Size, watch: Watch) -> Found:
    """What beads find."""
    problem, name = bead_problem(matching, size), matching.truth.name
    generator = torch.Generator().manual_seed(matching.seed)
    best = match_beads(problem, generator, lambda step, compute: watch.step(f"{name} {step}", compute))
    moments = BeadStage.of(problem, problem.bandwidths()[-1]).moments(best.variables)
    views = problem.view_density(best, matching.directions)
    return Found(problem.volume(best), len(best.variables) - len(problem.parts(best.variables).views), views, moments)


def classical_solution(matching: Matching, size: Size) -> Found:
    """What the classical method finds."""
    generator = torch.Generator().manual_seed(matching.seed)
    options = {"starts": 1, "shift_px": 0.0, "iterations": size.baseline_iterations, "generator": generator}
    best = match_moments(matching.target, matching.basis, matching.directions, **options)[0]
    projector = PolarProjector(matching.basis, matching.grid, matching.directions, torch.float64)
    views = best.log_density.exp()
    moments = uniform_moments(projector.templates(best.coefficients), views, matching.grid)
    return Found(SphericalBesselVolume(matching.basis, best.coefficients), len(matching.basis), views, moments)


def table(truths: Sequence[Truth], size: Size, watch: Watch = ALONE) -> tuple[list[Row], dict[str, Picture]]:
    """Both methods on every truth, and what beads found by the truth's name."""
    rows, pictures = [], {}
    for truth in truths:
        name, begin = truth.name, time.perf_counter()
        matching = Matching(truth, size.baseline_band_A[name])
        row, _ = _judged(matching, classical_solution(matching, size))
        rows.append(replace(row, method="coefficients", starts=1, seconds=time.perf_counter() - begin))
        watch.listen()
        begin, matching = time.perf_counter(), Matching(truth, size.band_A[name])
        row, pictures[name] = _judged(matching, bead_solution(matching, size, watch))
        rows.append(replace(row, method="beads", starts=size.starts, seconds=time.perf_counter() - begin))
    return rows, pictures


def _judged(matching: Matching, found: Found) -> tuple[Row, Picture]:
    truth = matching.truth
    first, second = (float(error) for error in relative_errors(matching.target.moments, found.moments))
    volume = found.volume.to_grid(len(truth.voxels))
    alignment = align(volume, truth.voxels)
    aligned = alignment.apply(volume)
    resolution = fourier_shell_correlation(aligned, truth.voxels).cutoff_A(0.5, truth.voxel_size_A)
    row = Row(truth.name, "", matching.band_A, found.unknowns, 0, first, second, resolution, alignment.correlation, 0.0)
    return row, Picture(aligned, alignment.turned(matching.directions), found.views)


def write_results(
    run: RunFolder, size: Size, truths: Sequence[Truth], rows: Sequence[Row], pictures: Mapping[str, Picture]
) -> None:
    """table.json, table.csv, and for each volume the truth beside the map, and the true views beside the estimate."""
    write_json(run.file("table.json"), as_json(rows, size))
    write_csv(run.file("table.csv"), [asdict(row) for row in rows])
    for truth in truths:
        name, picture = truth.name.lower().replace(" ", "-"), pictures[truth.name]
        maps = {"truth": truth.voxels, "from two moments": picture.aligned}
        draw_volumes(run.file(f"{name}.png"), maps, f"{truth.name} (Figures 2.8–2.10)")
        matching = Matching(truth, size.band_A[truth.name])
        true = matching.views.density(matching.directions)
        views = {"truth": (matching.directions, true), "from two moments": (picture.directions, picture.views)}
        draw_sphere(run.file(f"{name}-views.png"), views, f"{truth.name}: density of views")


def as_json(rows: Sequence[Row], size: Size) -> dict[str, object]:
    """The rows and the printed figures."""
    return {"tables": ["2.2", "2.3"], "size": asdict(size), "rows": [asdict(row) for row in rows], "thesis": PRINTED}


def as_text(rows: Sequence[Row]) -> Table:
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

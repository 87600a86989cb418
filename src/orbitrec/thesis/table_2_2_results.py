"""Tables 2.2 and 2.3 as they are shown: files, pictures, and the thesis's figures beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.table import Table

from orbitrec.io.files import write_csv, write_json
from orbitrec.io.runs import RunFolder
from orbitrec.report.sphere import draw_sphere
from orbitrec.thesis.neural_truth import REPORTED_ERRORS
from orbitrec.thesis.plots.volumes import draw_volumes
from orbitrec.thesis.table_2_2 import Pictures, VolumeRow, VolumeTableSize
from orbitrec.thesis.two_moments import Matching, TrueVolume

REPORTED = {
    "EMD-0409": (0.003, 0.013, 16.86),
    "EMD-25892": (0.007, 0.035, 21.52),
    "4 Gaussians": (0.007, 0.016, 4.45),
}
"""The thesis's relative errors of both moments, and resolutions in Å."""


def write_results(
    run: RunFolder,
    size: VolumeTableSize,
    truths: Sequence[TrueVolume],
    rows: Sequence[VolumeRow],
    pictures: Pictures,
    fits: Mapping[str, float],
) -> None:
    """table.json, table.csv, and for each volume the truth beside the maps, and the true views beside the estimates."""
    write_json(run.file("table.json"), as_json(rows, size, fits))
    write_csv(run.file("table.csv"), [asdict(row) for row in rows])
    for truth in truths:
        name, found = truth.name.lower().replace(" ", "-"), pictures[truth.name]
        maps = {"truth": truth.voxels} | {method: picture.aligned for method, picture in found.items()}
        draw_volumes(run.file(f"{name}.png"), maps, f"{truth.name} (Figures 2.8–2.10)")
        matching = Matching(truth, size.plans[truth.name].smooth_band_A)
        views = {"truth": (matching.directions, matching.views.density(matching.directions))}
        views |= {method: (picture.directions, picture.views) for method, picture in found.items()}
        draw_sphere(run.file(f"{name}-views.png"), views, f"{truth.name}: density of views")


def as_json(rows: Sequence[VolumeRow], size: VolumeTableSize, fits: Mapping[str, float]) -> dict[str, object]:
    """The rows and the printed figures; ``fits`` are errors of neural truths, by their names, if they were taken."""
    results = {"size": asdict(size), "neural truths": dict(fits), "rows": [asdict(row) for row in rows]}
    return {"tables": ["2.2", "2.3"], **results, "thesis": REPORTED, "thesis's neural truths": REPORTED_ERRORS}


def as_text(rows: Sequence[VolumeRow], fits: Mapping[str, float]) -> Table:
    """The same as a table."""
    shown = Table(title="Tables 2.2 and 2.3: volumes from two moments of 5·10⁶ particles, σ = 0.5")
    for heading in ("volume", "method"):
        shown.add_column(heading)
    for heading in (
        "moments to, Å",
        "unknowns",
        "starts",
        "M¹ error",
        "M² error",
        "FSC 0.5, Å",
        "correlation",
        "views",
        "s",
    ):
        shown.add_column(heading, justify="right")
    for name, (first, second, resolution) in REPORTED.items():
        mine = [row for row in rows if row.volume == name]
        if mine:
            if name in fits:
                shown.add_row(name, f"a network's, {fits[name]:.3f} from the map (printed: {PRINTED_ERRORS[name]:.3f})")
            shown.add_row(
                name, "as printed", "", "", "", f"{first:.3f}", f"{second:.3f}", f"{resolution:.2f}", "", "", ""
            )
        for row in mine:
            shown.add_row(
                "", row.method, f"{row.band_A:g}", str(row.unknowns), str(row.starts), f"{row.first_error:.4f}",
                f"{row.second_error:.4f}", f"{row.resolution_A:.2f}", f"{row.correlation:.3f}", f"{row.views:.2f}",
                f"{row.seconds:.0f}",
            )  # fmt: skip
    return shown

"""Tables 2.2 and 2.3 as they are shown: the thesis's figures beside ours, and pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orbitrec.io.runs import RunFolder
from orbitrec.report.sphere import draw_sphere
from orbitrec.thesis.neural_truth import REPORTED_ERRORS
from orbitrec.thesis.plots.volumes import draw_volumes
from orbitrec.thesis.records import ExperimentResult, TextTable
from orbitrec.thesis.table_2_2 import Pictures, VolumeRow, VolumeTableSize
from orbitrec.thesis.two_moments import Matching, TrueVolume


@dataclass(frozen=True)
class ReportedVolume:
    """The thesis's relative errors of both moments, and its resolution in Å."""

    first_error: float
    second_error: float
    resolution_A: float


REPORTED = {
    "EMD-0409": ReportedVolume(0.003, 0.013, 16.86),
    "EMD-25892": ReportedVolume(0.007, 0.035, 21.52),
    "4 Gaussians": ReportedVolume(0.007, 0.016, 4.45),
}
"""By the volume's name."""


@dataclass(frozen=True)
class VolumeTable(ExperimentResult):
    """Tables 2.2 and 2.3.

    Attributes:
        size: how volumes were looked for.
        rows: ours.
        neural_truths: errors of networks that were taken for the truths, by the truths' names.
        reported: the thesis's figures.
        reported_neural_truths: the thesis's errors of its networks.
    """

    size: VolumeTableSize
    rows: tuple[VolumeRow, ...]
    neural_truths: Mapping[str, float]
    reported: Mapping[str, ReportedVolume]
    reported_neural_truths: Mapping[str, float]

    @classmethod
    def of(cls, size: VolumeTableSize, rows: Sequence[VolumeRow], neural_truths: Mapping[str, float]) -> "VolumeTable":
        """The table of these rows.

        Args:
            size: how volumes were looked for.
            rows: ours.
            neural_truths: errors of networks that were taken for the truths, by the truths' names; empty if none was.

        Returns:
            The table.
        """
        return cls("table-2.2", size, tuple(rows), neural_truths, REPORTED, REPORTED_ERRORS)

    def tables(self) -> list[TextTable]:
        """A group for each volume."""
        headings = (
            "volume",
            "method",
            "moments to, Å",
            "unknowns",
            "starts",
            "M¹ error",
            "M² error",
            "FSC 0.5, Å",
            "correlation",
            "views",
            "s",
        )
        groups = tuple(self._group(name) for name in self.reported if any(row.volume == name for row in self.rows))
        title = "Tables 2.2 and 2.3: volumes from moments of 5·10⁶ particles, σ = 0.5"
        return [TextTable(title, headings, groups, text_columns=2)]

    def _group(self, name: str) -> tuple[tuple[str, ...], ...]:
        rows, reported = [], self.reported[name]
        if name in self.neural_truths:
            error, theirs = self.neural_truths[name], self.reported_neural_truths[name]
            what = f"a network's, {error:.3f} from the map (reported: {theirs:.3f})"
            rows.append((name, what, *[""] * 9))
        errors = f"{reported.first_error:.3f}", f"{reported.second_error:.3f}", f"{reported.resolution_A:.2f}"
        rows.append((name, "reported", "", "", "", *errors, "", "", ""))
        return (*rows, *(_cells(row) for row in self.rows if row.volume == name))


def _cells(row: VolumeRow) -> tuple[str, ...]:
    errors = f"{row.first_error:.4f}", f"{row.second_error:.4f}"
    return (
        "",
        row.method,
        f"{row.band_A:g}",
        str(row.unknowns),
        str(row.starts),
        *errors,
        f"{row.resolution_A:.2f}" if math.isfinite(row.resolution_A) else "none",
        f"{row.correlation:.3f}",
        f"{row.views:.2f}" if math.isfinite(row.views) else "",
        f"{row.seconds:.0f}",
    )


def draw(run: RunFolder, size: VolumeTableSize, truths: Sequence[TrueVolume], pictures: Pictures) -> None:
    """For each volume the truth beside the maps, and the true views beside the estimates.

    Args:
        run: the folder.
        size: how volumes were looked for.
        truths: the volumes.
        pictures: what was found, by the truths' names.
    """
    for truth in truths:
        name, found = truth.name.lower().replace(" ", "-"), pictures[truth.name]
        maps = {"truth": truth.voxels} | {method: picture.aligned for method, picture in found.items()}
        draw_volumes(run.file(f"{name}.png"), maps, f"{truth.name} (Figures 2.8–2.10)")
        matching = Matching(truth, size.plans[truth.name].smooth_band_A)
        views = {"truth": (matching.directions, matching.views.density(matching.directions))}
        views |= {method: (picture.directions, picture.views) for method, picture in found.items()}
        draw_sphere(run.file(f"{name}-views.png"), views, f"{truth.name}: density of views")

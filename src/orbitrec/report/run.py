"""A run on disk: map, posed particles, correlations, history, facts, pictures and page."""

import math
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec import __version__
from orbitrec.cryoem.confidence import calibration, doubt
from orbitrec.cryoem.config import SearchConfig
from orbitrec.cryoem.result import PosedMap
from orbitrec.cryoem.search.multi_start import Selection
from orbitrec.errors import InputError, WriteError
from orbitrec.evaluation.alignment import align, resampled
from orbitrec.evaluation.fsc import FSC, fourier_shell_correlation
from orbitrec.evaluation.orientation import view_averages
from orbitrec.io.files import printable, write_csv, write_json
from orbitrec.io.mrc import read_header, read_map, write_map
from orbitrec.io.particle_table import ParticleStatistics
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import RunFolder
from orbitrec.io.star import write_star
from orbitrec.report.figures import RunPicture, draw_run
from orbitrec.report.fsc_tables import fsc_blocks, fsc_rows
from orbitrec.report.page import REPORT, write_report
from orbitrec.report.run_files import CURVES, HISTORY, STATISTICS, SUMMARY, write_conical_fsc, write_views
from orbitrec.report.summary import (
    Confidence,
    Contrast,
    Directions,
    HalfMaps,
    HalfSetKind,
    HalfSetOrigin,
    Handedness,
    RunKind,
    StartSource,
    StartSummary,
    Summary,
    TruthComparison,
)
from orbitrec.runtime.memory import peak_GiB

TOLERABLE_DEG = 45.0
"""Phase error, an eighth of a wave, up to which detail is hardly weakened."""


@dataclass(frozen=True)
class KnownMap:
    """A map that is given: the true one, or one to refine.

    Attributes:
        path: where it was read.
        grid: its density at the box and pixel size of the stack.
        notes: what was assumed of its voxels, where that may be wrong.
    """

    path: Path
    grid: Float[Tensor, "n n n"]
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, stack: ParticleStack, voxel_size_A: float | None = None) -> "KnownMap":
        """Read a map and bring it to the stack's grid.

        Args:
            path: the map.
            stack: the particles.
            voxel_size_A: edge of a voxel in Å, whatever the header says; None is the header's, or else the stack's.

        Returns:
            The map. It has a note if the header gives no voxel size, or one that makes the map's edge another than
            that of the images.

        Raises:
            InputError: if it cannot be read as a map, or is constant.
        """
        pixel, stated_A = stack.pixel_size_A, read_header(path).voxel_size_A
        grid, voxel_A = read_map(path, voxel_size_A or stated_A or pixel)
        if not float(grid.std()) > 0:
            raise InputError(f"{path} is a constant map; give one that shows a particle")
        edge_A, images_A, notes = len(grid) * voxel_A, stack.n * pixel, []
        if voxel_size_A is None and stated_A is None:
            notes.append(f"The header of {path} gives no voxel size: that of the particles, {pixel:g} Å, is assumed")
        elif voxel_size_A is None and abs(edge_A - images_A) > max(voxel_A, pixel):
            notes.append(
                f"The header of {path} gives voxels of {voxel_A:g} Å, so that the map spans {edge_A:.0f} Å and the "
                f"images {images_A:.0f} Å"
            )
        if abs(voxel_A / pixel - 1) > 1e-3 or len(grid) != stack.n:
            grid = resampled(grid.double(), voxel_A, stack.n, pixel)
        return cls(path, grid.double(), tuple(notes))

    @classmethod
    def given(cls, grid: Float[Tensor, "n n n"], stack: ParticleStack) -> "KnownMap":
        """A map in memory, at the box and pixel size of the stack.

        Raises:
            InputError: if it has another box, is constant, or holds NaN or infinite values.
        """
        if grid.shape != (stack.n,) * 3:
            raise InputError(
                f"the map has {' × '.join(map(str, grid.shape))} voxels and the images {stack.n} × {stack.n} pixels; "
                "resample it to a cube of that box"
            )
        if not bool(grid.isfinite().all()):
            raise InputError("the map holds NaN or infinite voxels; it cannot be used")
        if not float(grid.double().std()) > 0:
            raise InputError("the map is constant; give one that shows a particle")
        return cls(Path("a map in memory"), grid.detach().cpu().double())


def write_run(
    run: RunFolder,
    stack: ParticleStack,
    config: SearchConfig,
    result: PosedMap,
    truth: KnownMap | None,
    kind: RunKind,
) -> Summary:
    """Write the files of a run.

    The map, named by its kind, ``half1.mrc``, ``half2.mrc`` and ``mask.mrc`` (Å per voxel in the header, dense
    positive); the particles in the input's dialect with poses and half-sets; ``fsc.csv``, ``fsc.star`` and
    ``conical_fsc.csv``; ``history.csv``; ``summary.json`` and ``summary.png``; ``views.mrcs`` and ``views.csv``
    (averages of particles beside projections of the map); ``report.html``.

    Args:
        run: the folder.
        stack: the particles.
        config: of the run.
        result: of the run.
        truth: the true map, to compare the result with; None where it is not known.
        kind: what the run made.

    Returns:
        The facts of the run.

    Raises:
        WriteError: if the disk is full, or the page cannot be made of what was written.
    """
    pixel, rebuilt = stack.pixel_size_A, result.combined
    against, comparison = (None, None) if truth is None else compared_with_truth(rebuilt.volume, pixel, truth)
    maps = {kind: rebuilt.volume, "half1": rebuilt.half_maps[0], "half2": rebuilt.half_maps[1], "mask": rebuilt.mask}
    for file, volume in maps.items():
        write_map(run.file(f"{file}.mrc"), volume, pixel)
    posed = run.file(_posed_name(stack))
    for suffix in stack.table.companions:
        run.file(posed.with_suffix(suffix).name)
    stack.write_posed(posed, result.rotations, result.shifts_px, result.half_sets, result.statistics)
    write_csv(run.file(HISTORY), [asdict(row) for row in result.history])
    write_csv(run.file(STATISTICS), _particle_rows(result.statistics))
    write_csv(run.file(CURVES), fsc_rows(rebuilt.masked, against, pixel))
    write_conical_fsc(run, result.conical_fsc)
    write_star(run.file("fsc.star"), fsc_blocks(rebuilt.masked, pixel))
    summary = summary_of(stack, config, result, comparison)
    write_json(run.file(SUMMARY), summary.to_dict())
    title = f"{printable(stack.table.path.name)}: {len(stack)} particles, {stack.n} px of {pixel:g} Å"
    chosen = str(result.selection.chosen + 1)
    picture = RunPicture(
        rebuilt.volume, pixel, result.rotations, result.shifts_px, result.history, against, title,
        result.search_resolution_A, chosen,
    )  # fmt: skip
    draw_run(run.file("summary.png"), picture)
    views = view_averages(
        stack, result.rotations, result.shifts_px, rebuilt.volume, radius_px=result.radius_px,
        k_max=2 * math.pi * pixel / result.search_resolution_A, dense_is_dark=result.inverted,
    )  # fmt: skip
    write_views(run, views, pixel)
    run.file(REPORT)
    try:
        write_report(run.path)
    except InputError as error:  # the rest is whole, and must not be removed for the page
        raise WriteError(f"the run in {run.path} is complete, but its report could not be made: {error}") from error
    return summary


def summary_of(stack: ParticleStack, config: SearchConfig, result: PosedMap, truth: TruthComparison | None) -> Summary:
    """The facts of a run.

    Args:
        stack: the particles.
        config: of the run.
        result: of the run.
        truth: how far the map agrees with the true one; None where it is not known.

    Returns:
        The record that goes to ``summary.json``.
    """
    pixel, statistics = stack.pixel_size_A, result.image_statistics
    notes = statistics.notes(result.inverted, diameter_given=config.diameter_A is not None)
    confidence = _confidence(result)
    doubts = [] if confidence is None else doubt(confidence.probability)
    return Summary(
        orbitrec=__version__,
        input=printable(stack.table.path),
        particles=len(stack),
        box_px=stack.n,
        pixel_size_A=pixel,
        dialect=stack.table.dialect,
        posed=_posed_name(stack),
        ctf=stack.ctf is not None,
        checks=(*doubts, *result.checks, *notes, *_ignored(stack, result), *_doubtful(stack)),
        seed=config.seed,
        threads=torch.get_num_threads(),
        device=config.device,
        diameter_A=2 * result.radius_px * pixel,
        search_resolution_A=result.search_resolution_A,
        half_maps=_half_maps(stack, result),
        directions=Directions(
            result.sampling.scf_star,
            result.sampling.unsampled,
            result.conical_fsc.area_ratio,
            *result.conical_fsc.extremes_A(pixel),
        ),
        confidence=confidence,
        shift_spread_px=result.shift_spread_px,
        contrast=Contrast.DARK if result.inverted else Contrast.BRIGHT,
        contrast_of_images=Contrast(statistics.contrast_text()),
        handedness=Handedness.MIRRORED if config.flip else Handedness.AS_FOUND,
        symmetry=str(config.group),
        symmetry_score=None if result.symmetry is None else result.symmetry.score,
        symmetry_kept=None if result.symmetry is None else result.symmetry.kept,
        starts=_starts(result.selection),
        truth=truth,
        seconds=result.seconds | {"total": sum(result.seconds.values())},
        peak_memory_GiB=peak_GiB(),
    )


def _confidence(result: PosedMap) -> Confidence | None:
    found = result.witnesses
    if found is None:
        return None
    return Confidence(calibration().probability(found), found.log_likelihood, found.beyond, found.starts)


def _half_maps(stack: ParticleStack, result: PosedMap) -> HalfMaps:
    curves, pixel = result.combined.masked, stack.pixel_size_A
    return HalfMaps(
        HalfSetKind.INDEPENDENT if result.independent else HalfSetKind.ONE_REFERENCE,
        HalfSetOrigin.EVERY_OTHER if stack.table.halves() is None else HalfSetOrigin.INPUT,
        curves.corrected.cutoff_A(0.143, pixel),
        curves.unmasked.cutoff_A(0.143, pixel),
        result.agreement,
    )


def _particle_rows(statistics: ParticleStatistics) -> list[dict[str, int | float]]:
    """What is known of every particle beside its pose, in the order of the table."""
    columns = {**vars(statistics), "scale": statistics.scale}
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [
        {"row": number, **{name: round(value, 6) for name, value in zip(columns, row, strict=True)}}
        for number, row in enumerate(rows, start=1)
    ]


def _starts(selected: Selection) -> tuple[StartSummary, ...]:
    agreements = {candidate.start: candidate.agreement for candidate in selected.candidates}
    return tuple(
        StartSummary(StartSource(kind), score, agreements.get(index), index == selected.chosen)
        for index, (kind, score) in enumerate(zip_longest(selected.kinds, selected.scores))
    )


def _posed_name(stack: ParticleStack) -> str:
    return f"particles{stack.table.suffix}"


def _ignored(stack: ParticleStack, result: PosedMap) -> list[str]:
    """What is not modelled, and how far it changes phases at the finest resolution that was worked at."""
    columns = stack.table.ignored_columns()
    if not columns:
        return []
    sentence = f"Not modelled, and so ignored: {', '.join(columns)}."
    if stack.aberrations is None:
        return [sentence]
    pixel, found = stack.pixel_size_A, result.combined.masked.corrected
    finest_A = min(result.search_resolution_A, found.cutoff_A(0.143, pixel))
    degrees = stack.aberrations.largest_phase_deg(finest_A, result.radius_px * pixel)
    groups = sorted({group + 1 for group in stack.aberrations.group[degrees > TOLERABLE_DEG].tolist()})
    where = f" (optics group{'s' * (len(groups) > 1)} {', '.join(map(str, groups))})" if groups else ""
    advice = f": more than {TOLERABLE_DEG:g}° blurs; correct them in a program that models them" if groups else ""
    return [f"{sentence} At {finest_A:.1f} Å they change phases by up to {float(degrees.max()):.0f}°{where}{advice}."]


def _doubtful(stack: ParticleStack) -> list[str]:
    return [] if stack.ctf is None else stack.table.doubtful_values()


def compared_with_truth(
    volume: Float[Tensor, "n n n"], voxel_size_A: float, truth: KnownMap
) -> tuple[FSC, TruthComparison]:
    """How far a map agrees with the truth, aligned to it over rotation, shift and handedness.

    Args:
        volume: the map, (z, y, x).
        voxel_size_A: edge of a voxel.
        truth: the true map on the same grid.

    Returns:
        The correlation curve and the facts.
    """
    alignment = align(volume.double(), truth.grid)
    fsc = fourier_shell_correlation(alignment.apply(volume.double()), truth.grid)
    return fsc, TruthComparison(
        path=str(truth.path),
        fsc05_A=fsc.cutoff_A(0.5, voxel_size_A),
        fsc0143_A=fsc.cutoff_A(0.143, voxel_size_A),
        correlation=alignment.correlation,
        mirrored=alignment.mirrored,
    )

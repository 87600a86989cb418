"""A run on disk: the map, posed particles, the facts, the history and the picture."""

import math
import resource
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec import __version__
from orbitrec.errors import InputError
from orbitrec.evaluation.alignment import align, resampled
from orbitrec.evaluation.fsc import FSC, fourier_shell_correlation
from orbitrec.evaluation.view_averages import view_averages
from orbitrec.io.files import write_csv, write_json
from orbitrec.io.mrc import read_header, read_map, write_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import RunFolder
from orbitrec.recovery.pipeline import InitialModel, Options
from orbitrec.report.figures import RunPicture, draw_run
from orbitrec.report.page import REPORT, write_report
from orbitrec.report.run_files import write_views


@dataclass(frozen=True)
class KnownMap:
    """A map that is given, the true one or one to refine.

    ``grid``: (n, n, n) at the box and pixel size of the stack; ``path``: where it was read.
    """

    path: Path
    grid: Float[Tensor, "n n n"]

    @classmethod
    def read(cls, path: Path, stack: ParticleStack) -> "KnownMap":
        """Read a map and bring it to the stack's grid; a header without voxel size means the stack's.

        Raises:
            InputError: if it cannot be read as a map, or is constant.
        """
        pixel = stack.pixel_size_A
        grid, voxel_A = read_map(path, read_header(path).voxel_size_A or pixel)
        if not float(grid.std()) > 0:
            raise InputError(f"{path} is a constant map; give one that shows a particle")
        if abs(voxel_A / pixel - 1) > 1e-3 or len(grid) != stack.n:
            grid = resampled(grid.double(), voxel_A, stack.n, pixel)
        return cls(path, grid.double())


def write_initial_model(
    run: RunFolder,
    star: Path,
    stack: ParticleStack,
    options: Options,
    result: InitialModel,
    truth: KnownMap | None,
    name: str = "initial_model",
) -> dict[str, object]:
    """Write every file of a run and return the summary.

    The map as ``name``.mrc, ``half1.mrc``, ``half2.mrc`` (Å per voxel in the header, dense positive),
    ``particles.star`` (the input's dialect with poses), ``fsc.csv``, ``history.csv``, ``summary.json``,
    ``summary.png``, ``views.mrcs`` and ``views.csv`` (averages of particles beside projections), ``report.html``.
    """
    pixel, rebuilt = stack.pixel_size_A, result.reconstruction
    against, facts = (None, {}) if truth is None else _compared(rebuilt.volume, pixel, truth)
    for file, volume in zip((name, "half1", "half2"), (rebuilt.volume, *rebuilt.half_maps), strict=True):
        write_map(run.file(f"{file}.mrc"), volume, pixel)
    stack.write_posed(run.file(_posed_name(stack)), result.rotations, result.shifts_px)
    write_csv(run.file("history.csv"), [asdict(stage) for stage in result.history])
    write_csv(run.file("fsc.csv"), _fsc_rows(rebuilt.fsc, against, pixel))
    summary = _summary(star, stack, options, result) | facts
    write_json(run.file("summary.json"), summary)
    title = f"{star.name}: {len(stack)} particles, {stack.n} px of {pixel:g} Å"
    picture = RunPicture(
        rebuilt.volume, pixel, result.rotations, result.shifts_px, [asdict(s) for s in result.history], against, title,
        chosen=str(result.chosen_start),
    )  # fmt: skip
    draw_run(run.file("summary.png"), picture)
    views = view_averages(
        stack, result.rotations, result.shifts_px, rebuilt.volume, radius_px=result.radius_px,
        k_max=2 * math.pi * pixel / result.search_resolution_A, dense_is_dark=result.inverted,
    )  # fmt: skip
    write_views(run, views, pixel)
    run.file(REPORT)
    write_report(run.path)
    return summary


def _summary(star: Path, stack: ParticleStack, options: Options, result: InitialModel) -> dict[str, object]:
    pixel = stack.pixel_size_A
    return {
        "orbitrec": __version__,
        "input": str(star),
        "particles": len(stack),
        "box_px": stack.n,
        "pixel_size_A": pixel,
        "dialect": stack.table.dialect,
        "posed": _posed_name(stack),
        "warnings": [*result.survey.notes(), *_ignored(stack)],
        "ctf": stack.ctf is not None,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "diameter_A": 2 * result.radius_px * pixel,
        "search_resolution_A": result.search_resolution_A,
        # Halves of one refinement share their reference: an upper bound, not independent half-sets.
        "half_maps_fsc0143_A": result.reconstruction.fsc.cutoff_A(0.143, pixel),
        "shift_spread_px": result.shift_spread_px,
        "contrast": "dense is dark" if result.inverted else "dense is bright",
        "contrast_of_images": result.survey.contrast_text(),
        "hand": "undetermined: the mirrored map explains the images equally well",
        "start_log_likelihoods": result.start_scores,
        "start_kinds": result.start_kinds,
        "chosen_start": result.chosen_start,
        "seconds": result.seconds | {"total": sum(result.seconds.values())},
        "peak_memory_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _posed_name(stack: ParticleStack) -> str:
    return f"particles{stack.table.suffix}"


def _ignored(stack: ParticleStack) -> list[str]:
    columns = stack.table.ignored_columns()
    if not columns:
        return []
    return [f"Not modelled, and so ignored: {', '.join(columns)}. They matter at resolutions finer than these maps."]


def _compared(volume: Float[Tensor, "n n n"], voxel_size_A: float, truth: KnownMap) -> tuple[FSC, dict[str, object]]:
    alignment = align(volume.double(), truth.grid)
    fsc = fourier_shell_correlation(alignment.apply(volume.double()), truth.grid)
    return fsc, {
        "truth": str(truth.path),
        "fsc05_A": fsc.cutoff_A(0.5, voxel_size_A),
        "fsc0143_A": fsc.cutoff_A(0.143, voxel_size_A),
        "correlation": alignment.correlation,
        "mirrored": alignment.mirrored,
    }


def _fsc_rows(halves: FSC, against: FSC | None, voxel_size_A: float) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index, resolution in enumerate(halves.resolution_A(voxel_size_A).tolist()):
        row: dict[str, object] = {"shell": index, "resolution_A": resolution, "half_maps": float(halves.value[index])}
        if against is not None:
            row["truth"] = float(against.value[index])
        rows.append(row)
    return rows

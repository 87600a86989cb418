"""A run on disk: the map, posed particles, the facts, the history and the picture."""

import math
import resource
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec import __version__
from orbitrec.cryoem.config import SearchConfig
from orbitrec.cryoem.result import PosedMap
from orbitrec.errors import InputError, WriteError
from orbitrec.evaluation.alignment import align, resampled
from orbitrec.evaluation.fsc import FSC, fourier_shell_correlation
from orbitrec.evaluation.view_averages import view_averages
from orbitrec.io.files import write_csv, write_json
from orbitrec.io.mrc import read_header, read_map, write_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import RunFolder
from orbitrec.io.star import write_star
from orbitrec.report.figures import RunPicture, draw_run
from orbitrec.report.fsc_tables import fsc_blocks, fsc_rows
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
    config: SearchConfig,
    result: PosedMap,
    truth: KnownMap | None,
    name: str = "initial_model",
) -> dict[str, object]:
    """Write every file of a run and return the summary.

    The map as ``name``.mrc, ``half1.mrc``, ``half2.mrc``, ``mask.mrc`` (Å per voxel in the header, dense positive),
    ``particles.star`` (the input's dialect with poses and half-sets), ``fsc.csv`` and ``fsc.star``, ``history.csv``,
    ``summary.json``, ``summary.png``, ``views.mrcs`` and ``views.csv`` (averages of particles beside projections),
    ``report.html``.
    """
    pixel, rebuilt = stack.pixel_size_A, result.combined
    against, facts = (None, {}) if truth is None else _compared(rebuilt.volume, pixel, truth)
    maps = {name: rebuilt.volume, "half1": rebuilt.half_maps[0], "half2": rebuilt.half_maps[1], "mask": rebuilt.mask}
    for file, volume in maps.items():
        write_map(run.file(f"{file}.mrc"), volume, pixel)
    stack.write_posed(run.file(_posed_name(stack)), result.rotations, result.shifts_px, result.half_sets)
    write_csv(run.file("history.csv"), [asdict(stage) for stage in result.history])
    write_csv(run.file("fsc.csv"), fsc_rows(rebuilt.masked, against, pixel))
    write_star(run.file("fsc.star"), fsc_blocks(rebuilt.masked, pixel))
    summary = _summary(star, stack, config, result) | facts
    write_json(run.file("summary.json"), summary)
    title = f"{star.name}: {len(stack)} particles, {stack.n} px of {pixel:g} Å"
    picture = RunPicture(
        rebuilt.volume, pixel, result.rotations, result.shifts_px, [asdict(s) for s in result.history], against, title,
        chosen=str(result.selection.chosen + 1),
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


def _summary(star: Path, stack: ParticleStack, config: SearchConfig, result: PosedMap) -> dict[str, object]:
    pixel = stack.pixel_size_A
    notes = result.image_statistics.notes(result.inverted, diameter_given=config.diameter_A is not None)
    return {
        "orbitrec": __version__,
        "input": str(star),
        "particles": len(stack),
        "box_px": stack.n,
        "pixel_size_A": pixel,
        "dialect": stack.table.dialect,
        "posed": _posed_name(stack),
        "warnings": [*result.checks, *notes, *_ignored(stack)],
        "ctf": stack.ctf is not None,
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        "device": config.device,
        "diameter_A": 2 * result.radius_px * pixel,
        "search_resolution_A": result.search_resolution_A,
        "half_sets": "independent" if result.independent else "of one reference: an upper bound",
        "half_sets_from": "every other particle" if stack.table.halves() is None else "the input's own",
        "half_maps_fsc0143_A": result.combined.masked.corrected.cutoff_A(0.143, pixel),
        "half_maps_unmasked_fsc0143_A": result.combined.masked.unmasked.cutoff_A(0.143, pixel),
        "shift_spread_px": result.shift_spread_px,
        "contrast": "dense is dark" if result.inverted else "dense is bright",
        "contrast_of_images": result.image_statistics.contrast_text(),
        "hand": "undetermined: the mirrored map explains the images equally well"
        + ("; flipped, as asked" if config.flip else " (--flip gives it)"),
        "symmetry": str(config.group),
        "symmetry_score": None if result.symmetry is None else result.symmetry.score,
        "start_log_likelihoods": result.selection.scores,
        "start_kinds": result.selection.kinds,
        "chosen_start": result.selection.chosen + 1,
        "start_agreements": {str(each.start + 1): each.agreement for each in result.selection.candidates},
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

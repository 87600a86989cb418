"""`orbitrec abinitio` beside RELION's stochastic-gradient initial model: one stack, the same cores, in turn.

Needs RELION 3.1's programs on the path (Debian and Ubuntu: the package `relion`). `relion_preprocess` bins the stack,
since RELION's search takes minutes a step at 64 px; its options are those of its interface, and `--steps` and
`--last-subset` shorten its schedule. Every map that either program leaves on its way is aligned with the truth
afterwards, by the better hand; the picture has resolution against wall time.

    python benchmarks/relion_initial_model.py particles.star truth.mrc -o FOLDER --steps 100 --last-subset 100
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import starfile
from matplotlib.ticker import LogLocator, NullFormatter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from orbitrec.cryoem.config import AbInitioConfig
from orbitrec.cryoem.image_statistics import image_statistics
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.evaluation.alignment import align, resampled
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.geometry.polar import PolarGrid
from orbitrec.io.files import write_json
from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.report.style import BLUE, GREY, ORANGE, SMALL, label_axes
from orbitrec.runtime.checkpoints import Checkpoints

ORBITREC = [sys.executable, "-m", "orbitrec"]
# The initial-model job of RELION 3.1's interface with its default values.
RELION = """
--sgd --denovo_3dref --K 1 --sym C1 --ctf --flatten_solvent --zero_mask --dont_combine_weights_via_disc
--preread_images --pool 3 --pad 1 --skip_gridding --oversampling 1 --healpix_order 1 --offset_range 6 --offset_step 2
--sgd_ini_resol 35 --sgd_fin_resol 15 --sgd_ini_subset 100 --random_seed 1
""".split()  # noqa: SIM905
STAGES = ("start", "select", "frequency")
"""Of orbitrec's search, by the first words of the names of their records."""
WRITING_S = 0.3
"""A file that has not changed for as long is whole."""


@dataclass(frozen=True)
class Program:
    """What one program took, and (seconds, resolution in Å) on its way."""

    name: str
    seconds: float
    processor_s: float
    peak_GiB: float
    curve: list[tuple[float, float]]


def binned(star: Path, box: int, folder: Path) -> Path:
    """The stack on ``box`` pixels, the noise of variance 1 again, as RELION's own program makes it."""
    stack = ParticleStack.open(star)
    tables = starfile.read(star, always_dict=True)
    names = [name.split("@")[1] for name in tables["particles"]["rlnImageName"]]
    if len(set(names)) > 1 or stack.n <= box:
        sys.exit(f"{star} is not one stack of more than {box} pixels")
    bin_command = ["relion_preprocess", "--operate_on", str((star.parent / names[0]).resolve()), "--operate_out"]
    options = ["particles.mrcs", "--scale", str(box), "--norm", "--bg_radius", str(round(0.4 * box))]
    subprocess.run([*bin_command, *options], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    tables["optics"]["rlnImagePixelSize"] *= stack.n / box
    tables["optics"]["rlnImageSize"] = box
    tables["particles"]["rlnImageName"] = [
        f"{name.split('@')[0]}@particles.mrcs" for name in tables["particles"]["rlnImageName"]
    ]
    starfile.write(tables, folder / "particles.star")
    return folder / "particles.star"


def timed(
    command: list[str], data: Path, maps: Path, pattern: str
) -> tuple[float, float, float, list[tuple[float, Path]]]:
    """Run in ``data``; seconds, processor seconds, GiB, and copies of ``maps/pattern`` with their seconds."""
    seen: dict[Path, int] = {}
    kept: list[tuple[float, Path]] = []
    copies = maps.parent / f"{maps.name}-kept"
    copies.mkdir()
    begun, epoch, ended = time.monotonic(), time.time(), 0
    process = subprocess.Popen(command, cwd=data, stdout=subprocess.DEVNULL)
    while not ended:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        for path in maps.glob(pattern):
            copy = copies / f"{len(kept):03}-{path.name}"
            with suppress(FileNotFoundError):  # where the run has just removed it
                stamp = path.stat().st_mtime_ns
                whole = ended or time.time() - stamp / 1e9 > WRITING_S
                if whole and seen.get(path) != stamp:
                    shutil.copyfile(path, copy)
                    seen[path] = stamp
                    kept.append((stamp / 1e9 - epoch, copy))
        time.sleep(0.05)
    if status:
        sys.exit(f"{command[0]} failed with status {os.waitstatus_to_exitcode(status)}")
    elapsed = time.monotonic() - begun
    return elapsed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, sorted(kept)


class Judge:
    """The truth, and how near to it a map is."""

    def __init__(self, truth: Path, box: int, pixel_size_A: float) -> None:
        self.truth = resampled(*read_map(truth), box, pixel_size_A).double()
        self.pixel_size_A = pixel_size_A

    def resolution(self, volume: Tensor) -> float:
        """FSC 0.5 with the truth in Å, over the whole box, the better hand."""
        volume = volume.double()
        aligned = align(volume, self.truth).apply(volume)
        return fourier_shell_correlation(aligned, self.truth).cutoff_A(0.5, self.pixel_size_A)


def orbitrec(data: Path, folder: Path, judge: Judge) -> Program:
    """The whole command, and the best model so far (by held-out likelihood) at each of its records."""
    run = folder / "orbitrec"
    command = [*ORBITREC, "abinitio", "particles.star", "-o", str(run.resolve()), "--seed", "1"]
    seconds, processor, peak, kept = timed(command, data, run, "checkpoint/*.safetensors")
    curve = [(at, judge.resolution(volume)) for at, volume in _best_so_far(data / "particles.star", kept)]
    curve.append((seconds, judge.resolution(read_map(run / "initial_model.mrc")[0])))
    return Program("orbitrec abinitio", seconds, processor, peak, curve)


def _best_so_far(star: Path, kept: list[tuple[float, Path]]) -> Iterator[tuple[float, Tensor]]:
    stack = ParticleStack.open(star)
    statistics = image_statistics(stack)
    stack, config = statistics.applied(stack), AbInitioConfig().with_diameter(statistics.diameter_A)
    radius, schedule = config.radius_px(stack), config.schedule_for(stack)
    grid = PolarGrid.for_radius(stack.n, max(schedule.bandwidths) / radius, radius + 3)
    passes = [bandwidth for bandwidth in schedule.bandwidths for _ in range(schedule.passes)]
    best = (0, -math.inf)
    for at, path in kept:
        stage = path.stem[4:].split("-")[0]
        if stage not in STAGES or path.stem.endswith("starts"):
            continue
        record: dict[str, Any] = Checkpoints(path.parent).load(path.stem) or {}
        reached = STAGES.index(stage), record.get("score", 0.0)
        if reached < best:
            continue
        best = reached
        at_bandwidth = (schedule.start_bandwidth, schedule.select_bandwidth, passes[record.get("done", 1) - 1])
        level = ResolutionLevel.at(grid, radius, at_bandwidth[reached[0]])
        part = "model." if stage == "frequency" else ""  # of the state of a multi-resolution run
        model = VolumeAndViews(record[f"{part}coefficients"], record[f"{part}log_views"])
        yield at, level.volume(model).to_grid(stack.n)


def relion(data: Path, folder: Path, judge: Judge, steps: int, last_subset: int) -> Program:
    """RELION's 50 + 200 + 50 steps brought to ``steps`` in these proportions, a map written at every tenth."""
    stack = ParticleStack.open(data / "particles.star")
    diameter_A = image_statistics(stack).diameter_A
    begin = round(steps / 6)
    numbers = {
        "sgd_ini_iter": begin, "sgd_inbetween_iter": steps - 2 * begin, "sgd_fin_iter": begin, "sgd_write_iter": 10,
        "sgd_fin_subset": last_subset, "particle_diameter": round(diameter_A), "j": len(os.sched_getaffinity(0)),
    }  # fmt: skip
    options = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    maps = folder / "relion"
    maps.mkdir()
    command = ["relion_refine", "--i", "particles.star", "--o", str(maps.resolve() / "run"), *RELION, *options]
    seconds, processor, peak, kept = timed(command, data, maps, "run_it*_class001.mrc")
    curve = [(at, judge.resolution(read_map(path)[0])) for at, path in kept if "it000" not in path.name]
    return Program(f"RELION's SGD, {steps} steps of 100 to {last_subset}", seconds, processor, peak, curve)


def draw(programs: list[Program], nyquist_A: float, path: Path) -> None:
    """Resolution against wall time, both programs."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for program, colour in zip(programs, (BLUE, ORANGE), strict=True):
        axes.plot(*zip(*program.curve, strict=True), "o-", color=colour, markersize=3, label=program.name)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    label_axes(axes, "wall time, s", "FSC 0.5 with the truth, Å (lower is better)")
    axes.axhline(nyquist_A, color=GREY, linewidth=1, linestyle=":", label="Nyquist")
    axes.legend(frameon=False, fontsize=SMALL, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("particles", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--box", type=int, default=32, help="pixels")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--last-subset", type=int, default=500)
    arguments = parser.parse_args()
    data = arguments.output / "data"
    data.mkdir(parents=True)
    stack = ParticleStack.open(binned(arguments.particles, arguments.box, data))
    judge = Judge(arguments.truth, stack.n, stack.pixel_size_A)
    programs = [
        orbitrec(data, arguments.output, judge),
        relion(data, arguments.output, judge, arguments.steps, arguments.last_subset),
    ]
    cores = len(os.sched_getaffinity(0))
    table = Table(title=f"{len(stack)} particles of {stack.n} px of {stack.pixel_size_A:g} Å, {cores} of the cores")
    for column in ("program", "seconds", "processor s", "GiB", "FSC 0.5 Å"):
        table.add_column(column)
    for program in programs:
        numbers = f"{program.seconds:.0f}", f"{program.processor_s:.0f}", f"{program.peak_GiB:.2f}"
        table.add_row(program.name, *numbers, f"{program.curve[-1][1]:.2f}")
    Console().print(table)
    write_json(arguments.output / "curves.json", {"programs": [asdict(program) for program in programs]})
    draw(programs, 2 * stack.pixel_size_A, arguments.output / "curves.png")


if __name__ == "__main__":
    main()

"""Processor seconds of `orbitrec abinitio`, stage by stage, as ratios to those of an earlier checkout.

The two checkouts run in turn on one thread, so that what else the machine does falls on both alike. Each set is a STAR
file; a truth.mrc beside it gives the resolution of both maps (FSC 0.5). Without a set, and with ``--quick``, particles
of a phantom are simulated, whose runs take some minutes in all. Maps stay in FOLDER/<set>/<before or after>-<repeat>.

    python benchmarks/speed.py [PARTICLES.star …] --before CHECKOUT -o FOLDER [--repeats 2] [--quick]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from orbitrec.api import simulate_particles
from orbitrec.io.files import write_json
from orbitrec.volumes.phantoms import protein_phantom

HERE = Path(__file__).resolve().parents[1]
QUICK, PHANTOM = 600, "phantom"
TIMED = """
import json, resource, sys, time
from pathlib import Path
import orbitrec
from orbitrec.cli.main import run
from orbitrec.runtime.progress import RunState

checkout, measured, *arguments = sys.argv[1:]
assert Path(orbitrec.__file__).is_relative_to(checkout), orbitrec.__file__
seconds, last, timer = {}, 0.0, RunState.timer

def timed(state, name):
    global last
    now = time.process_time()
    seconds[name], last = seconds.get(name, 0.0) + now - last, now
    timer(state, name)

RunState.timer = timed
try:
    run(arguments)
finally:
    seconds["report"] = time.process_time() - last
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    Path(measured).write_text(json.dumps({"seconds": seconds, "peak_GiB": peak}))
"""


def measured(checkout: Path, star: Path, folder: Path) -> dict[str, object]:
    """Processor seconds of each stage of a run of one checkout, its peak memory and its map's resolution."""
    file, truth = folder.with_suffix(".json"), star.parent / "truth.mrc"
    if not file.exists():
        arguments = ["abinitio", str(star), "-o", str(folder), *(["--truth", str(truth)] if truth.exists() else [])]
        arguments += ["--no-ctf"] if star.parent.name == PHANTOM else []
        own = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-c", TIMED, str(checkout), str(file), *arguments]
        subprocess.run(command, env=own, check=True, stdout=subprocess.DEVNULL, cwd=folder.parent)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {**json.loads(file.read_text(encoding="utf-8")), "fsc05_A": summary.get("fsc05_A")}


def compared(runs: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    """Median seconds of each stage and of all before and after, and their ratio."""
    found = {}
    for stage in (*runs["after"][0]["seconds"], "all"):
        own = {
            when: statistics.median(
                sum(each["seconds"].values()) if stage == "all" else each["seconds"].get(stage, 0.0) for each in several
            )
            for when, several in runs.items()
        }
        found[stage] = {**own, "ratio": own["after"] / max(own["before"], 1e-9)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--before", type=Path, required=True, help="An earlier checkout.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help=f"Add {QUICK} simulated particles.")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "after": HERE}
    results, sets = {}, [star.resolve() for star in arguments.sets]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.quick or not sets:
            made = Path(folder) / PHANTOM
            phantom = protein_phantom(40, 14, torch.Generator().manual_seed(1)).to_grid(48)
            simulate_particles(made, phantom, 4.0, QUICK)
            sets.append(made / "particles.star")
        for star in sets:
            own = arguments.output.resolve() / star.parent.name
            own.mkdir(parents=True, exist_ok=True)
            runs: dict[str, list[dict]] = {when: [] for when in checkouts}
            for repeat in range(1, arguments.repeats + 1):
                for when, checkout in checkouts.items():
                    runs[when].append(measured(checkout, star, own / f"{when}-{repeat}"))
            results[star.parent.name] = {"stages": compared(runs), "runs": runs}
            write_json(arguments.output / "speed.json", results)
            report(star.parent.name, results[star.parent.name])


def report(name: str, result: dict) -> None:
    table = Table("stage", "before, s", "after, s", "ratio", title=name)
    for stage, row in result["stages"].items():
        table.add_row(stage, *(f"{row[column]:.2f}" for column in ("before", "after", "ratio")))
    Console().print(table)
    for when, several in result["runs"].items():
        reached, peak = ([each[key] for each in several] for key in ("fsc05_A", "peak_GiB"))
        print(f"{when}: FSC 0.5 at {reached} Å, peak {max(peak):.2f} GiB")


if __name__ == "__main__":
    main()

"""Does the start matter in the end? The whole of `orbitrec abinitio` from one start of each kind, many seeds each.

Every run has one start, so that nothing is hidden by the choice among several; by default the command takes the best of
eight. A run has succeeded if its map agrees with the truth to 15 Å (FSC 0.5). Finished runs are kept in FOLDER: the
same command goes on where it was stopped.

    OMP_NUM_THREADS=1 python benchmarks/start_success.py PARTICLES.star TRUTH.mrc -o FOLDER [--seeds 10]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orbitrec.io.files import write_json

ORBITREC = [sys.executable, "-m", "orbitrec"]
ONE_START = {
    "random": ["--start", "random", "--starts", "1"],
    "moments": ["--start", "moments", "--matched", "1", "--starts", "0"],
    "momnet": ["--start", "momnet", "--matched", "1", "--starts", "0"],
}
SUCCESS_A = 15.0


def run(star: str, truth: str, kind: str, seed: int) -> dict[str, float]:
    """Resolution, seconds that the start took, and processor seconds of the whole command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = ["abinitio", star, "--truth", truth, "-o", f"{folder}/run", "--seed", str(seed), "--json"]
        printed = subprocess.run([*ORBITREC, *command, *ONE_START[kind]], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    summary = json.loads(printed.stdout)
    return {"fsc05_A": summary["fsc05_A"], "starts_s": summary["seconds"]["starts"], "processor_s": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("particles")
    parser.add_argument("truth")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", choices=list(ONE_START), default=list(ONE_START))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    title = f"{arguments.particles}: one start a run, {arguments.seeds} seeds"
    columns = (
        "start",
        f"within {SUCCESS_A:g} Å",
        "FSC 0.5 Å, median",
        "best – worst",
        "starts, s",
        "processor s",
    )
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in arguments.kinds}
    for seed in range(1, arguments.seeds + 1):
        for kind, results in found.items():
            file = arguments.output / f"{kind}-{seed}.json"
            if not file.exists():
                write_json(file, run(arguments.particles, arguments.truth, kind, seed))
            results.append(json.loads(file.read_text()))
    table = Table(*columns, title=title)
    for kind, results in found.items():
        reached = sorted(each["fsc05_A"] for each in results)
        middle = {name: statistics.median(each[name] for each in results) for name in results[0]}
        table.add_row(
            kind, f"{sum(a <= SUCCESS_A for a in reached)} of {len(reached)}", f"{middle['fsc05_A']:.2f}",
            f"{reached[0]:.2f} – {reached[-1]:.2f}", f"{middle['starts_s']:.1f}", f"{middle['processor_s']:.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()

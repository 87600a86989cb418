"""A large stack in little memory: simulated particles → `orbitrec abinitio`, time of each part and peak.

    python benchmarks/large_stack.py MAP.mrc --ctf DEFOCUS.star -n 100000 -o FOLDER

FOLDER keeps the set and the run: where it is interrupted, the same command goes on with `--resume`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ORBITREC = [sys.executable, "-m", "orbitrec"]


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command; its seconds and its peak memory in GiB, as the system counts them."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command[2:5])} … failed with status {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - began, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map")
    parser.add_argument("--ctf", required=True, help="STAR file of defoci")
    parser.add_argument("-n", "--count", type=int, default=100_000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    data, run = arguments.output / "data", arguments.output / "run"
    if not (data / "particles.star").exists():
        simulate = ["simulate", "cryoem", "--map", arguments.map, "--ctf", arguments.ctf, "--snr", "0.1"]
        seconds, peak = measured([*ORBITREC, *simulate, "-n", str(arguments.count), "-o", str(data)])
        print(f"simulated {arguments.count} particles in {seconds:.0f} s, {peak:.2f} GiB", flush=True)
    resume = ["--resume"] if arguments.resume else []
    command = ["abinitio", str(data / "particles.star"), "--truth", str(data / "truth.mrc"), "-o", str(run), *resume]
    seconds, peak = measured([*ORBITREC, *command])
    summary = json.loads((run / "summary.json").read_text())
    table = Table(title=f"{summary['particles']} particles of {summary['box_px']} px, {summary['threads']} threads")
    for name in ("part", "seconds"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for part, taken in summary["seconds"].items():
        table.add_row(part, f"{taken:.0f}")
    table.add_row("the whole command", f"{seconds:.0f}")
    Console().print(table)
    stack_gib = (data / "particles.mrcs").stat().st_size / 2**30
    print(f"peak memory {peak:.2f} GiB for {stack_gib:.2f} GiB of images")
    print(f"FSC 0.5 with the truth at {summary['fsc05_A']:.2f} Å")


if __name__ == "__main__":
    main()

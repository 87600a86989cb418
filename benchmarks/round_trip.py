"""From RELION and back: relion_project → `orbitrec abinitio`, `refine` → relion_reconstruct, relion_postprocess.

Every program of the pipeline is timed from outside, and every map compared with the truth; the bound is what
`relion_reconstruct` makes of the true poses. Needs RELION 3.1's programs (Debian and Ubuntu: the package `relion`).

    python benchmarks/round_trip.py MAP.mrc --ctf DEFOCUS.star -n 5000 --snr 0.1 -o FOLDER
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import starfile
from rich.console import Console
from rich.table import Table

from main_job import ORBITREC, evaluated, simulated


class Pipeline:
    """Commands run one after the other in a folder, each a row of a table."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder = folder
        self.table = Table("command", "seconds", "GiB", "FSC 0.5 Å", "FSC 0.143 Å", title=title)

    def run(self, command: list[str], result: str | None = None) -> None:
        """One command; ``result`` is its map, to be compared with the truth."""
        begun = time.monotonic()
        process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        name = " ".join(command[2:4]) if command[0] == sys.executable else command[0]
        if status:
            sys.exit(f"{name} failed with status {os.waitstatus_to_exitcode(status)}")
        seconds = time.monotonic() - begun
        found = evaluated(self.folder / result, self.folder / "data" / "truth.mrc") if result else None
        resolutions = (f"{found['fsc05_A']:.2f}", f"{found['fsc0143_A']:.2f}") if found else ("", "")
        self.table.add_row(name, f"{seconds:.0f}", f"{usage.ru_maxrss / 2**20:.2f}", *resolutions)


def with_true_poses(data: Path) -> None:
    """data/posed.star: the particles with the poses that they were projected at; RELION reads it from any folder."""
    particles, truth = (starfile.read(data / f"{name}.star", always_dict=True) for name in ("particles", "truth"))
    poses = [name for name in truth["particles"] if name.startswith(("rlnAngle", "rlnOrigin"))]
    particles["particles"][poses] = truth["particles"][poses]
    numbers = [name.split("@")[0] for name in particles["particles"]["rlnImageName"]]
    particles["particles"]["rlnImageName"] = [f"{number}@{data}/particles.mrcs" for number in numbers]
    starfile.write(particles, data / "posed.star")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map")
    parser.add_argument("--ctf", required=True, help="STAR file of defocus values")
    parser.add_argument("-n", dest="count", type=int, default=5000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if shutil.which("relion_project") is None:
        sys.exit("RELION's programs are not on the path")
    folder = arguments.output.resolve()
    simulated(arguments, arguments.seed, folder / "data")
    with_true_poses(folder / "data")
    size = f"{arguments.count} particles, SNR {arguments.snr:g}, seed {arguments.seed}"
    pipeline = Pipeline(folder, f"{Path(arguments.map).name}, {size}, {len(os.sched_getaffinity(0))} cores")
    seed = ["--seed", str(arguments.seed)]
    begun = time.monotonic()
    pipeline.run([*ORBITREC, "abinitio", "data/particles.star", "-o", "run", *seed], "run/initial_model.mrc")
    refine = ["refine", "data/particles.star", "--init", "run/initial_model.mrc", "-o", "refined", *seed]
    pipeline.run([*ORBITREC, *refine], "refined/refined.mrc")
    rebuild = ["relion_reconstruct", "--ctf", "--i"]
    pipeline.run([*rebuild, "refined/particles.star", "--o", "relion.mrc"], "relion.mrc")
    (folder / "post").mkdir()
    halves = ["--i", "refined/half1.mrc", "--i2", "refined/half2.mrc", "--mask", "refined/mask.mrc"]
    pipeline.run(["relion_postprocess", *halves, "--o", "post/post"], "post/post.mrc")
    seconds = time.monotonic() - begun
    pipeline.run([*rebuild, "data/posed.star", "--o", "bound.mrc"], "bound.mrc")
    pipeline.table.caption = f"the whole way {seconds:.0f} s with evaluations; the last row has the true poses"
    Console().print(pipeline.table)


if __name__ == "__main__":
    main()

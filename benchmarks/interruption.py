"""Kill −9 at random moments: does `orbitrec abinitio` go on to the same files?

One run is left alone; another, with the same options, is killed at random moments and resumed until it is through.
Maps and half-maps of both are compared byte by byte.

    python benchmarks/interruption.py particles.star [--kills 5] [--seed 1] [--starts 2 --diameter 140]

What is not known here is given to `orbitrec abinitio`.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAPS = ("initial_model.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "particles.star")


def command(star: Path, folder: Path, options: list[str]) -> list[str]:
    return [sys.executable, "-m", "orbitrec", "abinitio", str(star), "-o", str(folder), *options]


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:12] for name in MAPS}


def killed_run(star: Path, folder: Path, options: list[str], moments: list[float]) -> int:
    """Kill after each of ``moments`` seconds, then let it finish; how many kills met a run that was not through."""
    kills = 0
    for index, moment in enumerate([*moments, None]):
        resume = ["--resume"] if index else []
        process = subprocess.Popen(command(star, folder, [*options, *resume]), stdout=subprocess.DEVNULL)
        try:
            if process.wait(moment) != 0:
                raise SystemExit(f"the run failed after {kills} kills")
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            records = len(list((folder / "checkpoint").glob("*.safetensors")))
            print(f"killed after {moment:.0f} s with {records} steps recorded", flush=True)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("star", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the moments that the run is killed at")
    arguments, options = parser.parse_known_args()
    options = [option for option in options if option != "--"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        begun = time.monotonic()
        subprocess.run(command(arguments.star, folder / "alone", options), check=True, capture_output=True)
        seconds = time.monotonic() - begun
        draw = random.Random(arguments.seed)
        # A resumed run has less to do: shares of the whole keep the kills within it.
        moments = [draw.uniform(0.05, 0.25) * seconds for _ in range(arguments.kills)]
        kills = killed_run(arguments.star, folder / "killed", options, moments)
        alone, killed = digests(folder / "alone"), digests(folder / "killed")
        for name in MAPS:
            print(f"{name:20} {alone[name]}  {killed[name]}  {'same' if alone[name] == killed[name] else 'DIFFERENT'}")
        print(f"{kills} kills in a run of {seconds:.0f} s; {'the same files' if alone == killed else 'NOT THE SAME'}")


if __name__ == "__main__":
    main()

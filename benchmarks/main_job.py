"""The main job, timed from outside: simulated particles → `orbitrec abinitio` → the map against the truth.

Where RELION is installed its own `relion_project` makes the images (poses, shifts and CTF as `orbitrec simulate` draws
them, white noise added here) and its `relion_reconstruct` makes a map from the poses that orbitrec found.

    python benchmarks/main_job.py MAP.mrc --ctf DEFOCUS.star -n 5000 --snr 0.1 --seeds 1 2 3
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from orbitrec.io.mrc import StackWriter, read_header
from orbitrec.models.background import corner_mask

ORBITREC = [sys.executable, "-m", "orbitrec"]


def simulated(arguments: argparse.Namespace, seed: int, folder: Path) -> str:
    """Make folder/particles.star, .mrcs and the truth; returns the name of the projector."""
    command = ["simulate", "cryoem", "--map", arguments.map, "--ctf", arguments.ctf, "-n", str(arguments.count)]
    command += [
        "--snr",
        str(arguments.snr),
        "--shift-px",
        "2",
        "--views",
        "vmf",
        "--seed",
        str(seed),
        "-o",
        str(folder),
    ]
    subprocess.run([*ORBITREC, *command], check=True, stdout=subprocess.DEVNULL)
    if shutil.which("relion_project") is None:
        return "orbitrec"
    project = ["relion_project", "--i", "truth.mrc", "--ang", "truth.star", "--o", "clean", "--ctf"]
    subprocess.run([*project, "--angpix", str(read_header(folder / "truth.mrc").voxel_size_A)],
                   cwd=folder, check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    noisy(folder, arguments.snr, torch.Generator().manual_seed(seed))
    return "relion_project"


def noisy(folder: Path, snr: float, generator: torch.Generator) -> None:
    """Replace particles.mrcs by RELION's projections with noise of variance 1 at the SNR of `orbitrec simulate`."""
    clean = read_header(folder / "clean.mrcs")
    count, n = clean.shape[0], clean.shape[-1]
    disc = ~corner_mask(n)
    with (folder / "clean.mrcs").open("rb") as file:
        images = [torch.from_numpy(clean.read_sections(file, s, min(500, count - s))) for s in range(0, count, 500)]
    signal = float(torch.cat([part[:, disc].double().var(dim=1, correction=0) for part in images]).mean())
    with StackWriter(folder / "particles.mrcs", count, n, read_header(folder / "truth.mrc").voxel_size_A) as stack:
        for part in images:
            scaled = part.float() * (snr / signal) ** 0.5
            stack.write(scaled + torch.randn(scaled.shape, generator=generator))
    (folder / "clean.mrcs").unlink()


def evaluated(map_file: Path, truth: Path) -> dict:
    command = [*ORBITREC, "evaluate", str(map_file), str(truth), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one_job(arguments: argparse.Namespace, seed: int, folder: Path) -> tuple[str, ...]:
    projector = simulated(arguments, seed, folder / "data")
    star, run = folder / "data" / "particles.star", folder / "run"
    start = time.monotonic()
    command = [*ORBITREC, "abinitio", str(star), "-o", str(run), "--seed", str(seed), "--json"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.monotonic() - start
    summary = json.loads(printed)
    found = evaluated(run / "initial_model.mrc", folder / "data" / "truth.mrc")
    relion = "not installed"
    if shutil.which("relion_reconstruct"):
        rebuild = ["relion_reconstruct", "--i", str(run / "particles.star"), "--ctf", "--o", str(run / "relion.mrc")]
        subprocess.run(rebuild, check=True, stdout=subprocess.DEVNULL)
        relion = f"{evaluated(run / 'relion.mrc', folder / 'data' / 'truth.mrc')['fsc05_A']:.2f}"
    numbers = (f"{found['fsc05_A']:.2f}", f"{found['fsc0143_A']:.2f}", relion)
    return str(seed), projector, *numbers, f"{seconds:.0f}", f"{summary['peak_memory_GiB']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("map")
    parser.add_argument("--ctf", required=True, help="STAR file of defocus values")
    parser.add_argument("-n", dest="count", type=int, default=5000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    table = Table(title=f"{Path(arguments.map).name}, {arguments.count} particles, SNR {arguments.snr:g}, shifts 2 px")
    for column in ("seed", "projected by", "FSC 0.5 Å", "FSC 0.143 Å", "from our poses by RELION Å", "s", "GiB"):
        table.add_column(column)
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            table.add_row(*one_job(arguments, seed, Path(folder)))
    Console().print(table)


if __name__ == "__main__":
    main()

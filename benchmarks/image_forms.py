"""One set as it is, with its phases flipped, and multiplied by its CTF: `orbitrec abinitio` finds the same map of all.

The images of a set are multiplied by the sign of their CTF, by the CTF, or by nothing, the table is marked as RELION
marks it, and each form is solved with the same seed and compared with the truth. Runs that are there are not made
again.

    OMP_NUM_THREADS=1 python benchmarks/image_forms.py PARTICLES.star TRUTH.mrc -n 3000 -o FOLDER
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import starfile
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from main_job import ORBITREC, evaluated
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack

FORMS: dict[str, tuple[str | None, Callable[[Tensor], Tensor]]] = {
    "plain": (None, torch.ones_like),
    "phases flipped": ("rlnCtfDataArePhaseFlipped", torch.sign),
    "multiplied by the CTF": ("rlnCtfDataAreCtfPremultiplied", lambda ctf: ctf),
}
"""RELION's mark in the table of optics, and the factor of the images' transforms."""
AGREE_A = 0.2


def written(stack: ParticleStack, count: int, form: str, folder: Path) -> None:
    """Write the first ``count`` particles of a set in one form."""
    mark, factor = FORMS[form]
    folder.mkdir(parents=True)
    assert stack.ctf is not None
    with StackWriter(folder / "particles.mrcs", count, stack.n, stack.pixel_size_A) as out:
        for rows in torch.arange(count).split(500):
            transform = centred_fft(stack.images(rows).double())
            ctf = stack.ctf.select(rows).on_grid(stack.n, stack.pixel_size_A, dtype=torch.float64)
            out.write(centred_ifft(transform * factor(ctf)).real)
    tables = starfile.read(stack.table.path, always_dict=True)
    tables["particles"] = tables["particles"].iloc[:count]
    tables["particles"]["rlnImageName"] = [f"{row + 1:06d}@particles.mrcs" for row in range(count)]
    if mark is not None:
        tables["optics"][mark] = 1
    starfile.write(tables, folder / "particles.star")


def solved(star: Path, truth: Path, seed: int) -> dict[str, float]:
    """Seconds of a run, and what its map has in common with the truth."""
    run = star.parent / "run"
    if not (run / "summary.json").exists():
        command = ["abinitio", str(star), "-o", str(run), "--seed", str(seed), "--json"]
        subprocess.run([*ORBITREC, *command], check=True, capture_output=True)
    seconds = json.loads((run / "summary.json").read_text())["seconds"]["total"]
    return {"seconds": seconds, **evaluated(run / "initial_model.mrc", truth)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("particles", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("-n", dest="count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    stack = ParticleStack.open(arguments.particles)
    title = f"{arguments.count} particles of {stack.n} px, {stack.pixel_size_A:g} Å per pixel, seed {arguments.seed}"
    table = Table("images", "FSC 0.5 Å", "FSC 0.143 Å", "correlation", "seconds", title=title)
    found = {}
    for form in FORMS:
        folder = arguments.output / form.replace(" ", "_")
        star = folder / "particles.star"
        if not star.exists():
            written(stack, arguments.count, form, folder)
        found[form] = solved(star, arguments.truth, arguments.seed)
        values = [f"{found[form][name]:.2f}" for name in ("fsc05_A", "fsc0143_A")]
        table.add_row(form, *values, f"{found[form]['correlation']:.3f}", f"{found[form]['seconds']:.0f}")
    Console().print(table)
    apart = max(abs(a["fsc05_A"] - b["fsc05_A"]) for a, b in combinations(found.values(), 2))
    print(f"largest difference at FSC 0.5: {apart:.2f} Å, of {AGREE_A} allowed")
    sys.exit(apart > AGREE_A)


if __name__ == "__main__":
    main()

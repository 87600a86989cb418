"""Classes of sets whose truth is known: does every class show one view, and is junk told from particles?

Each set is a folder with `particles.star`, `truth.star` (the poses) and `class.npy` (−1: no particle). `orbitrec
classify2d` sorts it, and printed are: the mean angle between the view of a particle and that of its class, over all
particles, where views that the molecule's symmetry makes the same are the same; the share of junk that is dropped, of
particles that are lost, and the seconds of the processor. Sets that have been sorted before are not sorted again.

    python benchmarks/classes.py SETS/betagal_D2-clean:D2 SETS/pol2_C1-dirty -k 50 -o WORK > docs/results/classes.txt

A set's symmetry follows its name after a colon; without, it has none.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from orbitrec.geometry.point_groups import PointGroup
from orbitrec.io.star import read_star


def views(folder: Path) -> np.ndarray:
    """Viewing directions of a set, unit vectors (N, 3)."""
    table = read_star(folder / "truth.star")["particles"]
    rot, tilt = np.radians(table["rlnAngleRot"]), np.radians(table["rlnAngleTilt"])
    return np.stack([np.cos(rot) * np.sin(tilt), np.sin(rot) * np.sin(tilt), np.cos(tilt)], axis=1)


def angle_to_class(directions: np.ndarray, group: PointGroup) -> np.ndarray:
    """Angle in degrees of each member of a class to its central member's view, symmetry's copies being the same."""
    copies = np.einsum("gij,nj->gni", group.matrices().numpy(), directions)
    candidates = np.linspace(0, len(directions) - 1, min(100, len(directions))).astype(int)
    cosines = np.einsum("gni,ci->gcn", copies, directions[candidates]).max(0).clip(-1, 1)
    angles = np.degrees(np.arccos(cosines))
    return angles[angles.mean(1).argmin()]


def judged(folder: Path, run: Path, group: PointGroup) -> dict[str, float]:
    """What a run's classes are worth."""
    found, labels = pd.read_csv(run / "particle_classes.csv"), np.load(folder / "class.npy")
    directions, real = views(folder), labels >= 0
    members = real & (found["inlier_probability"] >= 0.5).to_numpy()
    classes = found["class"].to_numpy()
    angles = np.concatenate([
        angle_to_class(directions[members & (classes == number)], group)
        for number in np.unique(classes[members])
    ])  # fmt: skip
    kept = found["kept"].to_numpy() == 1
    summary = json.loads((run / "summary.json").read_text())
    resolutions = [each["resolution_A"] or np.inf for each in summary["classes"] if each["good"]]
    return {
        "angle": float(angles.mean()),
        "dropped": float((~kept[~real]).mean()) if (~real).any() else np.nan,
        "lost": float((~kept[real]).mean()),
        "good": float(len(resolutions)),
        "resolution": float(np.median(resolutions)) if resolutions else np.inf,
        "memory": summary["peak_memory_GiB"],
    }


def sorted_set(folder: Path, run: Path, classes: int) -> float:
    """Seconds of the processor that a run has taken, made now unless it was made before."""
    kept = run.with_suffix(".seconds")
    if not kept.exists():
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        command = [sys.executable, "-m", "orbitrec", "classify2d", str(folder / "particles.star"), "-k", str(classes)]
        subprocess.run([*command, "-o", str(run), "--resume"], check=True, capture_output=True)
        kept.write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before))
    return float(kept.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", help="folder, or folder:symmetry")
    parser.add_argument("-k", type=int, default=50, help="classes")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    table = Table(title=f"{arguments.k} classes")
    for column in ("set", "good classes", "angle °", "junk dropped %", "particles lost %", "median Å", "CPU s", "GiB"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for each in arguments.sets:
        name, _, symmetry = each.partition(":")
        folder, run = Path(name), arguments.output / Path(name).name
        seconds = sorted_set(folder, run, arguments.k)
        found = judged(folder, run, PointGroup.named(symmetry or "C1"))
        dropped = "–" if np.isnan(found["dropped"]) else f"{100 * found['dropped']:.1f}"
        table.add_row(
            folder.name, f"{found['good']:.0f}", f"{found['angle']:.1f}", dropped, f"{100 * found['lost']:.1f}",
            f"{found['resolution']:.1f}", f"{seconds:.0f}", f"{found['memory']:.2f}",
        )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

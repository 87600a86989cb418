"""Thousands of damaged files: does every command say one sentence, and leave nothing behind?

Files of every dialect are damaged (values, columns and lines exchanged, bytes changed, cut off, emptied), read, worked
with and written again; every file that a run reads is cut off at random places, those that it reads when it is resumed
too. Wrong is a traceback, another status than 0 or 2, more or less than one sentence, a file left behind, a table that
is written and misread, or a minute of processor time.

    python benchmarks/damaged_files.py --count 2000 --truncations 50
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import damage
from orbitrec.cryoem.config import FEWEST_PARTICLES

Counts = defaultdict[str, Counter[str]]


def mutated(folder: Path, count: int, seed: int, counts: Counts) -> list[str]:
    """What is wrong with the answers to ``count`` damaged files."""
    (folder / "whole").mkdir()
    good, scratch, complaints = damage.write_whole(folder / "whole"), folder / "tried", []
    scratch.mkdir()
    damage.finished_run(scratch)
    for case in damage.cases(good, count, seed):
        answers, wrong = damage.tried(case, good, scratch)
        refused = any(answer.code for answer in answers)
        counts[case.name].update(tried=1, refused=refused, read=not refused, wrong=bool(wrong))
        complaints += wrong
    return complaints


def cut_off(folder: Path, count: int, seed: int, counts: Counts) -> list[str]:
    """What is wrong with the answers of runs that read files cut off at ``count`` places each."""
    damage.write_whole(folder, FEWEST_PARTICLES)
    draw, complaints = random.Random(seed), []

    def tried(label: str, path: Path, command: list[str]) -> None:
        for _ in range(count):
            answer, wrong = damage.truncation_tried(path, command, folder, draw)
            counts[label].update(tried=1, refused=answer.code == 2, read=answer.code == 0, wrong=wrong is not None)
            complaints.extend([wrong] if wrong else [])
            if "--resume" not in command:
                shutil.rmtree(folder / "out", ignore_errors=True)

    for name, command in damage.read_files(folder).items():
        tried(f"{name}, cut off", folder / name.split()[0], command)
    for kind, more in (("abinitio", []), ("refine", ["--init", str(folder / "map.mrc")])):
        command = damage.run_command(folder, "p.star", *more)
        damage.interrupted(folder, command)
        for path in sorted((folder / "out" / "checkpoint").iterdir()):
            tried(f"{kind} --resume, {path.name} cut off", path, [*command, "--resume"])
        shutil.rmtree(folder / "out")
    return complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="damaged files, of all dialects together")
    parser.add_argument("--truncations", type=int, default=50, help="of each file that a run reads")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    counts: Counts = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second, damage.short_runs():
        complaints = mutated(Path(first), arguments.count, arguments.seed, counts)
        complaints += cut_off(Path(second), arguments.truncations, arguments.seed, counts)
    table = Table("file", "tried", "refused", "read", "wrong", title=f"Damaged files, seed {arguments.seed}")
    for name, found in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        table.add_row(name, *(str(found[column]) for column in ("tried", "refused", "read", "wrong")))
    Console(width=90).print(table)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()

"""One trial: particles made, `orbitrec abinitio` run on them with defaults, the map judged; all of it in one record."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orbitrec.errors import InputError
from orbitrec.io.files import write_json
from particles import STACK, known_poses, make_set, run_tool, truth_of
from plan import Trial

RECORD = "record.json"
STATISTICS, INLIER = "particle_statistics.csv", "inlier_probability"
"""File of a run with a row for every particle, and its column: of being a view. Older versions write no such file."""
WITNESSES = (
    "probability_right", "particle_log_likelihood", "correlation_beyond_search", "starts_agreement",
    "search_resolution_A", "scf_star",
)  # fmt: skip
"""What a run's summary says for its map or against it, beside the half-maps' resolution (confidence.py)."""
LIKELY = 0.5
"""Probability below which a particle had no part in the map: it is flagged."""
POLL_S = 0.2


@dataclass(frozen=True)
class Program:
    """The orbitrec that is tried: a checkout, the number of its threads, and how long a run may take."""

    checkout: Path
    threads: int
    limit_s: float

    def __post_init__(self) -> None:
        if not (self.checkout / "src" / "orbitrec").is_dir():
            raise InputError(f"{self.checkout} is no checkout of orbitrec: it has no folder src/orbitrec")

    @property
    def commit(self) -> str:
        """Of the checkout; `-dirty` where files differ from it."""
        asked = ["git", "-C", str(self.checkout), "describe", "--always", "--dirty", "--exclude", "*"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        return found.stdout.strip() or "unknown"

    def run(self, folder: Path, seed: int) -> dict[str, Any]:
        """`abinitio` on the set in ``folder``: what it cost, and the reason if it left no map."""
        command = [sys.executable, "-m", "orbitrec", "abinitio", "set/particles.star", "-o", "run", "--seed", str(seed)]
        threads = {"OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": str(self.checkout / "src")}
        commit, begun = self.commit, time.monotonic()
        with (folder / "said.txt").open("wb") as said:
            process = subprocess.Popen(command, cwd=folder, env=os.environ | threads, stdout=said, stderr=said)
            status, usage, late = self._waited(process, begun)
        seconds = time.monotonic() - begun
        cost = {"seconds": seconds, "processor_s": usage.ru_utime + usage.ru_stime, "peak_GiB": usage.ru_maxrss / 2**20}
        reason = f"stopped after {self.limit_s / 3600:g} hours" if late else _reason(status, folder)
        return {"commit": commit, "threads": self.threads, **cost, "reason": reason}

    def _waited(self, process: subprocess.Popen, begun: float) -> tuple[int, Any, bool]:
        """Exit status, what the process used, and whether it was stopped for taking too long."""
        late = False
        try:
            while True:
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
                if ended:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    return process.returncode, usage, late
                if not late and time.monotonic() - begun > self.limit_s:
                    late = True
                    process.kill()
                time.sleep(POLL_S)
        finally:
            if process.returncode is None:  # the benchmark is stopped, and no run goes on without it
                process.kill()
                process.wait()


def _reason(status: int, folder: Path) -> str | None:
    """Why a run that ended left nothing to judge; None if it left a map."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    if status > 0:
        said = (folder / "said.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"exit status {status}: {said[-1] if said else 'nothing was said'}"
    return None if (folder / "run" / "initial_model.mrc").exists() else "no map was written"


def recorded(trial: Trial, output: Path) -> dict[str, Any] | None:
    """The record of a finished trial; None if it is still to be run.

    Raises:
        InputError: if it was run on other particles than the panel describes now.
    """
    file = output / trial.name / RECORD
    if not file.exists():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    if record["settings"] != trial.condition.settings():
        raise InputError(f"{file} is of other settings of {trial.condition.name}; choose another folder or remove it")
    return record


def run_trial(trial: Trial, program: Program, output: Path, shared: Path, keep: bool) -> dict[str, Any]:
    """Run a trial from its beginning and write its record last, so that a trial without one is run again.

    Args:
        trial: what is to be run.
        program: the orbitrec that is tried.
        output: gets a folder of the trial's name.
        shared: with data/ and tools/.
        keep: the stack is not removed in the end.

    Returns:
        The record.

    Raises:
        InputError: if the particles cannot be made or the map cannot be judged.
    """
    folder = output / trial.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    particles = folder / "set"
    make_set(trial, particles, shared)
    known = []
    for species in range(trial.condition.species):
        answer = judged(known_poses(particles, species), truth_of(particles, species), shared, "--nohand")
        if answer is None:
            raise InputError(f"the map from known poses in {particles} has no resolution")
        known.append(answer["fsc05_A"])
    record: dict[str, Any] = {
        "map": trial.map, "half": trial.half, "condition": trial.condition.name, "seed": trial.seed,
        "settings": trial.condition.settings(), "known_fsc05_A": known[0],
        **program.run(folder, trial.seed),
    }  # fmt: skip
    if record["reason"] is None:
        record |= _what_was_found(folder, known, shared)
    if not keep:
        (particles / STACK).unlink()
    write_json(folder / RECORD, record)
    return record


def _what_was_found(folder: Path, known: list[float], shared: Path) -> dict[str, Any]:
    """How the map agrees with the truth, of several species with the one that it agrees with best; what was said."""
    run, particles = folder / "run", folder / "set"
    answers = []
    for species, known_A in enumerate(known):
        found = judged(run / "initial_model.mrc", truth_of(particles, species), shared)
        if found is None:
            return {"reason": "its map is constant or not finite"}
        answers.append({**found, "known_fsc05_A": known_A})
    best = min(answers, key=lambda answer: answer["fsc05_A"] / answer["known_fsc05_A"])
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    told = {
        name: summary.get(name) for name in ("checks", "half_maps_fsc0143_A", "half_sets", "diameter_A", *WITNESSES)
    }
    told["checks"] = told["checks"] or summary.get("warnings", [])  # as version 0.1 called them
    return {**best, **told, **outliers(run / STATISTICS, np.load(particles / "class.npy"))}


def judged(map_file: Path, truth: Path, shared: Path, *options: str) -> dict[str, Any] | None:
    """FSC 0.5 and 0.143 with the truth in Å, hand and correlation; None for a map that has none.

    The judge's own answer, curve included, stays beside the truth.
    """
    command = ["tools/judge_map.py", str(map_file), str(truth), *options]
    answer = json.loads(run_tool(command, shared))
    write_json(truth.parent / f"{map_file.stem}-{truth.stem}.json", answer)
    curve = answer.pop("fsc")
    return answer if all(map(math.isfinite, [*curve, answer["cc"]])) else None


def outliers(statistics: Path, classes: np.ndarray) -> dict[str, int]:
    """How many particles are junk and how many good, and how many of each the run flags; nothing without statistics.

    Args:
        statistics: the run's, a row for every particle in the order of the set.
        classes: −1 for junk.
    """
    if not statistics.exists():
        return {}
    junk, flagged = classes < 0, pd.read_csv(statistics)[INLIER].to_numpy() < LIKELY
    counts = {"junk": junk, "junk_flagged": junk & flagged, "good": ~junk, "good_flagged": ~junk & flagged}
    return {name: int(mask.sum()) for name, mask in counts.items()}

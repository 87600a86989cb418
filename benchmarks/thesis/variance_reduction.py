"""Where variance reduction pays: passes and processor seconds to a gap of 1e-8 on windowed MRA, against N.

    OMP_NUM_THREADS=1 python benchmarks/thesis/variance_reduction.py [--counts 3000 30000 300000] [--only NAME …]

Observations are on disk and memory-mapped. The full-batch methods are L-BFGS, EM with SQUAREM and Fisher + BFGS; the
stochastic ones as in Tables 4.1 and 4.2, and with batches of 300 whatever N; "growing" is Fisher + BFGS on 3,000 terms,
then ten times as many, up to N. The density is estimated. The minimum is the lowest that Fisher + BFGS found to 1e-14.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch

from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.mra.model import draw_observations
from orbitrec.optim import solvers
from orbitrec.optim.growing import run_growing
from orbitrec.optim.termination import Termination
from orbitrec.thesis.baselines import Squarem
from orbitrec.thesis.optimiser_table import Method, scipy_lbfgs, stepping
from orbitrec.thesis.windowed_mra import MODEL, SIGMA, pulse, random_start, shift_density

GAP = 1e-8
MOST_PASSES = 300.0


def mapped_problem(folder: Path, count: int, seed: int) -> MRALikelihood:
    generator = torch.Generator().manual_seed(seed)
    path = folder / f"observations-{count}-{seed}.npy"
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(count, MODEL.length))
    start = 0
    for part in draw_observations(MODEL, pulse(), shift_density(), SIGMA, count, generator):
        stored[start : start + len(part)] = part.numpy()
        start += len(part)
    stored.flush()
    return MRALikelihood(MODEL, torch.from_numpy(np.load(path, mmap_mode="c")), SIGMA)


def methods(count: int) -> dict[str, Method]:
    small, inner = 300 / count, max(2, count // 300)
    return {
        "L-BFGS": scipy_lbfgs,
        "SQUAREM": stepping(Squarem()),
        "Fisher+BFGS": stepping(solvers.fisher_bfgs()),
        "SVRG, N/10": stepping(solvers.svrg()),
        "SVRG, 300": stepping(solvers.svrg(small, inner)),
        "sEM-vr, N/10": stepping(solvers.sem_vr()),
        "sEM-vr, 300": stepping(solvers.sem_vr(small, inner)),
        "SVRG+II": stepping(solvers.svrg_bfgs()),
        "sEM-vr+QN": stepping(solvers.sem_vr_bfgs()),
        "growing": lambda problem, w, stop, seed: run_growing(solvers.fisher_bfgs(), problem, w, stop, seed=seed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Passes and seconds to a gap of 1e-8 on windowed MRA, against N.")
    parser.add_argument("--counts", type=int, nargs="+", default=[3_000, 30_000, 300_000])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="methods to run")
    given = parser.parse_args()
    print(f"{'N':>8}  {'method':<14}{'passes':>8}{'seconds':>10}{'reached':>9}")
    for count in given.counts:
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, list[tuple[float, float, bool]]] = {}
            for seed in range(given.seeds):
                problem = mapped_problem(Path(folder), count, seed)
                start = random_start(problem, torch.Generator().manual_seed(1000 + seed))
                least = (
                    run_growing(solvers.fisher_bfgs(), problem, start, Termination(measured=MOST_PASSES))
                    .trace[-1]
                    .value
                )
                for name, method in methods(count).items():
                    if given.only and name not in given.only:
                        continue
                    stop = Termination(moved=0.0, value=least + GAP, measured=MOST_PASSES)
                    end = method(problem, start, stop, seed).trace[-1]
                    found.setdefault(name, []).append((end.cost.measured, end.cost.seconds, end.value <= least + GAP))
        for name, costs in found.items():
            passes, seconds = (median(column) for column in list(zip(*costs, strict=True))[:2])
            reached = f"{sum(cost[2] for cost in costs)}/{len(costs)}"
            print(f"{count:>8}  {name:<14}{passes:>8.1f}{seconds:>10.2f}{reached:>9}", flush=True)


if __name__ == "__main__":
    main()

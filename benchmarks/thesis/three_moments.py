"""Tables 2.2 and 2.3's volumes from three moments, seed by seed: resolution, views, losses, minutes and memory.

    OMP_NUM_THREADS=1 python benchmarks/thesis/three_moments.py emd_0409.mrc --seeds 10 -o three-moments

What is done is kept in the folder of -o, and the same command goes on from there. A seed is of the views, the moments'
noise and the starts. ``--oracle`` gives the prior the truth's own spectrum and radial profile. ``--from-truth`` also
descends from the truth in every band: the loss that starts should end at.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict
from pathlib import Path

import torch

from orbitrec.moments.information import projected
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.thesis.steps import Steps, TimedSteps
from orbitrec.thesis.table_2_2 import judged_solution
from orbitrec.thesis.two_moments import Matching, TrueVolume
from orbitrec.thesis.volume_matching.three_moments import ThreeMomentPlan, ThreeMomentSolution, three_moment_solution
from orbitrec.volumes.spherical_bessel import SphericalBesselVolume


def row(solution: ThreeMomentSolution, matching: Matching) -> dict[str, object]:
    """A solution beside the truth."""
    shown, _ = judged_solution(matching, solution)
    loss = solution.problem.loss(solution.candidate.x)._asdict()
    return {**asdict(shown), "loss": loss, "cumulants": solution.problem.cumulants.numbers}


def main() -> None:
    """Print a row for each seed, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path, help="EMD-0409 or EMD-25892 (MRC), its number in the name")
    parser.add_argument("-o", dest="output", type=Path, required=True, help="folder that keeps what is done")
    parser.add_argument("--bands", default="30,20,15,12", help="Å, coarse to fine")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--oracle", action="store_true", help="a prior of the truth's own kind")
    parser.add_argument("--from-truth", action="store_true", help="descend from the truth too")
    arguments = parser.parse_args()
    truth = TrueVolume.of_map(arguments.map)
    plan = ThreeMomentPlan(tuple(float(band) for band in arguments.bands.split(",")))
    arguments.output.mkdir(exist_ok=True)
    checkpoints = Checkpoints(arguments.output / "steps")
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        began = time.process_time()
        timed = TimedSteps(Steps(checkpoints=checkpoints))
        solution = three_moment_solution(truth, plan, seed, timed, oracle=arguments.oracle)
        matching = Matching(truth, plan.bands_A[-1], seed)
        found = {"seed": seed, **row(solution, matching), "seconds": timed.seconds}
        found["cpu_seconds_of_this_process"] = time.process_time() - began
        found["GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if arguments.from_truth:
            found["loss of the truth's descent"] = from_truth(truth, solution, matching)
        print(json.dumps(found), flush=True)


def from_truth(truth: TrueVolume, solution: ThreeMomentSolution, matching: Matching) -> float:
    """The loss at which the truth's own descent ends, in the solution's band."""
    problem = solution.problem
    basis = problem.shells.basis
    log_density = matching.views.log_density(problem.projector.directions)
    views = torch.linalg.lstsq(problem.harmonics.double(), log_density - log_density.mean()).solution
    x = problem.point(SphericalBesselVolume(basis, projected(basis, truth.compact)), views)
    loss = problem.loss(x).total
    while True:
        x = problem.descended(x, 1.0, 80)
        before, loss = loss, problem.loss(x).total
        if before - loss < 2e-3 * loss:
            return loss


if __name__ == "__main__":
    main()

"""One gradient and one EM pass of the problem of Table 4.3, on the polar grid and on the Cartesian one, in float64.

Polar is 100 directions × 12 angles in four circular modes; Cartesian one template of 15² frequencies for each of the
1,200 rotations, as (4.25) is printed, or of the half plane that a real image is known from. All call the same E-step.
Times are CPU times of one thread, medians of ``--repeats`` passes taken in turn, so that other work counts alike.

    OMP_NUM_THREADS=1 python benchmarks/cryoem_pass.py [--repeats 5]
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from orbitrec.optim.problem import em_map
from orbitrec.thesis.cryoem_problem import CryoEMProblem


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU time of one call in ms."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    problem = CryoEMProblem.simulated(0)
    w = problem.truth
    forms = {"polar": problem.polar(), "half plane": problem.cartesian(True), "printed": problem.cartesian()}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats + 1):
        for name, form in forms.items():
            times.setdefault((name, "gradient"), []).append(cpu_ms(lambda form=form: form.gradient(w)))
            times.setdefault((name, "em"), []).append(cpu_ms(lambda form=form: em_map(form, w)))
    found = {key: median(values[1:]) for key, values in times.items()}
    table = Table("form", "gradient, CPU ms", "÷ polar", "EM, CPU ms", "÷ polar", "F at the truth", "‖∇F‖")
    for name, form in forms.items():
        value, gradient = form.gradient(w)
        cells = [f"{found[name, kind] / found['polar', kind]:.1f}" for kind in ("gradient", "em")]
        table.add_row(
            name, f"{found[name, 'gradient']:.0f}", cells[0], f"{found[name, 'em']:.0f}", cells[1],
            f"{value:.5f}", f"{float(gradient.norm()):.4f}",
        )  # fmt: skip
    console = Console(width=110)
    console.print(f"{len(problem.images)} images, 1,200 rotations, {len(w)} unknowns, one thread")
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args().repeats)

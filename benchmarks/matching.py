"""The same matching problem on three grids: network evaluations, seconds per iteration, memory.

    OMP_NUM_THREADS=1 python benchmarks/matching.py [--box 15] [--width 128]

One step of Adam on loss (2.17) with a FourierNet and free views, 100 directions as in section 2.4.2: on the Cartesian
K₂ grid with 12 in-plane angles, as the thesis has it; on the polar grid, where in-plane angles are phases; and on
shells, whose harmonics give the circles of every direction. Each grid has a process of its own; memory is what its
largest size grows by. Seconds are of the processor.
"""

import argparse
import math
import multiprocessing
import resource
import time

import torch
from torch import nn

from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import design_circle_rule, spherical_design
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.losses import kam_loss
from orbitrec.thesis.volume_matching.grids import CartesianMomentGrid, MomentGrid, PolarMomentGrid, ShellMomentGrid
from orbitrec.thesis.volume_matching.neural import NeuralMatching, match_neural, recon_loss
from orbitrec.volumes.fourier_net import FourierNet
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

DESIGN, ANGLES = 13, 12
KINDS = ("shells", "polar", "cartesian")


def truth(box: int) -> GaussianMixture:
    """Atoms that fit the box and its Nyquist frequency."""
    generator = torch.Generator().manual_seed(1)
    centers = 0.1 * box * torch.randn(8, 3, generator=generator, dtype=torch.float64)
    return GaussianMixture(centers, torch.full((8,), 1.3, dtype=torch.float64), torch.ones(8, dtype=torch.float64))


def grid_of(kind: str, box: int) -> MomentGrid:
    if kind == "cartesian":
        return CartesianMomentGrid(box, design_circle_rule(DESIGN, ANGLES).reshape(-1, 3, 3))
    radius, directions = 0.36 * box, spherical_design(DESIGN)
    grid = PolarGrid.for_radius(box, math.pi, radius)
    if kind == "polar":
        return PolarMomentGrid(grid, directions)
    return ShellMomentGrid(PolarProjector(SphericalBesselBasis(radius, math.pi + math.pi / radius), grid, directions))


def peak_MiB() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(kind: str, box: int, width: int, iterations: int, answers: multiprocessing.SimpleQueue) -> None:
    torch.set_num_threads(1)
    generator, grid = torch.Generator().manual_seed(2), grid_of(kind, box)
    nodes = len(spherical_design(DESIGN)) * (ANGLES if kind == "cartesian" else 1)
    before = peak_MiB()
    target = grid.moments(truth(box).fourier(grid.points.float()), torch.zeros(nodes).softmax(0))
    volume = FourierNet(0.36 * box, generator, scale=8.0, width=width)
    logits = nn.Parameter(torch.zeros(nodes))
    problem = NeuralMatching(grid, recon_loss(target), volume, lambda: logits, [*volume.parameters(), logits])
    begin = time.process_time()
    match_neural(problem, [1e-4] * iterations)
    seconds = (time.process_time() - begin) / iterations
    # The same network, before its first step, has the same loss on either grid; afterwards nearly so.
    loss = float(kam_loss(target, problem.moments()))
    answers.put((len(grid.points), seconds, peak_MiB() - before, loss))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--box", type=int, default=15)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=1)
    arguments = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), {}
    for kind in KINDS:
        answers = context.SimpleQueue()
        work = (kind, arguments.box, arguments.width, arguments.iterations, answers)
        process = context.Process(target=measure, args=work)
        process.start()
        rows[kind] = answers.get()
        process.join()
    print(f"{arguments.box} px, FourierNet of width {arguments.width}, {DESIGN}-design, {ANGLES} angles")
    names = ("network evaluations", "CPU s per iteration", "memory, MiB", "Kam loss after it")
    print(" " * 24 + "".join(f"{kind:>24s}" for kind in KINDS))
    for name, *values in zip(names, *rows.values(), strict=True):
        print(f"  {name:22s}" + "".join(f"{value:14.4g} ({value / values[1]:6.2f}×)" for value in values))

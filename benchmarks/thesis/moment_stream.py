"""Moments drawn with the covariance of N particles, against those of N particles: the thesis's setting at 63 px.

Tables 2.2 and 2.3 draw moments of 5·10⁶ particles (`orbitrec.moments.noise`). Here a smaller number is
made for once: images at continuous poses with noise of σ = 0.5, streamed through the accumulator. Printed are relative
errors against the exact moments, of both kinds, over all modes and by groups of them.

    OMP_NUM_THREADS=1 python benchmarks/thesis/moment_stream.py emd_0409.mrc -n 100000
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.moments.analytic import Moments, uniform_moments
from orbitrec.moments.estimator import MomentAccumulator
from orbitrec.moments.noise import sampled_moments
from orbitrec.thesis.two_moments import SIGMA, Matching, TrueVolume
from orbitrec.volumes.voxel import VoxelVolume


def streamed(problem: Matching, count: int, generator: torch.Generator) -> Moments:
    """Moments of so many noisy images, one pass."""
    grid, volume = problem.grid, VoxelVolume(problem.truth.compact)
    poses = random_poses(count, generator, views=problem.views)
    simulation = ParticleSimulation(volume, grid.box, 1.0, *poses)
    total = MomentAccumulator.empty(grid)
    for rows in track(torch.arange(count).split(1000), description="images"):
        images = simulation.clean(rows)
        images += SIGMA * torch.randn(images.shape, generator=generator)
        total.update(grid.from_images(images / SIGMA), torch.ones(len(rows), grid.node_count))
    found = total.estimate(0.0)
    return Moments(found.first * SIGMA, found.second * SIGMA**2, found.weights)


def errors(found: Moments, exact: Moments, groups: list[slice]) -> list[float]:
    """Relative errors of the first moment and, for groups of modes, of the second; all relative to the whole."""
    apart = found - exact
    parts = [Moments(apart.first[group], apart.second[group], apart.weights[group]) for group in groups]
    seconds = [float(part.second_norm() / exact.second_norm()) for part in parts]
    return [float(parts[0].first_norm() / exact.first_norm()), *seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path, help="EMD-0409 or EMD-25892")
    parser.add_argument("-n", dest="count", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    truth = TrueVolume.of_map(arguments.map)
    problem = Matching(truth, 2 * truth.voxel_size_A)
    exact = uniform_moments(problem.true_templates, problem.true_density, problem.grid)
    groups = [slice(None), slice(0, 1), slice(1, 6), slice(6, 16), slice(16, None)]
    generator = torch.Generator().manual_seed(1)
    draw = {"sigma": SIGMA, "count": arguments.count, "generator": generator}
    drawn = torch.tensor([
        errors(sampled_moments(problem.true_templates, problem.true_density, problem.grid, **draw), exact, groups)
        for _ in range(arguments.draws)
    ])  # fmt: skip
    real = errors(streamed(problem, arguments.count, generator), exact, groups)
    table = Table(
        *("relative error", "M¹", "M²", "mode 0", "1 – 5", "6 – 15", "from 16"),
        title=f"{truth.name}, {len(truth.voxels)} px, moments to Nyquist, {arguments.count} particles",
    )
    table.add_row("a stream of particles", *(f"{value:.4f}" for value in real))
    table.add_row(f"drawn, mean of {arguments.draws}", *(f"{value:.4f}" for value in drawn.mean(0).tolist()))
    table.add_row("their deviation", *(f"{value:.4f}" for value in drawn.std(0).tolist()))
    Console().print(table)


if __name__ == "__main__":
    main()

"""What known poses would give: our least-squares map at the true poses, against the truth. The bound to approach.

python benchmarks/known_poses.py truth.star truth.mrc
"""

import argparse

import torch

from orbitrec.cryoem.config import AbInitioConfig
from orbitrec.cryoem.reconstruct import alternate_halves, combined, half_map
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.models.noise import estimate_noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("star", help="particles with their true poses")
    parser.add_argument("truth", help="true map (MRC)")
    arguments = parser.parse_args()
    stack = ParticleStack.open(arguments.star)
    poses = stack.poses()
    if poses is None:
        parser.error(f"{arguments.star} has no poses")
    noise = estimate_noise(stack.images(rows) for rows in torch.arange(min(len(stack), 2000)).split(500))
    halves = alternate_halves(len(stack))
    first, second = (half_map(stack, noise, (halves == half).nonzero().flatten(), *poses) for half in (1, 2))
    found = combined((first, second), stack.n, AbInitioConfig().radius_px(stack), torch.Generator().manual_seed(0))
    truth = read_map(arguments.truth, stack.pixel_size_A)[0].double()
    fsc = fourier_shell_correlation(((found.half_maps[0] + found.half_maps[1]) / 2).double(), truth)
    print(f"{len(stack)} particles at their true poses: FSC 0.5 at {fsc.cutoff_A(0.5, stack.pixel_size_A):.2f} Å")


if __name__ == "__main__":
    main()

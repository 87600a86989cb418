"""Accuracy and CPU time of ``align`` on real maps: random rotations, sub-pixel shifts, half of them mirrored.

The reference is the map moved by quintic splines in real space (scipy); noise goes to the moving map, or to both.

    OMP_NUM_THREADS=1 python benchmarks/alignment.py MAP.mrc ... [--cases 12] [--box 32]
"""

import argparse
import math
import time

import numpy as np
import torch
from scipy import ndimage

from orbitrec.evaluation.alignment import align
from orbitrec.geometry.rotations import geodesic_distance, random_rotations
from orbitrec.io.mrc import read_map
from orbitrec.volumes.voxel import VoxelVolume


def spline_moved(grid: np.ndarray, rotation: np.ndarray, shift_px: np.ndarray, mirrored: bool) -> np.ndarray:
    matrix = (np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0]) @ rotation.T)[::-1, ::-1]
    centre = grid.shape[0] // 2
    return ndimage.affine_transform(grid, matrix, offset=centre - matrix @ (centre + shift_px[::-1]), order=5)


def measure(grid: torch.Tensor, cases: int, snr_moving: float, snr_reference: float) -> str:
    generator = torch.Generator().manual_seed(1)
    rotations = random_rotations(cases, generator)
    shifts = 8 * torch.rand(cases, 3, generator=generator, dtype=torch.float64) - 4
    degrees, pixels, seconds, right = [], [], [], 0
    for case, (rotation, shift) in enumerate(zip(rotations, shifts, strict=True)):
        mirrored = case % 2 == 1
        reference = torch.from_numpy(spline_moved(grid.numpy(), rotation.numpy(), shift.numpy(), mirrored))
        moving, reference = (
            values + torch.randn(grid.shape, generator=generator) * grid.std() / math.sqrt(snr)
            for values, snr in ((grid, snr_moving), (reference, snr_reference))
        )
        start = time.process_time()
        found = align(moving, reference)
        seconds.append(time.process_time() - start)
        degrees.append(math.degrees(geodesic_distance(found.rotation, rotation)))
        pixels.append(float((found.shift_px - shift).norm()))
        right += found.mirrored is mirrored
    return (
        f"rotation error {np.median(degrees):6.3f}° (worst {max(degrees):6.3f}°)   shift {np.median(pixels):.3f} px "
        f"(worst {max(pixels):.3f})   hand {right}/{cases}   CPU {np.median(seconds):.2f} s (worst {max(seconds):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps", nargs="+")
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--box", type=int, help="resample the maps to this box first")
    arguments = parser.parse_args()
    for path in arguments.maps:
        grid, _ = read_map(path, voxel_size_A=1.0)
        if arguments.box:
            grid = VoxelVolume(grid).resampled(arguments.box).grid
        for snrs in ((math.inf, math.inf), (0.1, math.inf), (0.1, 0.1)):
            print(f"{path} {grid.shape[0]}³, SNR {snrs[0]:g} and {snrs[1]:g}: {measure(grid, arguments.cases, *snrs)}")


if __name__ == "__main__":
    main()

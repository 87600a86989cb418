"""Second moments at 64 px, polar blocks against the dense Cartesian matrix; and one pass over images on disk.

    OMP_NUM_THREADS=1 python benchmarks/moments.py [--images 20000]

Both forms see the same images in float32. "coordinates" is what turns pixels into them: one matrix product, or an FFT.
The polar grid resolves a particle of 0.45 box to Nyquist; its second moment is that of the dense matrix for uniform
in-plane angles.
"""

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.polar import PolarGrid
from orbitrec.models.base import Circle
from orbitrec.moments.analytic import full_moments, uniform_moments
from orbitrec.moments.estimator import MomentAccumulator

N = 64


def grid(k_max: float) -> PolarGrid:
    """Half the bandwidth and 8 nodes integrate products of two transforms to 1e-8."""
    bandwidth = 0.45 * N * k_max
    return PolarGrid(N, k_max, math.ceil(bandwidth / 2) + 8, math.ceil(bandwidth) + 8)


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def dense_against_polar(batch: int) -> None:
    images = torch.randn(batch, N, N, generator=torch.Generator().manual_seed(1))
    polar = grid(math.pi)
    modes = polar.from_images(images)
    total, ones = MomentAccumulator.empty(polar), torch.ones(batch, polar.node_count)
    pixels = centred_fft(images).flatten(1)
    dense = torch.zeros(N**2, N**2, dtype=torch.complex64)
    directions = 500
    templates, density = modes[:1].expand(directions, -1, -1).contiguous(), torch.full((directions,), 1 / directions)
    slices = torch.randn(batch, 1, N**2, dtype=torch.complex64)
    times = {
        "coordinates": (
            seconds(lambda: polar.from_images(images)) / batch,
            seconds(lambda: centred_fft(images)) / batch,
        ),
        "accumulation": (
            seconds(lambda: total.update(modes, ones)) / batch,
            seconds(lambda: dense.addmm_(pixels.mT, pixels.conj())) / batch,
        ),
        "analytic, per direction of 48 angles": (
            seconds(lambda: uniform_moments(templates, density, polar)) / directions,
            48
            * seconds(lambda: full_moments(slices, torch.ones(batch, 1) / batch, Circle(torch.tensor([0]), 1)))
            / batch,
        ),
    }
    times["coordinates + accumulation"] = tuple(map(sum, zip(times["coordinates"], times["accumulation"], strict=True)))
    kept, full = total.second.numel() * 8, N**4 * 16
    print(f"{polar.max_mode + 1} modes × {polar.node_count} nodes against {N}² frequencies, times per image")
    for name, (ours, theirs) in times.items():
        print(f"  {name:40s} polar {1e3 * ours:9.3f} ms   dense {1e3 * theirs:9.3f} ms   {theirs / ours:8.1f}×")
    print(f"  {'float64 sum':40s} polar {kept / 1e6:9.2f} MB   dense {full / 1e6:9.2f} MB   {full / kept:8.1f}×")


def one_pass(count: int, k_max: float, chunk: int = 512) -> None:
    polar = grid(k_max)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.f32"
        stack = np.memmap(path, np.float32, "w+", shape=(count, N, N))
        generator = np.random.default_rng(1)
        for start in range(0, count, chunk):
            stack[start : start + chunk] = generator.standard_normal(stack[start : start + chunk].shape, np.float32)
        stack.flush()
        ones = torch.ones(chunk, polar.node_count)
        polar.from_images(torch.zeros(1, N, N))  # its matrices are made once
        cost = dict.fromkeys(("disk", "coordinates", "accumulation"), 0.0)
        total, begin = MomentAccumulator.empty(polar), time.perf_counter()
        for start in range(0, count, chunk):
            times = [time.perf_counter()]
            images = torch.from_numpy(np.fromfile(path, np.float32, chunk * N * N, offset=start * N * N * 4))
            images = images.reshape(-1, N, N)
            times.append(time.perf_counter())
            modes = polar.from_images(images)
            times.append(time.perf_counter())
            total.update(modes, ones[: len(images)])
            times.append(time.perf_counter())
            for name, first, last in zip(cost, times, times[1:], strict=False):
                cost[name] += last - first
        wall = time.perf_counter() - begin
    product = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / seconds(lambda: product @ product)
    m, k = polar.max_mode + 1, polar.node_count
    quadrant = (N // 2 + 1) ** 2
    needed = (2 * quadrant * 2 * m * k + 4 * m * k * k) / peak
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{count} images, k_max {k_max:.2f}, {m} modes × {k} nodes: {count / wall:.0f} images/s, peak {memory:.2f} GiB"
    )
    print("  " + ", ".join(f"{name} {100 * t / wall:.0f} %" for name, t in cost.items()))
    print(f"  limit: the matrix products at this machine's {peak / 1e9:.0f} Gflop/s, {1 / needed:.0f} images/s: "
          f"{100 * needed * count / wall:.0f} % of it reached")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=256)
    arguments = parser.parse_args()
    # Peak memory is that of the passes: they come first.
    for k_max in (math.pi / 3, math.pi):
        one_pass(arguments.images, k_max)
    dense_against_polar(arguments.batch)

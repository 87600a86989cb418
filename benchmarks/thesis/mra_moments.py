"""Moments of a million MRA observations in one pass: seconds and peak memory.

python benchmarks/thesis/mra_moments.py [--count 1000000] [--length 41] [--double]
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from orbitrec.io.observations import ObservationFile
from orbitrec.moments.estimator import SignalMomentAccumulator


def write(path: Path, count: int, length: int, dtype: str) -> None:
    """White noise; moments cost the same for any values."""
    generator = np.random.default_rng(1)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": (count, length)})
        for start in range(0, count, 10_000):
            file.write(generator.standard_normal((min(10_000, count - start), length)).astype(dtype).tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=41)
    parser.add_argument("--double", action="store_true", help="observations in float64")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observations.npy"
        write(path, arguments.count, arguments.length, "<f8" if arguments.double else "<f4")
        began = time.perf_counter()
        sums = SignalMomentAccumulator.of(ObservationFile.open(path).batches())
        sigma = sums.sigma()
        sums.estimate(sigma)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{sums.count} × {arguments.length}, {'float64' if arguments.double else 'float32'}:", end=" ")
    print(f"{seconds:.2f} s, peak {peak:.0f} MB with all libraries loaded (σ estimated as {sigma:.4f})")


if __name__ == "__main__":
    main()

"""Compute the spherical designs that ship with orbitrec: ``python tools/make_designs.py``.

A spherical t-design is a set of points whose plain average integrates every polynomial of degree at most t over the
sphere. Antipodal sets (x and −x) integrate odd degrees by symmetry, so only the harmonics of even degree l ≤ t − 1 are
left: t(t+1)/2 − 1 equations in the 2M − 3 coordinates (less a rotation) of M pairs. Counting gives
M = ⌈(t² + t + 4)/4⌉, the numbers of R. S. Womersley, *Efficient spherical designs with good geometric properties*
(2018). With ⌊t/4⌋ pairs more, about one point in a hundred, Levenberg–Marquardt converges in tens of steps instead of
hundreds from a golden spiral, which starts near a well-separated design; the 13-design then has the thesis's 100 points
(2.4.2). A start that fails is repeated with seeded noise.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from scipy.linalg import solve
from scipy.special import sph_legendre_p_all

DEGREES = range(3, 64, 2)
# The octahedron and the icosahedron need fewer pairs than counting says.
PAIRS = {3: 3, 5: 6}
TOLERANCE = 1e-14
SHIPPED = Path(__file__).resolve().parents[1] / "src" / "orbitrec" / "geometry" / "designs.npz"


def spiral(pairs: int, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """One point of each antipodal pair: a golden spiral on the upper hemisphere, moved by ``jitter`` spacings."""
    i = np.arange(pairs)
    z = 1 - (i + 0.5) / pairs
    phi = i * np.pi * (3 - np.sqrt(5))
    rho = np.sqrt(1 - z**2)
    x = np.stack([rho * np.cos(phi), rho * np.sin(phi), z], axis=1)
    x += jitter * np.sqrt(2 * np.pi / pairs) * rng.standard_normal(x.shape)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def tangent_frame(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors e_θ and e_φ at each point."""
    theta, phi = angles(x)
    e_theta = np.stack([np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), -np.sin(theta)], axis=1)
    return e_theta, np.stack([-np.sin(phi), np.cos(phi), np.zeros_like(phi)], axis=1)


def angles(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Polar angle and azimuth."""
    return np.arctan2(np.hypot(x[:, 0], x[:, 1]), x[:, 2]), np.arctan2(x[:, 1], x[:, 0])


def moments(x: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every real Y_lm, l = 2, 4 … degree − 1, over the points, and its Jacobian in tangent steps.

    The harmonics have mean square one, so that the residual is a relative error. Returns (equations,) and
    (equations, 2 × points), e_θ steps first.
    """
    theta, phi = angles(x)
    top = degree - 1
    legendre, slope = sph_legendre_p_all(top, top, theta, diff_n=1) * np.sqrt(4 * np.pi)
    values, d_theta, d_phi = [], [], []
    for m in range(top + 1):
        even = slice(max(2, m + m % 2), None, 2)
        p, dp = legendre[even, m], slope[even, m]
        for wave, d_wave in _waves(m, phi):
            values.append(p * wave)
            d_theta.append(dp * wave)
            d_phi.append(p * d_wave / np.sin(theta))
    mean = np.concatenate(values).mean(axis=1)
    return mean, np.concatenate([np.concatenate(d_theta), np.concatenate(d_phi)], axis=1) / len(x)


def _waves(m: int, phi: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The real circular functions of order m with their derivatives."""
    if m == 0:
        return [(np.ones_like(phi), np.zeros_like(phi))]
    c, s = np.sqrt(2) * np.cos(m * phi), np.sqrt(2) * np.sin(m * phi)
    return [(c, -m * s), (s, m * c)]


def levenberg_marquardt(x: np.ndarray, degree: int, max_steps: int = 200) -> tuple[np.ndarray, float, int]:
    """Move the points until the residual max |mean Y_lm| is at rounding; returns points, residual and steps."""
    residual, jacobian = moments(x, degree)
    damping, steps = 1e-2, 0
    while np.abs(residual).max() > TOLERANCE / 10 and steps < max_steps:
        steps += 1
        # N JJᵀ is about l(l+1) on its diagonal, whatever the number of points; the damping falls with the residual.
        gram = jacobian @ jacobian.T * len(x)
        gram[np.diag_indices_from(gram)] += max(damping * min(1.0, np.linalg.norm(residual)), 1e-13)
        move = -len(x) * jacobian.T @ solve(gram, residual, assume_a="pos")
        e_theta, e_phi = tangent_frame(x)
        moved = x + move[: len(x), None] * e_theta + move[len(x) :, None] * e_phi
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        new_residual, new_jacobian = moments(moved, degree)
        if np.linalg.norm(new_residual) < np.linalg.norm(residual):
            x, residual, jacobian, damping = moved, new_residual, new_jacobian, damping / 5
        elif np.abs(residual).max() < TOLERANCE:
            break  # at rounding: no step can improve it
        else:
            damping *= 8
    return x, float(np.abs(residual).max()), steps


def design(degree: int, seed: int, attempts: int = 20) -> np.ndarray:
    """One point of each pair of an antipodal design, from the first start that converges."""
    pairs = PAIRS.get(degree, -(-(degree**2 + degree + 4) // 4) + degree // 4)
    for attempt in range(attempts):
        begin = time.perf_counter()
        rng = np.random.default_rng([seed, degree, attempt])
        x, residual, steps = levenberg_marquardt(spiral(pairs, 0.02 * attempt, rng), degree)
        print(
            f"{degree:6d} {2 * pairs:6d} {attempt:7d} {steps:5d} {residual:10.1e} {separation(x):10.3f}"
            f" {time.perf_counter() - begin:8.1f}",
            flush=True,
        )
        if residual < TOLERANCE:
            return x
    raise RuntimeError(f"no start gave a design of degree {degree} with {2 * pairs} points; try another --seed")


def separation(x: np.ndarray) -> float:
    """Smallest distance between points of the antipodal set, in units of √(4π/N)."""
    cosine = np.abs(x @ x.T) - 2 * np.eye(len(x))
    return float(np.arccos(min(1.0, cosine.max())) / np.sqrt(2 * np.pi / len(x)))


def main() -> None:
    """Compute every design, print how well each one holds, write the file whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=SHIPPED)
    parser.add_argument("--max-degree", type=int, default=max(DEGREES))
    options = parser.parse_args()
    print("degree points attempt steps   residual separation  seconds")
    designs = {str(t): design(t, options.seed) for t in DEGREES if t <= options.max_degree}
    partial = options.output.with_suffix(".partial.npz")
    np.savez(partial, allow_pickle=False, **designs)
    os.replace(partial, options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

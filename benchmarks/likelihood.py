"""Scores and posterior of one problem in polar and in Cartesian form: same directions × angles, threads, float32.

Polar is ``scores`` and ``posterior`` on circular modes. Cartesian has one template of n² frequencies for each rotation:

* one mode: the same ``scores``, on a circle of one mode and one angle: real rows of the frequencies templates reach
* complex plane: one complex matrix product, the Cartesian form as it is printed (2.8), (4.22)
* real plane: the same with (Re, Im) as one real row, which is half of the arithmetic
* half plane: only the frequencies that a real image has
* half disc: of those only the ones below the polar grid's k_max, the least that a Cartesian form can do

Templates of all rotations take gigabytes, so Cartesian scores are timed on every ``--stride``-th direction and scaled
up: they are linear in their number. The posterior, and all of polar, are timed in full. Times are CPU times, so that
other work on the machine counts less. The last column is the largest difference of a polar score from the half plane's,
scores being logarithms of probabilities: the rounding of float32, the quadrature, and what lies above k_max.

    OMP_NUM_THREADS=1 python benchmarks/likelihood.py [--box 64] [--degree 31] [--angles 48] [--images 256]
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.grids import frequency_vectors, pixels, radial_frequencies, vectors
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import direction_frames, in_plane
from orbitrec.inference.likelihood import Observations, posterior, scores
from orbitrec.inference.template_bank import Fold, TemplateBank
from orbitrec.models.base import Circle, reached
from orbitrec.models.cryoem import polar_circle, polar_templates
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.phantoms import protein_phantom


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time in ms after one call that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * sorted(times)[repeats // 2]


@dataclass(frozen=True)
class Problem:
    """A phantom within 0.3 n, noisy images of it at SNR about 0.1, a uniform prior, and the rotations to be scored."""

    volume: GaussianMixture
    images: Tensor
    directions: Tensor
    angles: int
    repeats: int

    @classmethod
    def random(cls, arguments: argparse.Namespace) -> "Problem":
        n, generator = arguments.box, torch.Generator().manual_seed(1)
        phantom = protein_phantom(100, 0.3 * n, generator)
        simulation = ParticleSimulation(phantom, n, 1.0, *random_poses(arguments.images, generator))
        gain = math.sqrt(0.1 / simulation.signal_variance())
        images = gain * simulation.clean(torch.arange(arguments.images))
        images += torch.randn(images.shape, generator=generator)
        widths = phantom.widths if arguments.width is None else torch.full_like(phantom.widths, arguments.width)
        volume = GaussianMixture(phantom.centers, widths, gain * phantom.weights)
        return cls(volume, images, spherical_design(arguments.degree), arguments.angles, arguments.repeats)

    @property
    def log_prior(self) -> float:
        return -math.log(len(self.directions) * self.angles)

    def polar(self, grid: PolarGrid) -> tuple[float, Tensor]:
        """CPU ms an image, and the scores (b, d, a)."""
        power = self.images.new_ones(len(self.images), grid.node_count)
        observed = Observations(grid.from_images(self.images)[:, None], power, self.images.new_zeros(1))
        templates = polar_templates(self.volume, grid, self.directions.float())
        density = torch.full((len(self.directions), self.angles), self.log_prior)
        circle = polar_circle(grid, self.angles)
        fold = Fold.of(circle, reached(templates.abs().square().mean(0)), templates.real.dtype)
        bank = TemplateBank(templates, density, circle, fold)
        ms = cpu_ms(lambda: posterior(scores(observed, bank)), self.repeats)
        return ms / len(self.images), scores(observed, bank)[:, 0]


class Cartesian:
    """The matrix product with templates of every ``stride``-th direction at all angles."""

    def __init__(self, problem: Problem, stride: int) -> None:
        self.problem, n = problem, problem.images.shape[-1]
        self.directions = problem.directions[::stride]
        in_plane_angles = Circle(torch.zeros(1, dtype=torch.long), problem.angles).in_plane_angles
        rotations = (direction_frames(self.directions)[:, None] @ in_plane(-in_plane_angles)).flatten(0, 1)
        points = torch.einsum("qij,pj->qpi", rotations.float()[..., :2], frequency_vectors(n).reshape(-1, 2).float())
        self.templates = problem.volume.fourier(points) / n
        self.images = centred_fft(problem.images).flatten(1)
        index = pixels(n)
        kx, ky = vectors(index).unbind(-1)
        # One of each pair ±k; the Nyquist lines of an even box, where nothing is left of the phantom, have no partner.
        inside = (index.abs() < n / 2)[:, None] & (index.abs() < n / 2)
        self.half = (inside & ((ky > 0) | ((ky == 0) & (kx >= 0)))).flatten()
        self.k = radial_frequencies(n).flatten()

    def one_mode(self) -> float:
        """CPU ms an image of this library's scores and posterior."""
        power = self.problem.images.new_ones(self.images.shape)
        observed = Observations(self.images[:, None, None], power, power.new_zeros(1))
        density = torch.full((len(self.templates), 1), self.problem.log_prior)
        bank = TemplateBank(self.templates[:, None], density, Circle(torch.zeros(1, dtype=torch.long), 1))
        return self._with_posterior(lambda: scores(observed, bank))

    def complex_plane(self) -> float:
        """CPU ms an image of scores and posterior in complex arithmetic."""
        columns, constant = self.templates.mH.resolve_conj().contiguous(), self._constant(self.templates)
        return self._with_posterior(lambda: (self.images @ columns).real + constant)

    def real_rows(self, kept: Tensor | None) -> tuple[float, Tensor]:
        """CPU ms an image, and scores (b, d, a), by real products over all or the ``kept`` half of the frequencies."""
        images, templates = self.images, self.templates
        if kept is not None:
            weight = torch.where(self.k == 0, 1.0, math.sqrt(2)).float()[kept]
            images, templates = images[:, kept] * weight, templates[:, kept] * weight
        constant = self._constant(templates)
        rows, columns = (torch.view_as_real(x).flatten(1).contiguous() for x in (images, templates))
        ms = self._with_posterior(lambda: torch.addmm(constant, rows, columns.T))
        score = torch.addmm(constant, rows, columns.T)
        return ms, score.reshape(len(images), len(self.directions), -1)

    def _constant(self, templates: Tensor) -> Tensor:
        return self.problem.log_prior - templates.abs().square().sum(1) / 2

    def _with_posterior(self, product: Callable[[], Tensor]) -> float:
        problem = self.problem
        every = torch.randn(len(problem.images), len(problem.directions) * problem.angles)
        scale = len(problem.directions) / len(self.directions)
        product_ms = scale * cpu_ms(product, problem.repeats)
        return (product_ms + cpu_ms(lambda: posterior(every), problem.repeats)) / len(problem.images)


def main(arguments: argparse.Namespace) -> None:
    problem = Problem.random(arguments)
    cartesian = Cartesian(problem, arguments.stride)
    half, expected = cartesian.real_rows(cartesian.half)
    planes = {
        "one mode": cartesian.one_mode(),
        "complex plane": cartesian.complex_plane(),
        "real plane": cartesian.real_rows(None)[0],
        "half plane": half,
    }
    title = (
        f"{arguments.box} px, {len(problem.directions)} directions × {problem.angles} angles, "
        f"{len(problem.images)} images at a time, {torch.get_num_threads()} thread(s)"
    )
    console = Console(width=120)
    console.print(f"{title}\nCartesian, CPU ms an image: {', '.join(f'{k} {ms:.2f}' for k, ms in planes.items())}")
    table = Table("polar k_max", "modes × nodes", "ms", *(f"{name} ÷" for name in (*planes, "half disc")), "difference")
    for fraction in (1.0, 0.75, 0.5):
        grid = PolarGrid.for_radius(arguments.box, fraction * math.pi, 0.3 * arguments.box)
        polar, found = problem.polar(grid)
        disc, _ = cartesian.real_rows(cartesian.half & (cartesian.k <= grid.k_max))
        difference = float((found[:, :: arguments.stride] - expected).abs().max())
        ratios = [f"{ms / polar:.1f}" for ms in (*planes.values(), disc)]
        size = f"{grid.max_mode + 1} × {grid.node_count}"
        table.add_row(f"{fraction:g} π", size, f"{polar:.3f}", *ratios, f"{difference:.0e}")
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--degree", type=int, default=31, help="of the spherical design: 31 has about 500 directions")
    parser.add_argument("--angles", type=int, default=48)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--width", type=float, help="of the templates' atoms in pixels; 0.7 reaches Nyquist [1.6]")
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    main(parser.parse_args())

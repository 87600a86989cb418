"""Where should the search begin? Random volumes, moment matching and MoM-net, on one stack.

Every start makes the EM steps of `orbitrec abinitio`, at the first bandwidth and then, all of them, at the second.
Printed: the held-out log-likelihood (comparable down a column) and the resolution at FSC 0.5 against the truth at both.

    python benchmarks/starts.py particles.star truth.mrc [--starts 4] [--seed 1] [--only NAME]
"""

import argparse
import math
import time
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table

from orbitrec.cryoem.centring import CENTRING_BANDWIDTHS, centre_from_coarse_to_fine
from orbitrec.cryoem.config import AbInitioConfig
from orbitrec.cryoem.preprocess import ParticleModes, preprocess
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.likelihood import centred_likelihood
from orbitrec.cryoem.search.multi_start import OnlinePhase, held_out_likelihood
from orbitrec.cryoem.search.starts import moment_starts, momnet_start
from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.optim.driver import continued
from orbitrec.optim.online import OnlineEM


class Race:
    """One stack, preprocessed and centred, and the steps that every start makes."""

    def __init__(self, star: str, truth: str, seed: int) -> None:
        self.stack = ParticleStack.open(star)
        self.truth = read_map(truth, self.stack.pixel_size_A)[0].double()
        self.generator = torch.Generator().manual_seed(seed)
        config = AbInitioConfig()
        self.schedule, self.radius = config.schedule, config.radius_px(self.stack)
        self.data: ParticleModes = preprocess(self.stack, self.schedule.select_bandwidth / self.radius, self.radius + 3)
        k_centre = [bandwidth / self.radius for bandwidth in CENTRING_BANDWIDTHS]
        self.centres = centre_from_coarse_to_fine(self.data, k_centre, prior_px=0.05 * self.stack.n).centres
        order = torch.randperm(len(self.data), generator=self.generator)
        self.held, self.pool = order.tensor_split([self.schedule.held_out_of(len(order))])
        self.low = ResolutionLevel.at(self.data.grid, self.radius, self.schedule.start_bandwidth)
        self.high = ResolutionLevel.at(self.data.grid, self.radius, self.schedule.select_bandwidth)

    def random(self, energy: float, count: int) -> Iterator[tuple[float, VolumeAndViews]]:
        """Random volumes whose templates carry ``energy``."""
        power = self.data.ctf2_over_noise(self.pool).mean(0)
        for _ in range(count):
            yield 0.0, self.low.random_model(self.generator, power, energy)

    def matched(self, count: int) -> Iterator[tuple[float, VolumeAndViews]]:
        """Solutions of moment matching, best loss first."""
        begun = time.monotonic()
        found = moment_starts(self.stack, torch.arange(len(self.stack)), self.low, count, self.generator)
        seconds = (time.monotonic() - begun) / count
        for start in found:
            yield seconds, start.model

    def momnet(self, count: int) -> Iterator[tuple[float, VolumeAndViews]]:
        """MoM-net's one answer, as often as there are others, on other batches."""
        begun = time.monotonic()
        start = momnet_start(self.stack, torch.arange(len(self.stack)), self.low)
        seconds = time.monotonic() - begun
        for _ in range(count):
            yield seconds, start.model

    def run(self, model: VolumeAndViews) -> tuple[float, float, float, float]:
        """Held-out likelihood and resolution at both bandwidths."""
        s = self.schedule
        first = OnlinePhase(s.start_batch, s.start_steps, 0.95), OnlinePhase(s.settle_batch, s.settle_steps, 0.8)
        for phase in first:
            model = self.improved(self.low, model, phase)
        judged, second = self.judged(self.low, model), OnlinePhase(s.select_batch, s.select_steps, 0.9)
        model = self.improved(self.high, self.low.prolongated(model, self.high), second)
        return *judged, *self.judged(self.high, model)

    def improved(self, level: ResolutionLevel, model: VolumeAndViews, phase: OnlinePhase) -> VolumeAndViews:
        """The model after the steps of a phase."""
        problem = centred_likelihood(self.data, level, self.centres, self.pool)
        solver = OnlineEM(min(phase.batch, len(self.pool)), phase.kept, passes=False)
        begun = solver.init(problem, level.unknowns(model))
        return level.model(continued(solver, problem, begun, self.generator, phase.steps).w)

    def judged(self, level: ResolutionLevel, model: VolumeAndViews) -> tuple[float, float]:
        """Held-out likelihood, and FSC 0.5 against the truth in Å."""
        likelihood = held_out_likelihood(self.data, level, model, self.centres, self.held)
        volume = level.volume(model).to_grid(self.stack.n)
        aligned = align(volume, self.truth).apply(volume)
        fsc = fourier_shell_correlation(aligned, self.truth)
        # The band limit of the level ends the curve; the shell at the origin's neighbour carries the solvent's offset.
        return likelihood, fsc.cutoff_A(0.5, self.stack.pixel_size_A)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("star")
    parser.add_argument("truth")
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    arguments = parser.parse_args()
    race = Race(arguments.star, arguments.truth, arguments.seed)
    at = [2 * math.pi * race.radius * race.stack.pixel_size_A / level.bandwidth for level in (race.low, race.high)]
    table = Table(title=f"{arguments.star}: {len(race.data)} particles")
    columns = (
        "start",
        "s to make",
        "s of EM",
        *(f"{name} at {limit:.0f} Å" for limit in at for name in ("ℓ", "FSC 0.5 Å")),
    )
    for column in columns:
        table.add_column(column)
    kinds = {
        "random, energy 0.5 (default)": 0.5,
        "random, energy 20": 20.0,
        "random, energy 150 (as the data)": 150.0,
    }
    made = {name: race.random(energy, arguments.starts) for name, energy in kinds.items()}
    made["moment matching"] = race.matched(arguments.starts)
    made["MoM-net"] = race.momnet(arguments.starts)
    made = {name: models for name, models in made.items() if not arguments.only or arguments.only in name}
    for name, models in made.items():
        for made_in, model in models:
            start = time.monotonic()
            result = race.run(model)
            table.add_row(name, f"{made_in:.1f}", f"{time.monotonic() - start:.1f}", *(f"{x:.2f}" for x in result))
    Console().print(table)


if __name__ == "__main__":
    main()

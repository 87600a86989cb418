"""Figure 3.7: the Kam loss (3.13) against iterations of the reconstruction phase, encoder trained and untrained.

EMD-0409, centred and masked, without shifts; exact moments on MoM-net's grid. As the thesis does, Adam varies the
weights θ of the encoder, from the pretrained ones and from those that training began with. Beside them L-BFGS varies
volume, views and shifts themselves, from what either encoder finds.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from orbitrec.geometry.quadrature import spherical_design
from orbitrec.io.files import write_csv
from orbitrec.io.runs import RunFolder
from orbitrec.networks.molecules import ViewLaw
from orbitrec.networks.momnet import MomNet, MomNetEstimate
from orbitrec.networks.pretrained import load_momnet
from orbitrec.thesis.momnet_matching import MomNetMatching
from orbitrec.thesis.plots.curves import Curve, draw_matching
from orbitrec.thesis.records import ExperimentResult, TextTable
from orbitrec.thesis.table_3_1 import aligned, compact_map, exact_moments, pretrained_training, reconstruction, slices
from orbitrec.volumes.voxel import VoxelVolume

_LOSS = "Kam loss (3.13)"
_PIECE = 50  # iterations of L-BFGS between two points of its curve; it starts anew at each


@dataclass(frozen=True)
class MatchingRun:
    """One way of matching: Kam losses at ``iterations`` and processor ``seconds``, and FSC 0.5 in Å at the end."""

    name: str
    iterations: list[int]
    seconds: list[float]
    losses: list[float]
    fsc05_A: float


@dataclass(frozen=True)
class MatchingCurves(ExperimentResult):
    """Figure 3.7.

    Attributes:
        runs: trained and untrained, over the weights and then over the volume.
    """

    runs: tuple[MatchingRun, ...]

    def tables(self) -> list[TextTable]:
        """Start and end of every run, and when the trained one is where the untrained one ends."""
        headings = ("run", "start", "10 %", "end", "iterations to the untrained end", "seconds", "FSC 0.5 Å")
        pairs = zip(self.runs[::2], self.runs[1::2], strict=True)
        rows = [_cells(run, untrained.losses[-1]) for trained, untrained in pairs for run in (trained, untrained)]
        return [TextTable.of("Figure 3.7: Kam loss of the reconstruction phase", headings, rows)]


def _cells(run: MatchingRun, goal: float) -> tuple[str, ...]:
    reached = [i for i, loss in zip(run.iterations, run.losses, strict=True) if loss <= goal]
    losses = f"{run.losses[0]:.4f}", f"{run.losses[len(run.losses) // 10]:.4f}", f"{run.losses[-1]:.5f}"
    when = str(reached[0]) if reached else "not"
    return (run.name, *losses, when, f"{run.seconds[-1]:.0f}", f"{run.fsc05_A:.1f}")


def runs(path: Path, iterations: int, callback: Callable[[], None] = lambda: None) -> MatchingCurves:
    """Four runs.

    Args:
        path: the true map.
        iterations: of each run.
        callback: called after each run.

    Returns:
        The curves.

    Raises:
        InputError: if the map cannot be read.
    """
    trained = load_momnet()
    untrained = pretrained_training().untrained()
    truth, voxel_A = compact_map(path)
    setting = trained.setting
    views = ViewLaw().draw(1, torch.Generator().manual_seed(1))[0]
    directions = spherical_design(35)
    target = exact_moments(setting, slices(setting, VoxelVolume(truth), len(truth)), views.density(directions), 0.0)
    matching, found = reconstruction(setting, target), []
    ways = {"θ of the encoder": _over_weights, "volume itself": _over_volume}
    for way, run in ways.items():
        for kind, net in {"trained": trained, "untrained": untrained}.items():
            curve, estimate = run(matching, net, iterations)
            found.append(MatchingRun(f"{way}, {kind}", *curve, aligned(setting, estimate, truth, voxel_A).fsc05_A))
            callback()
    return MatchingCurves("figure-3.7", tuple(found))


_Points = tuple[list[int], list[float], list[float]]


def _over_weights(matching: MomNetMatching, net: MomNet, iterations: int) -> tuple[_Points, MomNetEstimate]:
    points: _Points = ([], [], [])

    def record(iteration: int, loss: float, seconds: float) -> None:
        if iteration % 10 == 0:
            _add(points, iteration, seconds, loss)

    return points, matching.encoded(net, iterations, record).double()


def _over_volume(matching: MomNetMatching, net: MomNet, iterations: int) -> tuple[_Points, MomNetEstimate]:
    points: _Points = ([], [], [])
    with torch.no_grad():
        estimate = net(matching.target).double()
    begun = time.process_time()
    for step in range(0, iterations + 1, _PIECE):
        _add(points, step, time.process_time() - begun, float(matching.loss(estimate).detach()))
        if step < iterations:
            estimate = matching.matched(estimate, _PIECE)
    return points, estimate


def _add(points: _Points, iteration: int, seconds: float, loss: float) -> None:
    points[0].append(iteration)
    points[1].append(seconds)
    points[2].append(loss)


def draw(run: RunFolder, found: MatchingCurves) -> None:
    """figure.png and curves.csv."""
    rows = [
        {"run": one.name, "iteration": i, "seconds": s, "kam_loss": loss}
        for one in found.runs
        for i, s, loss in zip(one.iterations, one.seconds, one.losses, strict=True)
    ]
    write_csv(run.file("curves.csv"), rows)
    curves = [
        Curve(one.name, one.iterations, one.seconds, {_LOSS: one.losses}, dashed="untrained" in one.name)
        for one in found.runs
    ]
    draw_matching(run.file("figure.png"), curves, "EMD-0409, no shifts: reconstruction by MoM-net")

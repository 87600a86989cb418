"""The probability that a map is right: fitted to runs on the panel's tuning half, tested on the other.

    python benchmarks/panel --panel benchmarks/panel/starved.toml -o RUNS
    python benchmarks/panel/confidence.py RUNS/panel.json --calibration src/orbitrec/cryoem/calibration.json \\
        --json docs/results/confidence.json --chart docs/images/confidence.png

Runs that left no map, or cannot tell (one start; T, O or I), have no part. Weights are those of the most probable
logistic regression under a half-normal prior on the standardised terms, of variance 1/:data:`RIDGE`.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize

from orbitrec.cryoem.confidence import SURE, Calibration, Witnesses
from orbitrec.errors import InputError
from orbitrec.io.files import write_json
from plan import Half
from rates import interval, within

RIDGE = 3.0
BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Edges of the probabilities that are put together in the reliability curve."""
Record = Mapping[str, Any]


def witnesses_of(record: Record) -> Witnesses | None:
    """What a run said of its map; None where it could not."""
    if record["reason"] is not None or record.get("particle_log_likelihood") is None:
        return None
    half_A = record["half_maps_fsc0143_A"] or 1e9  # null where the half-maps have nothing in common
    return Witnesses(
        log_likelihood=record["particle_log_likelihood"],
        beyond=record["correlation_beyond_search"],
        resolved=math.log(record["search_resolution_A"] / half_A),
        starts=record["starts_agreement"],
        scf_star=record["scf_star"],
    )


def fitted(witnesses: Sequence[Witnesses], right: Sequence[bool]) -> Calibration:
    """The regression that explains best which runs were right.

    Args:
        witnesses: of each run.
        right: whether its map is right.

    Returns:
        Intercept and weights of the terms as they are, not standardised.
    """
    names = list(witnesses[0].terms())
    terms = np.array([[each.terms()[name] for name in names] for each in witnesses])
    mean, scale = terms.mean(0), terms.std(0) + 1e-9
    sign = np.where(np.asarray(right), 1.0, -1.0)

    def loss(w: np.ndarray) -> float:
        odds = w[0] + (terms - mean) / scale @ w[1:]
        return float(np.logaddexp(0, -sign * odds).sum() + RIDGE / 2 * (w[1:] @ w[1:]))

    # Nothing that speaks for a map may count against it, however few the runs.
    bounds = [(None, None), *[(0, None)] * len(names)]
    found = minimize(loss, np.zeros(len(names) + 1), method="L-BFGS-B", bounds=bounds).x
    weights = found[1:] / scale
    rounded = {name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True)}
    return Calibration(round(float(found[0] - weights @ mean), 4), rounded, len(terms))


def tested(probability: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """How well probabilities agree with what was right: Brier score, what "right" is worth, and the reliability curve.

    Beside the score is that of saying the share of right runs each time: a probability that is worth anything is below.

    Args:
        probability: of each run.
        right: whether its map is right.
    """
    called = probability >= SURE
    low = np.digitize(probability, BINS[1:-1])
    curve = []
    for number, edges in enumerate(pairwise(BINS)):
        own = low == number
        if own.any():
            curve.append({
                "from": edges[0], "to": edges[1], "runs": int(own.sum()), "right": int(right[own].sum()),
                "mean_probability": float(probability[own].mean()),
            })  # fmt: skip
    return {
        "runs": len(right), "right": int(right.sum()), "brier": float(np.mean((probability - right) ** 2)),
        "brier_of_mean": float(np.var(right)),
        "called_right": int(called.sum()), "called_right_and_wrong": int((called & ~right).sum()),
        "right_and_called_so": int((called & right).sum()), "curve": curve,
    }  # fmt: skip


def as_markdown(found: Mapping[str, Any]) -> str:
    """The test as a table for the documentation."""
    lines = [
        (
            "maps",
            "runs",
            "right",
            "Brier score",
            "of their mean",
            "likely right (≥ 0.9)",
            "of these wrong",
            "right ones called so",
        )
    ]
    lines.append(("---",) * len(lines[0]))
    for half in Half:
        part = found[half.value]
        lines.append((
            half.value, str(part["runs"]), str(part["right"]), f"{part['brier']:.3f}",
            f"{part['brier_of_mean']:.3f}", str(part["called_right"]),
            str(part["called_right_and_wrong"]), f"{part['right_and_called_so']} of {part['right']}",
        ))  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def drawn(path: Path, found: Mapping[str, Any]) -> None:
    """The reliability curve of each half, with intervals of 95 %."""
    figure = Figure(figsize=(5.4, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    for half, colour, offset in zip(Half, ("#1f77b4", "#d95f02"), (-0.006, 0.006), strict=True):
        curve = found[half.value]["curve"]
        x = np.array([point["mean_probability"] for point in curve]) + offset
        y = np.array([point["right"] / point["runs"] for point in curve])
        ends = np.array([interval(point["right"], point["runs"]) for point in curve])
        bars = np.abs(ends.T - y)
        axes.errorbar(
            x, y, bars, fmt="o", color=colour, capsize=3, label=f"{half.value} ({found[half.value]['runs']} runs)"
        )
        for point, at, height in zip(curve, x, y, strict=True):
            axes.annotate(
                str(point["runs"]), (at, height), (5, 3), textcoords="offset points", fontsize=8, color=colour
            )
    axes.set_xlabel("probability that the run states")
    axes.set_ylabel("share of these runs that are right")
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panels", type=Path, nargs="+", help="JSON files of benchmarks/panel")
    parser.add_argument("--calibration", type=Path, help="gets the weights")
    parser.add_argument("--json", type=Path, help="gets the test")
    parser.add_argument("--chart", type=Path, help="gets the reliability curve")
    arguments = parser.parse_args(words)
    try:
        found = calibrated(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(as_markdown(found))
    return 0


def calibrated(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit, test and write what was asked for.

    Raises:
        InputError: if a half has no run that is right, or none that is wrong.
    """
    panels = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.panels]
    runs = [(panel, record, told) for panel in panels for record in panel["runs"] if (told := witnesses_of(record))]
    halves = {half: [run for run in runs if run[1]["half"] == half] for half in Half}
    witnesses = {half: [told for *_, told in own] for half, own in halves.items()}
    right = {
        half: np.array([within(record, panel["right"]) for panel, record, _ in own]) for half, own in halves.items()
    }
    for half in Half:
        if not 0 < right[half].sum() < len(right[half]):
            raise InputError(f"the {half} half needs runs that are right and runs that are wrong")
    calibration = fitted(witnesses[Half.TUNING], list(right[Half.TUNING]))
    found: dict[str, Any] = {"commits": sorted({record["commit"] for _, record, _ in runs})}
    for half in Half:
        probability = np.array([calibration.probability(told) for told in witnesses[half]])
        found[half.value] = tested(probability, right[half])
    if arguments.calibration:
        write_json(arguments.calibration, vars(calibration))
    if arguments.json:
        write_json(arguments.json, found)
    if arguments.chart:
        drawn(arguments.chart, found)
    return found


if __name__ == "__main__":
    sys.exit(main())

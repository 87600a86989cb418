"""Table 2.1: errors of encoders on mixtures of 1, 2 and 3 Gaussians, beside the thesis's.

Columns are means of (2.9) over different problems. "train": the training's own stream, which is drawn as training goes,
so each was seen once. "test": fresh ones of the same law. Both have exact moments, as in the thesis. "noisy": fresh
ones, moments of 10⁶ observations at σ = 1. "harder": fresh ones of a wider law, exact moments.

Two rows tell what that is worth. "fixed": the one density and signal with the least mean error, which looks at no
moments. "untrained": the structured encoder before its training, the closed-form inversion alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from rich.console import Group
from rich.table import Table
from torch import Tensor

from orbitrec.io.files import write_csv, write_json
from orbitrec.io.runs import RunFolder, new_run
from orbitrec.moments.losses import orbit_error
from orbitrec.mra.families import MixtureLaw, default_law, harder_law
from orbitrec.mra.sampling import EXACT, NoiseLaw, SignalProblems
from orbitrec.mra.training import MRATraining, errors
from orbitrec.networks.encoders import ENCODERS, Encoder
from orbitrec.networks.pretrained import encoder_name, load_encoder, load_recipe
from orbitrec.networks.provenance import write_training
from orbitrec.networks.training import TrainingProgress, Trainer
from orbitrec.thesis.plots.predictions import Prediction, draw_predictions

REPORTED = {
    1: {"density_train": 0.042, "density_test": 0.048, "signal_train": 0.048, "signal_test": 0.052},
    2: {"density_train": 0.121, "density_test": 0.141, "signal_train": 0.156, "signal_test": 0.170},
    3: {"density_train": 0.177, "density_test": 0.195, "signal_train": 0.180, "signal_test": 0.206},
}
"""The thesis's figures."""

SAMPLES = 10_000
"""Problems in each mean."""

_NOISE = NoiseLaw(sigma=(1.0, 1.0), count=(1e6, 1e6), exact=0.0)
_TEST_SEED = 20_240_000  # fresh problems: no training's streams
_CHUNK = 500

Weights = Mapping[str, str | Path]
"""For the name of each shipped encoder the weights to use."""


def pretrained_weights() -> Weights:
    """Those that come with the library."""
    return {encoder_name(encoder, k): encoder_name(encoder, k) for k in REPORTED for encoder in ENCODERS}


def retrained_weights(folder: Path, callback: Callable[[float], None]) -> Weights:
    """Train all shipped encoders from nothing by their recipes, each in its own folder; ``callback`` hears how many."""
    weights: dict[str, str | Path] = {}
    for name in pretrained_weights():
        training, done = MRATraining.from_dict(load_recipe(name)["training"]), len(weights)

        def hear(now: TrainingProgress, steps: int = training.steps, done: int = done) -> None:
            callback(done + now.step / steps)

        with new_run(folder / name) as run:
            write_training(run, Trainer(training), hear, half=True)
        weights[name] = run.path / "encoder.safetensors"
    return weights


@dataclass(frozen=True)
class EncoderRow:
    """Mean errors (2.9) of one encoder on mixtures of so many Gaussians; ``seconds`` are those of its training."""

    gaussians: int
    encoder: str
    density_train: float
    density_test: float
    signal_train: float
    signal_test: float
    density_noisy: float
    signal_noisy: float
    density_harder: float
    signal_harder: float
    seconds: float


def table(weights: Weights, samples: int = SAMPLES, callback: Callable[[EncoderRow], None] = lambda row: None) -> list[EncoderRow]:
    """All rows: for each number of Gaussians the fixed answer, the encoders, and the structured one untrained.

    Raises:
        InputError: if weights are missing.
    """
    rows = []
    for gaussians in REPORTED:
        for name, encoder, training, seconds in _contestants(gaussians, weights):
            rows.append(_row(gaussians, name, encoder, training, samples, seconds))
            callback(rows[-1])
    return rows


ROWS = len(REPORTED) * (len(ENCODERS) + 2)
"""Rows of the table, the printed ones not counted."""


def _contestants(gaussians: int, weights: Weights) -> Iterator[tuple[str, Encoder, MRATraining, float]]:
    """Name, encoder, its training, and the seconds that took."""
    files = {name: weights[encoder_name(name, gaussians)] for name in ENCODERS}
    recipes = {name: load_recipe(file) for name, file in files.items()}
    trainings = {name: MRATraining.from_dict(recipe["training"]) for name, recipe in recipes.items()}
    yield "fixed", _FixedAnswer.best(trainings["structured"]), trainings["structured"], 0.0
    yield (
        "untrained",
        trainings["structured"].network(torch.Generator().manual_seed(trainings["structured"].seed)),
        trainings["structured"],
        0.0,
    )
    for name, file in files.items():
        yield name, load_encoder(file), trainings[name], recipes[name]["seconds"]


class _FixedAnswer(Encoder):
    """The same density and signal, whatever the moments."""

    def __init__(self, density: Float[Tensor, "n"], signal: Float[Tensor, "n"]) -> None:
        super().__init__(len(density))
        self.density, self.signal = torch.nn.Parameter(density), torch.nn.Parameter(signal)

    @classmethod
    def best(cls, training: MRATraining, steps: int = 100, batch: int = 250) -> "_FixedAnswer":
        """Of least mean error, found by Adam from one member of the family."""
        generator = torch.Generator().manual_seed(training.seed)
        signal, density = training.law.pairs(1, training.n, generator, torch.float32)
        answer = cls(density[0], signal[0])
        groups = [{"params": [p], "lr": 0.02 * float(p.detach().abs().max())} for p in answer.parameters()]
        adam = torch.optim.Adam(groups)
        for _ in range(steps):
            signal, density = training.law.pairs(batch, training.n, generator, torch.float32)
            mine = (p.expand(batch, -1) for p in (answer.density, answer.signal))
            loss = sum(orbit_error(a, b).mean() for a, b in zip(mine, (density, signal), strict=True))
            adam.zero_grad()
            torch.as_tensor(loss).backward()
            adam.step()
        return answer

    def at_unit_scale(
        self,
        first: Complex[Tensor, "b n"],
        second: Complex[Tensor, "b n n"],
        sigma: Float[Tensor, "b"],
        count: Float[Tensor, "b"],
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """The one answer, for each problem."""
        return self.density.expand(len(first), -1), self.signal.expand(len(first), -1)


def _row(gaussians: int, name: str, encoder: Encoder, training: MRATraining, samples: int, seconds: float) -> EncoderRow:
    n, easy = training.n, default_law(gaussians)
    columns = {
        "train": _mean_errors(encoder, _seen(training, samples)),
        "test": _mean_errors(encoder, _fresh(easy, n, EXACT, samples)),
        "noisy": _mean_errors(encoder, _fresh(easy, n, _NOISE, samples)),
        "harder": _mean_errors(encoder, _fresh(harder_law(gaussians), n, EXACT, samples)),
    }
    means = {f"density_{column}": pair[0] for column, pair in columns.items()}
    means |= {f"signal_{column}": pair[1] for column, pair in columns.items()}
    return EncoderRow(gaussians, name, **means, seconds=seconds)


def _mean_errors(encoder: Encoder, batches: Iterator[SignalProblems]) -> tuple[float, float]:
    """Means of density and signal over all problems."""
    found = [errors(encoder, batch) for batch in batches]
    density, signal = (torch.cat(column).mean() for column in zip(*found, strict=True))
    return float(density), float(signal)


def _fresh(law: MixtureLaw, n: int, noise: NoiseLaw, samples: int) -> Iterator[SignalProblems]:
    generator = torch.Generator().manual_seed(_TEST_SEED + law.components)
    for start in range(0, samples, _CHUNK):
        yield SignalProblems.draw(law, n, noise, min(_CHUNK, samples - start), generator, torch.float32)


def _seen(training: MRATraining, samples: int) -> Iterator[SignalProblems]:
    """The first problems of the training, with exact moments."""
    generator = Trainer(training).generator  # where it stands when the first step begins
    for start in range(0, samples, training.batch):
        seen = training.problems(training.batch, generator).exact()
        yield seen.select(torch.arange(min(training.batch, samples - start)))


def predictions(weights: Weights, gaussians: int = 2, count: int = 3) -> list[Prediction]:
    """The first fresh problems and what both encoders find (figure 2.3)."""
    encoders = {name: load_encoder(weights[encoder_name(name, gaussians)]) for name in ENCODERS}
    n = next(iter(encoders.values())).n
    problems = next(_fresh(default_law(gaussians), n, EXACT, count))
    with torch.no_grad():
        found = {name: e(problems.moments, problems.sigma, problems.count) for name, e in encoders.items()}
    return [
        Prediction(
            problems.density[i], problems.signal[i], {name: (pair[0][i], pair[1][i]) for name, pair in found.items()}
        )
        for i in range(count)
    ]


def write_results(run: RunFolder, rows: list[EncoderRow], weights: Weights) -> None:
    """table.json, table.csv and predictions.png."""
    write_json(run.file("table.json"), as_json(rows))
    write_csv(run.file("table.csv"), [asdict(row) for row in rows])
    title = "Mixtures of two Gaussians: what encoders find from exact moments"
    draw_predictions(run.file("predictions.png"), predictions(weights), title)


def as_json(rows: list[EncoderRow]) -> dict[str, object]:
    """The rows and the printed figures."""
    return {"table": "2.1", "rows": [asdict(row) for row in rows], "thesis": REPORTED}


def as_text(rows: list[EncoderRow]) -> Group:
    """The rows, the printed ones among them, as two tables: what the thesis shows, and beyond."""
    printed = ("density_train", "density_test", "signal_train", "signal_test")
    beyond = ("density_noisy", "signal_noisy", "density_harder", "signal_harder")
    return Group(
        _shown("Table 2.1: mean error (2.9), exact moments", printed, rows),
        _shown("Noise: 10⁶ observations, σ = 1. Harder: wider law, exact moments", beyond, rows),
    )


def _shown(title: str, columns: Sequence[str], rows: list[EncoderRow]) -> Table:
    shown = Table(title=title)
    for heading in ("K", "encoder", "training"):
        shown.add_column(heading)
    for column in columns:
        which, kind = column.split("_")
        shown.add_column(f"{'ρ' if which == 'density' else 'v'} {kind}", justify="right")
    for gaussians, printed in REPORTED.items():
        if columns[0] in printed:
            shown.add_row(str(gaussians), "as printed", "", *(f"{printed[c]:.3f}" for c in columns))
        for row in (row for row in rows if row.gaussians == gaussians):
            values = asdict(row)
            seconds = f"{row.seconds:.0f} s" if row.seconds else ""
            shown.add_row(str(gaussians), row.encoder, seconds, *(f"{values[c]:.4f}" for c in columns))
        shown.add_section()
    return shown

"""Table 2.1: errors of encoders on mixtures of 1, 2 and 3 Gaussians, beside the thesis's.

Columns are means of (2.9) over different problems. "train": the training's own stream, which is drawn as training goes,
so each was seen once. "test": fresh ones of the same law. Both have exact moments, as in the thesis. "noisy": fresh
ones, moments of 10⁶ observations at σ = 1. "harder": fresh ones of a wider law, exact moments.

Two rows show what that is worth. "fixed": the one density and signal with the least mean error, which looks at no
moments. "untrained": the structured encoder before its training, the closed-form inversion alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.io.plain import from_plain
from orbitrec.io.runs import RunFolder, new_run
from orbitrec.moments.losses import orbit_error
from orbitrec.mra.families import MixtureLaw, default_law, harder_law
from orbitrec.mra.sampling import EXACT, NoiseLaw, SignalProblems
from orbitrec.mra.training import MRATraining, errors
from orbitrec.networks.encoders import Encoder
from orbitrec.networks.pretrained import encoder_name, load_encoder, load_provenance
from orbitrec.networks.provenance import Origin
from orbitrec.networks.training import Trainer, TrainingProgress
from orbitrec.networks.training_run import write_training
from orbitrec.optim.adam import ScheduledAdam, constant
from orbitrec.thesis.encoder_training import ThesisEncoderTraining
from orbitrec.thesis.encoders import thesis_weights
from orbitrec.thesis.plots.predictions import Prediction, draw_predictions
from orbitrec.thesis.records import ExperimentResult, TextTable

REPORTED = {
    1: {"density_train": 0.042, "density_test": 0.048, "signal_train": 0.048, "signal_test": 0.052},
    2: {"density_train": 0.121, "density_test": 0.141, "signal_train": 0.156, "signal_test": 0.170},
    3: {"density_train": 0.177, "density_test": 0.195, "signal_train": 0.180, "signal_test": 0.206},
}
"""The thesis's errors, by the number of Gaussians."""

SAMPLES = 10_000
"""Problems in each mean."""

_NOISE = NoiseLaw(sigma=(1.0, 1.0), count=(1e6, 1e6), exact=0.0)
_TEST_SEED = 20_240_000  # fresh problems: no training's streams
_CHUNK = 500

Source = str | Path
"""Pretrained weights by their name, or a file."""

Weights = Mapping[tuple[str, int], Source]
"""For an encoder's name in the table and a number of Gaussians, the weights to use."""


@dataclass(frozen=True)
class EncoderKind:
    """One of the encoders that are compared.

    Attributes:
        name: in the table.
        training: how it is trained.
        pretrained: its pretrained weights for so many Gaussians.
    """

    name: str
    training: type[MRATraining]
    pretrained: Callable[[int], Source]

    def task(self, source: Source) -> MRATraining:
        """The training that made these weights."""
        return from_plain(self.training, load_provenance(source).training)

    def encoder(self, source: Source) -> Encoder:
        """The encoder with these weights."""
        return load_encoder(self.task(source).architecture, source)


STRUCTURED = EncoderKind("structured", MRATraining, encoder_name)
KINDS = (EncoderKind("thesis", ThesisEncoderTraining, thesis_weights), STRUCTURED)


def pretrained_weights() -> Weights:
    """Those that come with the library."""
    return {(kind.name, gaussians): kind.pretrained(gaussians) for gaussians in REPORTED for kind in KINDS}


def retrained_weights(folder: Path, origin: Origin, callback: Callable[[float], None]) -> Weights:
    """Train all pretrained encoders again, from nothing and as their provenance says.

    Args:
        folder: of the runs, each in its own folder.
        origin: for the provenance of the new weights.
        callback: called with the number of encoders that are done, the present one as a fraction.

    Returns:
        Files of the new weights.
    """
    weights: dict[tuple[str, int], Source] = {}
    for gaussians in REPORTED:
        for kind in KINDS:
            task, done = kind.task(kind.pretrained(gaussians)), len(weights)

            def report(now: TrainingProgress, steps: int = task.steps, done: int = done) -> None:
                callback(done + now.step / steps)

            with new_run(folder / f"mra-{kind.name}-{gaussians}") as run:
                write_training(run, Trainer(task), origin, report, half=True)
            weights[kind.name, gaussians] = run.path / "encoder.safetensors"
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


@dataclass(frozen=True)
class EncoderTable(ExperimentResult):
    """Table 2.1.

    Attributes:
        samples: problems in each mean.
        rows: ours.
        reported: the thesis's errors, by the number of Gaussians and the column.
    """

    samples: int
    rows: tuple[EncoderRow, ...]
    reported: Mapping[int, Mapping[str, float]]

    def tables(self) -> list[TextTable]:
        """What the thesis shows, and beyond."""
        reported = ("density_train", "density_test", "signal_train", "signal_test")
        beyond = ("density_noisy", "signal_noisy", "density_harder", "signal_harder")
        return [
            self._table("Table 2.1: mean error (2.9), exact moments", reported),
            self._table("Noise: 10⁶ observations, σ = 1. Harder: wider law, exact moments", beyond),
        ]

    def _table(self, title: str, columns: Sequence[str]) -> TextTable:
        names = {"density": "ρ", "signal": "v"}
        headings = [f"{names[quantity]} {kind}" for quantity, kind in (column.split("_") for column in columns)]
        groups = []
        for gaussians, reported in self.reported.items():
            rows = []
            if columns[0] in reported:
                rows.append((str(gaussians), "reported", "", *(f"{reported[c]:.3f}" for c in columns)))
            for row in (row for row in self.rows if row.gaussians == gaussians):
                values = asdict(row)
                seconds = f"{row.seconds:.0f} s" if row.seconds else ""
                rows.append((str(gaussians), row.encoder, seconds, *(f"{values[c]:.4f}" for c in columns)))
            groups.append(tuple(rows))
        return TextTable(title, ("K", "encoder", "training", *headings), tuple(groups), text_columns=3)


def table(
    weights: Weights, samples: int = SAMPLES, callback: Callable[[EncoderRow], None] = lambda row: None
) -> EncoderTable:
    """For each number of Gaussians the fixed answer, the structured encoder untrained, and the trained ones.

    Args:
        weights: of the encoders.
        samples: problems in each mean.
        callback: called with each row.

    Returns:
        The table.

    Raises:
        InputError: if weights are missing.
    """
    rows = []
    for gaussians in REPORTED:
        for name, encoder, training, seconds in _contestants(gaussians, weights):
            rows.append(_row(gaussians, name, encoder, training, samples, seconds))
            callback(rows[-1])
    return EncoderTable("table-2.1", samples, tuple(rows), REPORTED)


ROWS = len(REPORTED) * (len(KINDS) + 2)
"""Rows of the table, the thesis's not counted."""


def _contestants(gaussians: int, weights: Weights) -> Iterator[tuple[str, Encoder, MRATraining, float]]:
    """Name, encoder, its training, and the seconds that took."""
    structured = STRUCTURED.task(weights[STRUCTURED.name, gaussians])
    yield "fixed", _FixedAnswer.best(structured), structured, 0.0
    yield "untrained", structured.untrained(), structured, 0.0
    for kind in KINDS:
        source = weights[kind.name, gaussians]
        yield kind.name, kind.encoder(source), kind.task(source), load_provenance(source).seconds


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
        adams = [ScheduledAdam([p], constant(0.02 * float(p.detach().abs().max()))) for p in answer.parameters()]
        for _ in range(steps):
            signal, density = training.law.pairs(batch, training.n, generator, torch.float32)
            mine = (p.expand(batch, -1) for p in (answer.density, answer.signal))
            loss = sum(orbit_error(a, b).mean() for a, b in zip(mine, (density, signal), strict=True))
            for adam in adams:
                adam.zero_grad()
            torch.as_tensor(loss).backward()
            for adam in adams:
                adam.step_down()
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


def _row(
    gaussians: int, name: str, encoder: Encoder, training: MRATraining, samples: int, seconds: float
) -> EncoderRow:
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
    """The first fresh problems and what both encoders find (figure 2.3).

    Args:
        weights: of the encoders.
        gaussians: in a signal and in a density.
        count: how many problems.

    Returns:
        One for each problem.
    """
    encoders = {kind.name: kind.encoder(weights[kind.name, gaussians]) for kind in KINDS}
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


def draw(run: RunFolder, weights: Weights) -> None:
    """predictions.png."""
    title = "Mixtures of two Gaussians: what encoders find from exact moments"
    draw_predictions(run.file("predictions.png"), predictions(weights), title)

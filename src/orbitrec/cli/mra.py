"""``orbitrec mra``: multireference alignment, a signal from its shifted noisy copies."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.errors import InputError

if TYPE_CHECKING:
    from orbitrec.io.observations import ObservationFile
    from orbitrec.mra.problem import MRAProblem

app = typer.Typer(no_args_is_help=True)


class MethodName(StrEnum):
    """How to recover: the names of :class:`orbitrec.mra.methods.Method`."""

    moments = "moments"
    encoder = "encoder"
    spectral = "spectral"
    least_squares = "least-squares"
    bispectrum = "bispectrum"
    em = "em"


@app.callback()
def mra() -> None:
    """Multireference alignment: a signal from observations of it at unknown cyclic shifts, in white noise."""


@app.command()
def recover(
    observations: Annotated[Path, typer.Argument(metavar="OBS.npy", help="Observations, one in each row.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    sigma: Annotated[float | None, typer.Option(help="Noise's standard deviation. [estimated]")] = None,
    method: Annotated[MethodName, typer.Option(help="How to recover the signal.")] = MethodName.moments,
    length: Annotated[
        int | None, typer.Option(min=1, help="Samples of the signal, where observations are windows. [as observed]")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="truth.npz to compare the result with.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same result.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Recover a signal and the density of its shifts: DIR/signal.npy, density.npy, summary.json, summary.png.

    Both are up to a shift that moves one forth and the other back. Only bispectrum and em can do with uniform shifts;
    only least-squares and em with windows.

    Example:  orbitrec mra recover OBS.npy --sigma 1.0 --method em -o DIR
    """
    import torch
    from rich.console import Console
    from rich.markup import escape

    from orbitrec.io.files import to_json
    from orbitrec.io.observations import ObservationFile, read_truth
    from orbitrec.io.runs import new_run
    from orbitrec.mra.methods import Method, recover_signal
    from orbitrec.report.mra import MRASummary, write_recovery

    console, way = Console(stderr=True, soft_wrap=True, highlight=False), Method[method.name.upper()]
    with new_run(output) as run:
        file = ObservationFile.open(observations)
        true = None if truth is None else read_truth(truth, length or file.length)
        with console.status("reading" if console.is_terminal else ""):
            problem = _problem(file, sigma, length)
        if sigma is None:
            console.print(f"--sigma is not given: estimated from the data as {problem.sigma:.4g}")
        with console.status(f"recovering by {method}" if console.is_terminal else ""):
            estimate = recover_signal(problem, way, torch.Generator().manual_seed(seed))
        for check in estimate.checks:
            console.print(f"[bold yellow]quality check:[/] {escape(check)}")
        summary = MRASummary.of(
            problem, estimate, true, file=observations, method=way, seed=seed, sigma_estimated=sigma is None
        )
        write_recovery(run, summary, estimate, true)
    if as_json:
        typer.echo(to_json(summary.to_dict()))
        return
    typer.echo(
        f"signal of {problem.model.n} samples from {problem.count} observations by {method} in "
        f"{estimate.seconds:.1f} s: {output / 'summary.png'}"
    )
    if true is not None:
        typer.echo(f"relative error {summary.signal_error:.4f} of the signal, {summary.density_error:.4f} of ρ")


def _problem(file: "ObservationFile", sigma: float | None, length: int | None) -> "MRAProblem":
    """The moments and what else methods need, in one pass over the file."""
    from orbitrec.moments.estimator import SignalMomentAccumulator
    from orbitrec.mra.model import PeriodicMRA, WindowedMRA
    from orbitrec.mra.problem import MRAProblem

    if sigma is not None and not 0 <= sigma < float("inf"):
        raise InputError(f"--sigma {sigma:g}: a standard deviation is zero or more; leave it out to have it estimated")
    n = length or file.length
    if n < 2:
        raise InputError(
            f"{file.path} has one sample in a row, which no shift changes; give --length if it is a window"
        )
    if n < file.length:
        raise InputError(f"--length {n}: {file.path} has {file.length} samples in a row; give at least as many")
    model = PeriodicMRA(n) if n == file.length else WindowedMRA(n, file.length)
    sums = SignalMomentAccumulator.of(file.batches())
    power = float(sums.second.trace()) / (sums.count * file.length)
    if not 0 < power < float("inf"):
        raise InputError(f"{file.path}: the mean square of its values is {power:g}; scale them to about 1")
    level = sums.sigma() if sigma is None else sigma
    if level**2 >= power:
        given = f"--sigma {level:g}" if sigma is not None else f"{file.path}: the noise level estimated from it"
        raise InputError(f"{given} leaves no signal: the root mean square is {power**0.5:.4g}; give a smaller --sigma")
    return MRAProblem(model, file.tensor(), level, sums.estimate(level), sums.count)

import json

import numpy as np
import pytest
import torch

from orbitrec.cli.main import run
from orbitrec.cli.mra import MethodName
from orbitrec.moments.losses import orbit_error
from orbitrec.mra.methods import Method


def orbitrec(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        run([*map(str, arguments)])
    return int(exit_.value.code or 0)


def simulate(folder, *arguments: object) -> int:
    return orbitrec("simulate", "mra", "--length", 9, "-o", folder, *arguments)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mra") / "data"
    assert simulate(folder, "-n", 20_000, "--sigma", 0.3) == 0
    return folder


def test_simulated_observations_are_views_of_the_truth_in_noise_of_sigma(data):
    observed = np.load(data / "observations.npy")
    assert observed.shape == (20_000, 9)
    assert observed.dtype == np.float32
    with np.load(data / "truth.npz") as truth:
        signal, density = truth["signal"], truth["density"]
    views = np.stack([np.roll(signal, s) for s in range(9)])
    mean = density @ views
    assert np.abs(observed.mean(0) - mean).max() < 5 * np.sqrt((0.09 + views.var(0).max()) / 20_000)
    power = (observed.astype(float) ** 2).mean()  # of signals of mean square 1
    assert abs(power - (signal**2).mean() - 0.09) < 5 * 0.02 * np.sqrt(1 / 20_000) * 9
    assert (signal**2).mean() == pytest.approx(1, rel=1e-5)
    assert json.loads((data / "truth.json").read_text())["sigma"] == 0.3


def test_the_same_seed_gives_the_same_data_and_another_seed_others(tmp_path, data):
    for name, seed in (("same", 1), ("other", 2)):
        assert simulate(tmp_path / name, "-n", 20_000, "--sigma", 0.3, "--seed", seed) == 0
    first, same, other = (np.load(f / "observations.npy") for f in (data, tmp_path / "same", tmp_path / "other"))
    assert (first == same).all()
    assert (first != other).any()


@pytest.mark.parametrize("method", ["spectral", "least-squares", "bispectrum", "em"])
def test_every_method_recovers_the_signal(tmp_path, capsys, data, method):
    arguments = ("--sigma", 0.3, "--method", method, "--truth", data / "truth.npz", "--json")
    assert orbitrec("mra", "recover", data / "observations.npy", *arguments, "-o", tmp_path / "out") == 0
    printed = json.loads(capsys.readouterr().out)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "density.npy", "signal.npy", "summary.json", "summary.png"
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == printed
    assert (tmp_path / "out" / "summary.png").read_bytes().startswith(b"\x89PNG")
    signal, density = (torch.from_numpy(np.load(tmp_path / "out" / f"{name}.npy")) for name in ("signal", "density"))
    with np.load(data / "truth.npz") as truth:
        error = orbit_error(signal, torch.from_numpy(truth["signal"]).double())
    assert printed["signal_error"] == pytest.approx(float(error))
    assert error < 0.05
    assert float(density.sum()) == pytest.approx(1)
    assert (density >= 0).all()
    assert printed["sigma_estimated"] is False


def test_the_command_offers_every_method_of_the_library():
    offered = [(name.name.upper(), name.value) for name in MethodName]
    assert offered == [(method.name, method.label) for method in Method]


def test_a_missing_sigma_is_estimated_and_said(tmp_path, capsys, data):
    assert orbitrec("mra", "recover", data / "observations.npy", "-o", tmp_path / "out", "--method", "spectral") == 0
    assert "estimated from the data as 0.3" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["sigma"] == pytest.approx(0.3, rel=0.02)
    assert summary["sigma_estimated"] is True


def test_windows_are_recovered_given_the_signals_length(tmp_path, capsys):
    assert simulate(tmp_path / "data", "-n", 20_000, "--sigma", 0.2, "--window", 7, "--gaussians", 1) == 0
    out, truth = tmp_path / "out", tmp_path / "data" / "truth.npz"
    command = ("mra", "recover", tmp_path / "data" / "observations.npy", "--sigma", 0.2, "--length", 9)
    assert orbitrec(*command, "--truth", truth, "--method", "em", "-o", out) == 0
    assert json.loads((out / "summary.json").read_text())["signal_error"] < 0.1
    assert orbitrec(*command, "--method", "spectral", "-o", tmp_path / "none") == 2
    assert "needs whole periods" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_quality_check_names_uniform_shifts(tmp_path, capsys):
    assert simulate(tmp_path / "data", "-n", 20_000, "--sigma", 0.3, "--uniform") == 0
    command = ("mra", "recover", tmp_path / "data" / "observations.npy", "--sigma", 0.3)
    assert orbitrec(*command, "--method", "spectral", "-o", tmp_path / "out") == 0
    assert "quality check: the shifts look uniform" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["checks"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sigma", -1), "--sigma -1: a standard deviation is zero or more"),
        (("--sigma", "nan"), "--sigma nan"),
        (("--sigma", 50), "--sigma 50 leaves no signal: the root mean square is"),
        (("--length", 5), "--length 5: "),
        (("--sigma", 0, "--method", "em"), "positive"),
        (("--truth", "nothing.npz"), "nothing.npz: no such file"),
    ],
)
def test_bad_options_are_named_and_leave_nothing(tmp_path, capsys, data, options, message):
    assert orbitrec("mra", "recover", data / "observations.npy", *options, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_observations_are_named_and_leave_nothing(tmp_path, capsys):
    values = np.random.default_rng(1).standard_normal((100, 5))
    files = {
        "flat": values[0], "complex": values + 1j, "nan": np.where(values == values[7, 2], np.nan, values),
        "zeros": 0 * values, "vast": 1e300 * values, "words": values.astype(str), "empty": values[:0],
        "narrow": values[:, :1],
    }  # fmt: skip
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "nan.npy").read_bytes()[:-50])
    for name, words in {
        "flat": "1 dimensions", "complex": "complex128", "nan": "observation 7 ", "cut": "no whole .npy",
        "missing": "no such file", "zeros": "mean square of its values is 0", "vast": "square of its values is inf",
        "words": "give real numbers", "empty": "is empty", "narrow": "has one sample in a row",
    }.items():  # fmt: skip
        assert orbitrec("mra", "recover", tmp_path / f"{name}.npy", "--sigma", 1, "-o", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert f"{name}.npy" in error
        assert words in error
        assert not (tmp_path / "out").exists()


def test_noise_without_a_signal_is_no_signal(tmp_path, capsys):
    np.save(tmp_path / "noise.npy", np.random.default_rng(1).standard_normal((200, 9)))
    assert orbitrec("mra", "recover", tmp_path / "noise.npy", "-o", tmp_path / "out") == 2
    assert "noise.npy: the noise level estimated from it leaves no signal" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_truth_of_another_length_or_kind_is_refused(tmp_path, capsys, data):
    np.savez(tmp_path / "short.npz", signal=np.ones(5), density=np.ones(5) / 5)
    np.save(tmp_path / "array.npz", np.ones(9))
    for name, words in (("short", "is not 9 finite numbers"), ("array.npz", "no archive of a signal")):
        path = next(tmp_path.glob(f"{name}*"))
        assert orbitrec("mra", "recover", data / "observations.npy", "--truth", path, "-o", tmp_path / "out") == 2
        assert words in capsys.readouterr().err


def test_bad_simulations_leave_nothing(tmp_path, capsys):
    assert simulate(tmp_path / "out", "--window", 12) == 2
    assert "window of 12 samples does not fit 9" in capsys.readouterr().err
    assert simulate(tmp_path / "out", "-n", 10**15) == 2
    assert "more than is free" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

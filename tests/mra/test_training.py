"""The supervised phase: it learns, what is resumed is what was not interrupted, and moments are sampled right."""

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.moments.estimator import SignalMomentAccumulator
from orbitrec.mra.families import default_law
from orbitrec.mra.model import PeriodicMRA, draw_observations
from orbitrec.mra.problem import model_moments
from orbitrec.mra.sampling import EXACT, NoiseLaw, sampled_moments
from orbitrec.mra.training import MRATraining, errors
from orbitrec.networks.training import KIND, Trainer, learning_rate
from orbitrec.runtime.checkpoints import read_checkpoint
from orbitrec.thesis.encoder_training import ThesisEncoderTraining


def training(kind=MRATraining, **changes):
    settings = {"n": 11, "steps": 20, "batch": 16, "noise": NoiseLaw(exact=0.5)} | changes
    return kind(default_law(1), **settings)


@pytest.mark.parametrize(("kind", "factor"), [(MRATraining, 1.3), (ThesisEncoderTraining, 2.0)])
def test_training_reduces_the_validation_error_by_a_stated_factor(kind, factor, tmp_path):
    """In 80 steps on wide single Gaussians in strong noise; the structured encoder starts from a good estimate."""
    run = training(kind, steps=80, batch=32, noise=NoiseLaw(count=(1e3, 1e3), exact=0.0), learning_rate=3e-3)
    trainer = Trainer(run)
    before = sum(e.mean() for e in errors(trainer.network, run.held_out(200)))
    trainer.run(tmp_path / "checkpoint.safetensors", 80, lambda progress: None, held_out=8)
    after = sum(e.mean() for e in errors(trainer.network, run.held_out(200)))
    assert after < before / factor


@pytest.mark.parametrize("kind", [MRATraining, ThesisEncoderTraining])
def test_resumed_is_uninterrupted(kind, tmp_path):
    whole, part = Trainer(training(kind)), Trainer(training(kind))
    whole.run(tmp_path / "whole.safetensors", 7, lambda progress: None, held_out=8)
    for _ in range(9):
        part.advance()
    part.save(tmp_path / "part.safetensors")
    again = Trainer.resumed(tmp_path / "part.safetensors", kind)
    assert (again.step, again.task) == (9, part.task)
    again.run(tmp_path / "part.safetensors", 7, lambda progress: None, held_out=8)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True)
    )
    assert whole.history[-1].errors == again.history[-1].errors


def test_training_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path):
    """History included; the checkpoint is of the one format that every run has."""

    def killed(progress):
        if progress.step == 10:
            raise KeyboardInterrupt

    path, whole = tmp_path / "part.safetensors", Trainer(training())
    whole.run(tmp_path / "whole.safetensors", 5, lambda progress: None, held_out=8)
    with pytest.raises(KeyboardInterrupt):
        Trainer(training()).run(path, 5, killed, held_out=8)
    record = read_checkpoint(path, KIND)
    assert (record["step"], record["task"]["n"]) == (10, 11)
    again = Trainer.resumed(path, MRATraining)
    again.run(path, 5, lambda progress: None, held_out=8)
    one, other = (read_checkpoint(file, KIND) for file in (path, tmp_path / "whole.safetensors"))
    assert [name for name, value in one.items() if torch.is_tensor(value) and not torch.equal(value, other[name])] == []
    assert [(row.step, row.errors) for row in again.history] == [(row.step, row.errors) for row in whole.history]


def test_the_seed_decides_the_weights_and_held_out_problems_are_others():
    one, same, other = (Trainer(training(seed=seed)) for seed in (1, 1, 2))
    weights = [trainer.network.state_dict()["body.0.weight"] for trainer in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    run = training()
    assert not torch.equal(run.held_out(4).signal, run.held_out(4, stream=1).signal)
    assert not torch.equal(run.held_out(4).signal, run.problems(4, torch.Generator().manual_seed(run.seed)).signal)


def test_the_rate_rises_and_falls():
    run = training(steps=100)
    rates = [learning_rate(run)(step) for step in range(100)]
    assert rates[0] < rates[1] == max(rates) <= run.learning_rate
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] < 1e-3 * run.learning_rate


def test_exact_moments_are_the_model_s():
    signal, density = default_law(2).pairs(5, 9, torch.Generator().manual_seed(0))
    sampled = sampled_moments(
        signal, density, torch.zeros(5).double(), torch.full((5,), torch.inf).double(), torch.Generator()
    )
    model = model_moments(PeriodicMRA(9), signal, density)
    torch.testing.assert_close(sampled.first, model.first)
    torch.testing.assert_close(sampled.second, model.second)


def test_sampled_moments_have_the_mean_and_spread_of_observations():
    """500 draws against 500 data sets of 200 observations, every entry: means to 5 deviations, variances to 6."""
    generator = torch.Generator().manual_seed(5)
    signal, density = (x[0] for x in default_law(1).pairs(1, 7, generator))
    repeats, count, sigma, model = 500, 200, 0.8, PeriodicMRA(7)
    data = torch.cat(list(draw_observations(model, signal, density, sigma, repeats * count, generator)))
    real = [SignalMomentAccumulator.of([part]).estimate(sigma) for part in data.split(count)]
    fast = sampled_moments(
        signal.expand(repeats, -1),
        density.expand(repeats, -1),
        torch.full((repeats,), sigma).double(),
        torch.full((repeats,), float(count)).double(),
        generator,
    )
    for drawn, observed in (
        (fast.first, torch.stack([m.first for m in real])),
        (fast.second, torch.stack([m.second for m in real])),
    ):
        spread = observed.var(0)
        assert ((drawn.mean(0) - observed.mean(0)).abs() < 5 * (2 * spread / repeats).sqrt()).all()
        # A variance of 500 draws is known to √(2/500), of either; complex entries a little better.
        assert ((drawn.var(0) / spread - 1).abs() < 6 * 2 / repeats**0.5).all()


def test_bad_trainings_and_checkpoints(tmp_path):
    with pytest.raises(InputError, match="too short"):
        training(n=4)
    Trainer(training()).save(tmp_path / "checkpoint.safetensors")
    with pytest.raises(InputError, match="another kind of training"):
        Trainer.resumed(tmp_path / "checkpoint.safetensors", ThesisEncoderTraining)
    with pytest.raises(InputError, match="must be positive"):
        training(steps=0)
    with pytest.raises(InputError, match="rise from above zero"):
        NoiseLaw(sigma=(0.0, 1.0))
    with pytest.raises(InputError, match="between 0 and 1"):
        NoiseLaw(exact=2.0)
    with pytest.raises(InputError, match="no such file"):
        Trainer.resumed(tmp_path / "absent.safetensors", MRATraining)
    assert EXACT.draw(3, torch.Generator(), torch.float32)[1].isinf().all()

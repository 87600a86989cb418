"""MoM-net's supervised phase: it learns, resumes to the same weights, and scales as moments do."""

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.inference.moments import Moments
from orbitrec.networks.momnet import Setting
from orbitrec.networks.shipped import load_encoder, load_momnet, load_recipe
from orbitrec.recovery.momnet.training import MomNetTraining
from orbitrec.recovery.training import Trainer

SMALL = Setting(bandwidth=8.0, radial_nodes=10, max_mode=8, view_degree=7, density_degree=2)


def training(**changes):
    return MomNetTraining(**({"setting": SMALL, "width": 16, "steps": 20, "batch": 8} | changes))


def test_training_reduces_the_loss_to_a_half(tmp_path):
    run = training(steps=60, batch=16, learning_rate=5e-3)
    trainer, held_out = Trainer(run), run.held_out(64)
    before = run.validation(trainer.encoder, held_out)["kam_loss"]
    trainer.run(tmp_path / "checkpoint.safetensors", 60, lambda progress: None, held_out=8)
    assert run.validation(trainer.encoder, held_out)["kam_loss"] < before / 2


def test_resumed_is_uninterrupted(tmp_path):
    whole, part = Trainer(training()), Trainer(training())
    whole.run(tmp_path / "whole.safetensors", 20, lambda progress: None, held_out=8)
    for _ in range(9):
        part.advance()
    part.save(tmp_path / "part.safetensors")
    again = Trainer.resumed(tmp_path / "part.safetensors", MomNetTraining.from_dict)
    assert (again.step, again.training) == (9, part.training)
    again.run(tmp_path / "part.safetensors", 20, lambda progress: None, held_out=8)
    weights = whole.encoder.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in again.encoder.state_dict().items())


def test_the_answer_scales_with_the_images_and_shifts_stay_within_their_bound():
    run = training()
    net, problems = run.network(torch.Generator().manual_seed(0)), run.held_out(4)
    m = problems.moments
    with torch.no_grad():
        one, ten = net(m), net(Moments(10 * m.first, 100 * m.second, m.weights))
    torch.testing.assert_close(ten.coefficients, 10 * one.coefficients, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ten.shift_px, one.shift_px, rtol=1e-3, atol=1e-4)
    assert ((one.shift_px > 0) & (one.shift_px < SMALL.largest_shift_px)).all()
    density = one.density(SMALL.harmonics(SMALL.directions))
    torch.testing.assert_close(density.sum(1), torch.ones(4))


def test_shipped_weights_are_below_the_printed_kam_loss():
    """0.056 on the thesis's family; one hundred problems, far below."""
    from dataclasses import replace

    from orbitrec.models.molecules import PLAIN

    run = MomNetTraining.from_dict(load_recipe("momnet-polar")["training"])
    found = run.validation(load_momnet(), replace(run, proteins=PLAIN).held_out(100, stream=5))
    assert found["kam_loss"] < 0.056
    assert found["shift_error_px"] < 0.15


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="width"):
        training(width=0)
    with pytest.raises(InputError, match="no encoder of signals"):
        load_encoder("momnet-polar")
    with pytest.raises(InputError, match=r"is no MoM-net"):
        load_momnet("mra-structured-2")
    with pytest.raises(InputError, match="radius"):
        Setting().grid_for(15, 4.0)

"""MoM-net's supervised phase: it learns, resumes to the same weights, and scales as moments do."""

from dataclasses import asdict, replace

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.io.plain import from_plain
from orbitrec.io.tensors import write_tensors
from orbitrec.moments.analytic import Moments
from orbitrec.networks.encoders import StructuredEncoder
from orbitrec.networks.momnet import MomNetSetting
from orbitrec.networks.momnet_training import MomNetTraining, distances
from orbitrec.networks.pretrained import load_momnet, load_network, load_provenance, write_network
from orbitrec.networks.provenance import Provenance
from orbitrec.networks.training import KIND, Trainer
from orbitrec.thesis.encoder_training import ReferenceMomNetTraining

SMALL = MomNetSetting(bandwidth=8.0, radial_nodes=10, max_mode=8, view_degree=7, density_degree=2)


def training(**changes):
    return MomNetTraining(**({"setting": SMALL, "width": 16, "steps": 20, "batch": 8} | changes))


def test_training_reduces_the_loss_to_a_half(tmp_path):
    run = training(steps=60, batch=16, learning_rate=5e-3)
    trainer, held_out = Trainer(run), run.held_out(64)
    before = run.validation(trainer.network, held_out)["kam_loss"]
    trainer.run(tmp_path / "checkpoint.safetensors", 60, lambda progress: None, held_out=8)
    assert run.validation(trainer.network, held_out)["kam_loss"] < before / 2


def test_resumed_is_uninterrupted(tmp_path):
    whole, part = Trainer(training()), Trainer(training())
    whole.run(tmp_path / "whole.safetensors", 20, lambda progress: None, held_out=8)
    for _ in range(9):
        part.advance()
    part.save(tmp_path / "part.safetensors")
    again = Trainer.resumed(tmp_path / "part.safetensors", MomNetTraining)
    assert (again.step, again.task) == (9, part.task)
    again.run(tmp_path / "part.safetensors", 20, lambda progress: None, held_out=8)
    weights = whole.network.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in again.network.state_dict().items())


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


def test_reflections_are_those_of_the_coordinates():
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, harmonics = SMALL.basis.values(points), SMALL.harmonics(points)
    signs, rotations = iter(SMALL.reflections.double()), iter(SMALL.view_rotations.double())
    for mirror in torch.cartesian_prod(*3 * [torch.tensor([1.0, -1.0]).double()]):
        turn = mirror * mirror.prod()
        torch.testing.assert_close(SMALL.basis.values(points * mirror), values * next(signs))
        torch.testing.assert_close(SMALL.harmonics(points * turn), harmonics * next(rotations))


def test_errors_do_not_depend_on_rotations_by_180_degrees_or_the_handedness():
    run = training()
    problems, net = run.held_out(3), run.network(torch.Generator().manual_seed(0))
    with torch.no_grad():
        estimate = net(problems.moments)
    errors = distances(SMALL, estimate, problems)
    for signs, turn in zip(SMALL.reflections, SMALL.view_rotations, strict=True):
        alike = replace(estimate, coefficients=estimate.coefficients * signs, log_density=estimate.log_density * turn)
        torch.testing.assert_close(distances(SMALL, alike, problems), errors)


def test_the_other_handedness_has_the_same_moments():
    problems = training().held_out(3)
    inverted = problems.coefficients * SMALL.reflections[-1]
    again = SMALL.moments(inverted, problems.density, problems.shift_px)
    torch.testing.assert_close(again.second, problems.moments.second)
    torch.testing.assert_close(again.first, problems.moments.first)


def test_the_answer_is_the_proposal_of_least_kam_loss():
    run = training(proposals=3)
    problems, net = run.held_out(8), run.network(torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = torch.stack([SMALL.kam_losses(problems.moments, e) for e in net.proposals(problems.moments)])
        chosen = SMALL.kam_losses(problems.moments, net(problems.moments))
    assert len(losses) == 3
    assert len(losses.argmin(0).unique()) > 1
    torch.testing.assert_close(chosen, losses.amin(0))


def provenance(run):
    return Provenance(run.architecture.name, "", asdict(run), {}, 0.0, "cpu", "2026-01-01", None, "0")


@pytest.mark.parametrize("kind", [MomNetTraining, ReferenceMomNetTraining])
def test_every_encoder_learns_and_its_weights_are_read_back(kind, tmp_path):
    own = {"width": 16} if kind is MomNetTraining else {}
    run = kind(setting=replace(SMALL, box=9, radius=2.8), steps=2, batch=8, learning_rate=1e-2, **own)
    trainer = Trainer(run)
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    trainer.run(tmp_path / "checkpoint.safetensors", 2, lambda progress: None, held_out=8)
    moved = [name for name, value in trainer.network.named_parameters() if not torch.equal(before[name], value)]
    assert moved == list(before)
    write_network(tmp_path / "net.safetensors", trainer.network, provenance(run), torch.float32)
    moments = run.held_out(2).moments
    with torch.no_grad():
        found = trainer.network(moments)
        again = load_network(run.architecture, tmp_path / "net.safetensors")(moments)
    assert found.coefficients.shape == (2, len(run.setting.basis))
    torch.testing.assert_close(found.coefficients, again.coefficients)
    torch.testing.assert_close(found.log_density, again.log_density)


def test_pretrained_weights_are_below_the_reported_kam_loss():
    """0.056 on the thesis's family; one hundred problems, far below."""
    from orbitrec.networks.molecules import PLAIN

    run = from_plain(MomNetTraining, load_provenance("momnet-polar").training)
    found = run.validation(load_momnet(), replace(run, proteins=PLAIN).held_out(100, stream=5))
    assert found["kam_loss"] < 0.056
    assert found["shift_error_px"] < 0.15


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="width"):
        training(width=0)
    with pytest.raises(InputError, match="proposals"):
        training(proposals=0)
    with pytest.raises(InputError, match="of the encoder “polar”, not of “structured”"):
        load_network(StructuredEncoder, "momnet-polar")
    with pytest.raises(InputError, match="of the encoder “structured”, not of “polar”"):
        load_momnet("mra-structured-2")
    Trainer(training()).save(tmp_path / "checkpoint.safetensors")
    with pytest.raises(InputError, match="another kind of training"):
        Trainer.resumed(tmp_path / "checkpoint.safetensors", ReferenceMomNetTraining)
    write_tensors(tmp_path / "old.safetensors", KIND, {}, {"encoder": "polar", "training": "{}", "facts": "{}"})
    with pytest.raises(InputError, match="of another version; begin another training run"):
        Trainer.resumed(tmp_path / "old.safetensors", MomNetTraining)
    with pytest.raises(InputError, match="radius"):
        MomNetSetting().grid_for(15, 4.0)

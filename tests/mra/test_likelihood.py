"""The likelihood of MRA as a finite sum: against autograd, the general E-step, and the definition."""

import math

import numpy as np
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.inference.likelihood import Observations, expectation
from orbitrec.inference.template_bank import TemplateBank
from orbitrec.mra.likelihood import MRALikelihood
from orbitrec.mra.model import PeriodicMRA, WindowedMRA, all_shifts, draw_observations
from orbitrec.optim.problem import CompleteInformation, TwiceDifferentiable, em_map

MODELS = [PeriodicMRA(5), PeriodicMRA(6), WindowedMRA(6, 4), WindowedMRA(7, 5), WindowedMRA(5, 1)]
SIGMA = 0.5


def problem(model, known, dtype=torch.float64, count=60, chunk=1 << 14) -> MRALikelihood:
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(model.n, generator=generator, dtype=torch.float64)
    density = torch.rand(model.n, generator=generator, dtype=torch.float64) + 0.1
    density = density / density.sum()
    observations = torch.cat(list(draw_observations(model, signal, density, SIGMA, count, generator)))
    return MRALikelihood(model, observations.to(dtype), SIGMA, density if known else None, chunk)


def parameters(p: MRALikelihood, seed: int = 2) -> torch.Tensor:
    return torch.randn(p.dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=MODELS, ids=str)
def model(request):
    return request.param


@pytest.mark.parametrize("known", [False, True])
def test_value_is_the_definition(model, known):
    p = problem(model, known)
    w = parameters(p)
    signal = w[: model.n]
    density = p.known_density if known else w[model.n :].softmax(0)
    views = all_shifts(signal)[:, : model.length]
    total = 0.0
    for y in p.observations:  # (4.18), one observation and one shift at a time
        terms = [
            float(r) * math.exp(-float((v - y).square().sum()) / (2 * SIGMA**2))
            for r, v in zip(density, views, strict=True)
        ]
        total -= math.log(sum(terms))
    assert p.gradient(w)[0] == pytest.approx(total / p.count, rel=1e-12)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_that_of_autograd(model, known, dtype):
    p = problem(model, known, dtype)
    index = torch.tensor([3, 11, 0, 40])
    for chosen in (None, index):
        w = parameters(p).requires_grad_()
        y = p.observations.double() if chosen is None else p.observations[chosen].double()
        (expected,) = torch.autograd.grad(p.value(w, y).mean(), w)
        value, found = p.gradient(w.detach(), chosen)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        assert value == pytest.approx(float(p.value(w, y).mean()), rel=1e-12)


def test_e_step_is_the_general_one(model):
    p = problem(model, known=False)
    w = parameters(p)
    signal, log_density = p.parameters(w)
    observed = Observations(
        model.coordinates(p.observations)[:, None] / SIGMA,
        torch.ones(p.count, model.templates(signal).shape[-1], dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
    )
    bank = TemplateBank(model.templates(signal) / SIGMA, model.group_density(log_density), model.circle)
    general, _ = expectation(observed, bank)
    value, statistics = p.expectation(w)
    energy = float(p.observations.square().sum()) / (2 * SIGMA**2)
    assert value == pytest.approx((energy - general.log_likelihood) / p.count, rel=1e-12)
    torch.testing.assert_close(statistics[model.n :], general.occupancy.flatten() / p.count, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("known", [False, True])
def test_curvature_is_that_of_the_gradient(model, known):
    p = problem(model, known)
    w, small = parameters(p), 1e-6
    columns = [(p.gradient(w + small * e)[1] - p.gradient(w - small * e)[1]) / (2 * small) for e in torch.eye(len(w))]
    torch.testing.assert_close(p.hessian(w), torch.stack(columns), rtol=1e-5, atol=1e-6)
    terms = torch.stack([p.gradient(w, torch.tensor([j]))[1] for j in range(p.count)])
    torch.testing.assert_close(p.fisher(w), terms.T @ terms / p.count, rtol=1e-10, atol=1e-10)
    index = torch.tensor([5, 2])
    torch.testing.assert_close(p.fisher(w, index), terms[index].T @ terms[index] / 2, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("known", [False, True])
def test_the_em_map_maximises_the_expected_likelihood(model, known):
    p = problem(model, known)
    w = parameters(p)
    _, image = em_map(p, w)
    score = p._scores(w, p.observations)
    weights = score.softmax(1)  # (4.20)

    def expected(candidate: torch.Tensor) -> torch.Tensor:
        return (weights * p._scores(candidate, p.observations)).sum()  # (4.19) up to a constant

    image = image.requires_grad_()
    (slope,) = torch.autograd.grad(expected(image), image)
    assert float(slope.norm()) < 1e-9 * p.count


def test_a_fixed_point_of_em_has_no_gradient_and_stays_one_with_inertia():
    p = problem(WindowedMRA(6, 4), known=False, count=300)
    w = p.vector(parameters(p)[:6], torch.full((6,), 1 / 6))
    for _ in range(1200):
        w = em_map(p, w)[1]
    assert float(p.gradient(w)[1].norm()) < 1e-8
    _, statistics = p.expectation(w)
    torch.testing.assert_close(p.maximisation(statistics, w, inertia=0.3), w, rtol=1e-7, atol=1e-7)


def test_the_information_turns_the_residual_into_the_gradient_near_a_fixed_point():
    p = problem(WindowedMRA(6, 4), known=False, count=300)
    w = p.vector(parameters(p)[:6], torch.full((6,), 1 / 6))
    for _ in range(60):
        w = em_map(p, w)[1]
    residual = w - em_map(p, w)[1]
    gradient = p.gradient(w)[1]
    assert 1e-7 < float(gradient.norm()) < 0.1
    torch.testing.assert_close(p.information(w) @ residual, gradient, rtol=0.05, atol=0.05 * float(gradient.norm()))


def test_small_batches_send_no_logit_to_infinity():
    p = problem(WindowedMRA(7, 5), known=False)
    w = p.vector(parameters(p)[:7] * 3, torch.full((7,), 1 / 7))
    for j in range(p.count):
        w = em_map(p, w, torch.tensor([j]))[1]
        assert bool(w.isfinite().all())
        assert float(w[7:].min()) > -60
    assert bool(em_map(p, w)[1].isfinite().all())


def test_what_no_batch_saw_stays():
    p = problem(WindowedMRA(6, 2), known=False)
    w = p.vector(parameters(p)[:6], torch.full((6,), 1 / 6))
    statistics = torch.zeros(12, dtype=torch.float64)
    statistics[6] = 1.0  # all observations at shift 0: samples 2 to 5 are not in any window
    found = p.maximisation(statistics, w)
    torch.testing.assert_close(found[2:6], w[2:6], rtol=0, atol=0)


def test_chunks_and_memory_maps_change_nothing(tmp_path):
    p = problem(WindowedMRA(7, 5), known=False)
    w = parameters(p)
    np.save(tmp_path / "y.npy", p.observations.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "y.npy", mmap_mode="c"))
    for observations, chunk in ((p.observations, 7), (mapped, 13)):
        other = MRALikelihood(p.model, observations, SIGMA, chunk=chunk)
        for found, expected in (
            (other.gradient(w), p.gradient(w)),
            (other.expectation(w, torch.tensor([1, 5, 3])), p.expectation(w, torch.tensor([1, 5, 3]))),
        ):
            assert found[0] == pytest.approx(expected[0], rel=1e-13)
            torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(other.hessian(w), p.hessian(w), rtol=1e-12, atol=1e-12)


def test_it_keeps_its_promises():
    p = problem(WindowedMRA(6, 4), known=False)
    assert isinstance(p, CompleteInformation)
    assert isinstance(p, TwiceDifferentiable)
    assert (p.count, p.dimension) == (60, 12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigma": 0.0}, "noise level"),
        ({"observations": torch.zeros(3, 5, dtype=torch.float64)}, "5 samples and the model 4"),
        ({"known_density": torch.tensor([1.0, 0, 0, 0, 0, 0])}, "positive probabilities"),
    ],
)
def test_bad_input_is_refused(change, words):
    good = {"model": WindowedMRA(6, 4), "observations": torch.zeros(3, 4, dtype=torch.float64), "sigma": 1.0}
    with pytest.raises(InputError, match=words):
        MRALikelihood(**(good | change))

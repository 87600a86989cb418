import numpy as np
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.grids import frequencies
from orbitrec.inference.likelihood import Observations, expectation, scores
from orbitrec.inference.template_bank import TemplateBank
from orbitrec.moments.analytic import full_moments
from orbitrec.mra.model import PeriodicMRA, WindowedMRA, all_shifts, draw_observations, shifted

MODELS = [PeriodicMRA(9), PeriodicMRA(12), WindowedMRA(9, 6), WindowedMRA(12, 7), WindowedMRA(8, 8)]


def problem(n: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(n, generator=generator, dtype=torch.float64)
    return signal.to(dtype), torch.rand(n, generator=generator, dtype=torch.float64).softmax(0).to(dtype)


def bank(model, signal: torch.Tensor, density: torch.Tensor) -> TemplateBank:
    return TemplateBank(model.templates(signal), model.group_density(density).log(), model.circle)


@pytest.mark.parametrize("n", [7, 8])
def test_shifts_are_numpys_rolls(n):
    signal, _ = problem(n)
    expected = np.stack([np.roll(signal.numpy(), s) for s in range(n)])
    np.testing.assert_array_equal(all_shifts(signal).numpy(), expected)
    np.testing.assert_array_equal(shifted(signal.expand(n, n), torch.arange(n)).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [7, 8])
def test_a_shift_is_the_phase_of_the_convention(n, dtype):
    signal, _ = problem(n, dtype=dtype)
    k = frequencies(n, dtype)
    still, moved = (PeriodicMRA(n).coordinates(x).squeeze(-1) for x in (signal, torch.roll(signal, 3)))
    torch.testing.assert_close(moved, torch.exp(-3j * k) * still)
    direct = torch.exp(-1j * k[:, None] * (torch.arange(n) - n // 2)) @ signal.to(still.dtype) / n**0.5
    torch.testing.assert_close(still, direct)


@pytest.mark.parametrize("model", MODELS)
def test_templates_turned_by_the_angles_are_the_transforms_of_the_views(model):
    signal, _ = problem(model.n)
    circle = model.circle
    rotated = (
        model.templates(signal)[:, None] * torch.exp(-1j * circle.in_plane_angles[:, None] * circle.modes)[..., None]
    )
    expected = model.coordinates(torch.stack([torch.roll(signal, s)[: model.length] for s in range(model.n)]))
    torch.testing.assert_close(rotated.flatten(0, 1), expected)


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_the_gaussian_log_densities(model):
    signal, density = problem(model.n)
    observed = torch.randn(5, model.length, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch = Observations(
        model.coordinates(observed)[:, None], torch.ones(5, model.templates(signal).shape[-1]).double(), torch.zeros(1)
    )
    found = scores(batch, bank(model, signal, density)).flatten(1)
    squares = (observed[:, None] - model.views(signal)).square().sum(-1)
    expected = -(squares - observed.square().sum(-1)[:, None]) / 2 + density.log()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("model", MODELS)
def test_em_statistics_are_sums_over_turned_back_observations(model):
    signal, density = problem(model.n)
    observed = torch.randn(6, model.length, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    batch = Observations(
        model.coordinates(observed)[:, None], torch.ones(6, model.templates(signal).shape[-1]).double(), torch.zeros(1)
    )
    found, _ = expectation(batch, bank(model, signal, density))
    joint = density.log() - (observed[:, None] - model.views(signal)).square().sum(-1) / 2
    torch.testing.assert_close(found.occupancy.flatten(), joint.softmax(1).sum(0))
    if isinstance(model, PeriodicMRA):
        back = torch.stack([torch.roll(observed, -s, dims=1) for s in range(model.n)], dim=1)
        expected = model.coordinates((joint.softmax(1)[..., None] * back).sum((0, 1)))[None]
    else:
        expected = model.coordinates(joint.softmax(1).mT @ observed)
    torch.testing.assert_close(found.first, expected)


@pytest.mark.parametrize("model", MODELS)
def test_moments_are_the_expectation_over_all_shifts(model):
    signal, density = problem(model.n)
    views = model.coordinates(model.views(signal)).flatten(1)
    found = full_moments(model.templates(signal), model.group_density(density), model.circle)
    weights = density.to(views.dtype)
    torch.testing.assert_close(found.first[0], weights @ views)
    torch.testing.assert_close(found.second[0], torch.einsum("s,si,sj->ij", weights, views, views.conj()))


@pytest.mark.parametrize("model", MODELS)
def test_moments_of_a_batch_are_the_moments_of_each(model):
    signals, densities = (
        torch.stack(column) for column in zip(*(problem(model.n, seed) for seed in (1, 2, 3)), strict=True)
    )
    batch = full_moments(model.templates(signals), model.group_density(densities), model.circle)
    for i in range(3):
        one = full_moments(model.templates(signals[i]), model.group_density(densities[i]), model.circle)
        torch.testing.assert_close(batch.second[i], one.second)
        torch.testing.assert_close(batch.first[i], one.first)
        torch.testing.assert_close(batch.second_norm()[i], one.second_norm())


@pytest.mark.parametrize("model", [PeriodicMRA(8), WindowedMRA(8, 5)])
def test_observations_have_the_means_and_the_noise_of_the_model(model):
    signal, density = problem(8)
    sigma, count = 0.7, 40_000
    batches = list(
        draw_observations(model, signal, density, sigma, count, torch.Generator().manual_seed(4), chunk=9000)
    )
    assert [len(batch) for batch in batches] == [9000, 9000, 9000, 9000, 4000]
    data = torch.cat(batches)
    views = model.views(signal)
    mean = density @ views
    variance = density @ (views - mean).square() + sigma**2
    assert ((data.mean(0) - mean).abs() < 5 * (variance / count).sqrt()).all()
    fourth = (data - mean).square().var(0)
    assert ((data.var(0) - variance).abs() < 5 * (fourth / count).sqrt()).all()


def test_without_noise_every_observation_is_a_view():
    model = WindowedMRA(8, 5)
    signal, density = problem(8, dtype=torch.float32)
    data = torch.cat(list(draw_observations(model, signal, density, 0.0, 200, torch.Generator().manual_seed(5))))
    assert data.dtype == torch.float32
    assert (data[:, None] - model.views(signal)).abs().amax(-1).amin(1).max() == 0


def test_bad_input_is_named():
    signal, density = problem(8)
    with pytest.raises(InputError, match="window of 9"):
        WindowedMRA(8, 9)
    with pytest.raises(InputError, match="negative"):
        next(draw_observations(PeriodicMRA(8), signal, density, -1.0, 5, torch.Generator()))
    with pytest.raises(InputError, match="sum to 1"):
        next(draw_observations(PeriodicMRA(8), signal, 2 * density, 1.0, 5, torch.Generator()))

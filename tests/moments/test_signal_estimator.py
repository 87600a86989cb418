import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.moments.analytic import full_moments
from orbitrec.moments.estimator import SignalMomentAccumulator
from orbitrec.mra.model import PeriodicMRA, WindowedMRA, draw_observations

SIGMA = 0.8


def problem(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, generator=generator).double(), torch.rand(n, generator=generator).double().softmax(0)


def observations(model, count: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> torch.Tensor:
    signal, density = problem(model.n)
    draw = draw_observations(
        model, signal.to(dtype), density.to(dtype), SIGMA, count, torch.Generator().manual_seed(seed)
    )
    return torch.cat(list(draw))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", [PeriodicMRA(7), PeriodicMRA(8), WindowedMRA(8, 5)])
def test_debiased_moments_are_unbiased(model, dtype):
    count, groups = 500, 100
    data = observations(model, count * groups, dtype)
    signal, density = problem(model.n)
    truth = full_moments(model.templates(signal), model.group_density(density), model.circle)
    draws = [SignalMomentAccumulator.of([part]).estimate(SIGMA) for part in data.split(count)]
    for name in ("first", "second"):
        values = torch.view_as_real(torch.stack([getattr(draw, name) for draw in draws]))
        away = values.mean(0) - torch.view_as_real(getattr(truth, name))
        standard_error = values.std(0) / groups**0.5
        assert (away.abs() <= 5 * standard_error + 1e-12).all()
        assert away.abs().max() < 0.1  # the standard errors are small enough to find a bias of a tenth


def test_moments_are_the_sums_of_the_transforms_outer_products():
    model = PeriodicMRA(8)
    data = observations(model, 30)
    y = model.coordinates(data).squeeze(-1)
    found = SignalMomentAccumulator.of([data]).estimate(SIGMA)
    expected = torch.einsum("ji,jk->ik", y, y.conj()) / 30 - SIGMA**2 * torch.eye(8)
    torch.testing.assert_close(found.second[0], expected)
    torch.testing.assert_close(found.first[0], y.mean(0))


def test_parts_merge_to_one_pass():
    data = observations(PeriodicMRA(7), 1000)
    whole = SignalMomentAccumulator.of([data])
    merged = SignalMomentAccumulator.of(data[:300].split(70)).merge(SignalMomentAccumulator.of([data[300:]]))
    assert merged.count == whole.count == 1000
    torch.testing.assert_close(merged.second, whole.second)
    torch.testing.assert_close(merged.first, whole.first)


def test_single_precision_batches_are_summed_in_double():
    data = 1e3 + torch.randn(50_000, 3, generator=torch.Generator().manual_seed(3))
    found = SignalMomentAccumulator.of(data.split(1000)).second
    torch.testing.assert_close(found, data.double().mT @ data.double(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("model", [PeriodicMRA(15), WindowedMRA(15, 10)])
def test_sigma_is_found_where_the_signal_leaves_dimensions_free(model):
    x = torch.arange(15).double()
    signal = 1 + (2 * torch.pi * x / 15).cos() + (4 * torch.pi * x / 15).sin()  # five of the n dimensions
    density, count = torch.rand(15, generator=torch.Generator().manual_seed(4)).double().softmax(0), 20_000
    data = torch.cat(list(draw_observations(model, signal, density, SIGMA, count, torch.Generator().manual_seed(5))))
    found = SignalMomentAccumulator.of([data]).sigma()
    free = model.length - 5
    assert abs(found**2 / SIGMA**2 - 1) < 5 * (2 / (count * free)) ** 0.5 + 5 * free / count


def test_sigma_is_at_most_too_large_where_the_signal_fills_every_dimension():
    found = SignalMomentAccumulator.of([observations(PeriodicMRA(8), 20_000)]).sigma()
    assert found > 0.95 * SIGMA


def test_bad_input_is_named():
    with pytest.raises(InputError, match="no observations"):
        SignalMomentAccumulator.of([])
    with pytest.raises(InputError, match="no observations"):
        SignalMomentAccumulator.empty(5).estimate(1.0)
    with pytest.raises(InputError, match="negative"):
        SignalMomentAccumulator.of([torch.ones(3, 5)]).estimate(-1.0)
    with pytest.raises(InputError, match="too few to estimate the noise level"):
        SignalMomentAccumulator.of([torch.ones(3, 5)]).sigma()
    with pytest.raises(InputError, match="cannot be merged"):
        SignalMomentAccumulator.empty(5).merge(SignalMomentAccumulator.empty(6))

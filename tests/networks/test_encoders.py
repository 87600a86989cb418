"""Encoders: equivariance, scale, consistency with the moments, and clear errors."""

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.moments.losses import orbit_error, relative_errors
from orbitrec.mra.families import default_law
from orbitrec.mra.model import PeriodicMRA
from orbitrec.mra.problem import model_moments
from orbitrec.networks.encoders import StructuredEncoder
from orbitrec.thesis.encoders import ThesisEncoder

N = 21
ENCODERS = (StructuredEncoder, ThesisEncoder)


def randomised(kind, n=N, seed=0):
    """An encoder whose every weight is random, so that the learnt part is at work."""
    generator = torch.Generator().manual_seed(seed)
    encoder = kind(n).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return encoder


def pairs(count=6, n=N, seed=1):
    return default_law(2).pairs(count, n, torch.Generator().manual_seed(seed))


def noise(b, sigma, count):
    return torch.full((b,), sigma, dtype=torch.float64), torch.full((b,), count, dtype=torch.float64)


@pytest.mark.parametrize("n", [21, 20])
def test_structured_is_equivariant(n):
    """All observations shifted by s samples: the same signal, the density shifted by s."""
    signal, density = pairs(n=n)
    encoder, model = randomised(StructuredEncoder, n), PeriodicMRA(n)
    still = encoder(model_moments(model, signal, density), *noise(6, 1.0, 1e4))
    moved = encoder(model_moments(model, signal.roll(3, dims=1), density), *noise(6, 1.0, 1e4))
    torch.testing.assert_close(moved[0], still[0].roll(3, dims=1))
    torch.testing.assert_close(moved[1], still[1])


def test_structured_outputs_explain_exact_moments_together():
    signal, density = pairs()
    model = PeriodicMRA(N)
    moments = model_moments(model, signal, density)
    found_density, found_signal = StructuredEncoder(N).double()(moments, *noise(6, 0.0, torch.inf))
    assert max(e.max() for e in relative_errors(moments, model_moments(model, found_signal, found_density))) < 1e-3
    assert orbit_error(found_signal, signal).max() < 1e-3


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_signal_scales_with_the_data(kind):
    signal, density = pairs()
    model, encoder = PeriodicMRA(N), randomised(kind)
    one = encoder(model_moments(model, signal, density), *noise(6, 0.5, 1e5))
    ten = encoder(model_moments(model, 10 * signal, density), *noise(6, 5.0, 1e5))
    torch.testing.assert_close(ten[0], one[0])
    torch.testing.assert_close(ten[1], 10 * one[1])


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_is_in_the_parameters_precision_and_reaches_every_parameter(kind, dtype):
    signal, density = pairs()
    encoder = randomised(kind).to(dtype)
    found = encoder(model_moments(PeriodicMRA(N), signal, density), *noise(6, 1.0, 1e4))
    assert {x.dtype for x in found} == {dtype}
    (orbit_error(found[0], density.to(dtype)) + orbit_error(found[1], signal.to(dtype))).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in encoder.parameters())


@pytest.mark.parametrize("kind", ENCODERS)
def test_another_length_is_refused(kind):
    signal, density = pairs(n=24)
    with pytest.raises(InputError, match="21 samples, the moments are of 24"):
        kind(N)(model_moments(PeriodicMRA(24), signal, density), *noise(6, 0.0, torch.inf))


def test_thesis_encoder_is_periodic_in_frequency_up_to_its_full_layers():
    """Convolutions over the n frequencies wrap around: rolling the fields rolls what they make of them."""
    encoder = randomised(ThesisEncoder)
    field = torch.randn(2, 2, N, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    branch = encoder.density.first
    torch.testing.assert_close(branch(field.roll(5, dims=2)), branch(field).roll(5, dims=2))


@pytest.mark.parametrize("kind", ENCODERS)
def test_mixed_precision_stays_close(kind):
    """Under autocast to bfloat16, as training does it on an accelerator; here on the CPU."""
    signal, density = pairs()
    encoder = randomised(kind).float()
    moments = model_moments(PeriodicMRA(N), signal, density)
    single = encoder(moments, *noise(6, 1.0, 1e4))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(moments, *noise(6, 1.0, 1e4))
    for a, b in zip(single, mixed, strict=True):
        assert 0 < (a - b).norm() < 0.05 * a.norm()

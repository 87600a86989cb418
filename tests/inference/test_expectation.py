import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from orbitrec.inference.likelihood import (
    Observations,
    Statistics,
    Sums,
    expectation,
)
from orbitrec.inference.significance import significant_samples
from orbitrec.inference.template_bank import TemplateBank
from orbitrec.models.base import Circle

B, S, D, M, K, A = 7, 3, 6, 4, 5, 8
CIRCLE = Circle(torch.arange(M), A)
MODES = torch.arange(M, dtype=torch.float64)
ALPHA = CIRCLE.in_plane_angles


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(dtype: torch.dtype = torch.float64, shifts: int = S) -> tuple[Observations, Tensor, Tensor]:
    """Observations, templates and a normalised log density, drawn so that posteriors are neither flat nor sharp."""
    generator, wide = seeded(4), torch.complex128
    templates = 0.6 * torch.randn(D, M, K, generator=generator, dtype=wide)
    modes = templates[torch.arange(B) % D][:, None] + torch.randn(B, shifts, M, K, generator=generator, dtype=wide)
    power = 0.5 + torch.rand(B, K, generator=generator, dtype=torch.float64)
    log_shift = torch.randn(shifts, generator=generator, dtype=torch.float64).log_softmax(0)
    log_density = torch.randn(D, A, generator=generator, dtype=torch.float64)
    log_density -= log_density.logsumexp((0, 1))
    observed = Observations(modes.to(dtype.to_complex()), power.to(dtype), log_shift.to(dtype))
    return observed, templates.to(dtype.to_complex()), log_density.to(dtype)


def shuffled_candidates() -> Tensor:
    return torch.stack([torch.randperm(D, generator=seeded(10 + j)) for j in range(B)])


def assert_same_statistics(a: Statistics, b: Statistics, **tolerance: float) -> None:
    for field in fields(Statistics):
        x, y = (torch.as_tensor(getattr(part, field.name)) for part in (a, b))
        assert x.shape == y.shape
        assert torch.allclose(x, y, **tolerance), field.name


def test_equals_a_loop_over_shifts_directions_and_angles():
    observed, templates, log_density = problem()
    found, assigned = expectation(observed, TemplateBank(templates, log_density, CIRCLE), counted=True)
    first, second = torch.zeros(D, M, K, dtype=torch.complex128), torch.zeros(D, K, dtype=torch.float64)
    occupancy, log_likelihood = torch.zeros(D, A, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
    for j in range(B):
        score = torch.zeros(S, D, A, dtype=torch.float64)
        for s in range(S):
            for d in range(D):
                for a in range(A):
                    # The template rotated by α against the observation moved back by the shift, term by term.
                    alpha = 2 * math.pi * a / A
                    rotated = templates[d] * torch.exp(-1j * alpha * MODES)[:, None]
                    overlap = (observed.modes[j, s] * rotated.conj()).real.sum()
                    energy = (observed.ctf2_over_noise[j] * rotated.abs().square()).sum()
                    score[s, d, a] = overlap - energy / 2 + log_density[d, a] + observed.log_shift[s]
        log_likelihood[j] = score.logsumexp((0, 1, 2))
        p = (score - log_likelihood[j]).exp()
        for s in range(S):
            for d in range(D):
                for a in range(A):
                    back = torch.exp(1j * MODES * 2 * math.pi * a / A)[:, None]
                    first[d] += p[s, d, a] * observed.modes[j, s] * back
                    second[d] += p[s, d, a] * observed.ctf2_over_noise[j]
        occupancy += p.sum(0)
        assert torch.allclose(assigned.direction[j], p.sum((0, 2)), atol=1e-13)
        assert torch.allclose(assigned.shift[j], p.sum((1, 2)), atol=1e-13)
        assert assigned.best[j].tolist() == [int(i) for i in torch.unravel_index(p.argmax(), p.shape)]
        assert float(assigned.max_probability[j]) == pytest.approx(float(p.max()), rel=1e-12)
        largest = sorted(p.flatten().tolist(), reverse=True)
        assert int(assigned.significant[j]) == next(n for n in range(1, p.numel() + 1) if sum(largest[:n]) > 0.999)
    assert torch.allclose(assigned.log_likelihood, log_likelihood, rtol=1e-12)
    total = Statistics(first, second, occupancy, float(log_likelihood.sum()), float(B))
    assert_same_statistics(found, total, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shifts", [1, S])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_all_directions_as_candidates_change_nothing(dtype, tolerance, shifts):
    observed, templates, log_density = problem(dtype, shifts)
    candidates = shuffled_candidates()
    full, everywhere = expectation(observed, TemplateBank(templates, log_density, CIRCLE))
    narrow, listed = expectation(observed, TemplateBank(templates, log_density, CIRCLE), candidates=candidates)
    assert_same_statistics(narrow, full, rtol=tolerance, atol=tolerance)
    assert torch.allclose(listed.direction, everywhere.direction.gather(1, candidates), atol=tolerance)
    assert torch.allclose(listed.shift, everywhere.shift, atol=tolerance)
    assert torch.allclose(listed.log_likelihood, everywhere.log_likelihood, rtol=tolerance)
    s, c, a = listed.best.unbind(1)
    direction = candidates.gather(1, c[:, None]).squeeze(1)
    assert torch.equal(torch.stack([s, direction, a], dim=1), everywhere.best)


def test_other_directions_than_the_candidates_have_no_mass():
    observed, templates, log_density = problem()
    candidates = shuffled_candidates()[:, :2]
    narrow, assigned = expectation(observed, TemplateBank(templates, log_density, CIRCLE), candidates=candidates)
    parts = []
    for j, own in enumerate(candidates):
        barred = torch.full_like(log_density, -math.inf)
        barred[own] = log_density[own]
        one = Observations(observed.modes[j : j + 1], observed.ctf2_over_noise[j : j + 1], observed.log_shift)
        part, _ = expectation(one, TemplateBank(templates, barred, CIRCLE))
        parts.append(part)
        assert math.isclose(part.log_likelihood, float(assigned.log_likelihood[j]), rel_tol=1e-12)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert_same_statistics(narrow, merged, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("narrowed", [False, True])
def test_chunks_change_only_the_rounding(narrowed):
    observed, templates, log_density = problem()
    options = {"candidates": shuffled_candidates()} if narrowed else {}
    bank = TemplateBank(templates, log_density, CIRCLE)
    whole, at_once = expectation(observed, bank, **options)
    item = S * D * A * 8
    for chunk_bytes in (1, 2 * item, 3 * item + 1):  # one, two and three observations at a time: 7 is none's multiple
        parts, apart = expectation(
            observed, TemplateBank(templates, log_density, CIRCLE), chunk_bytes=chunk_bytes, **options
        )
        assert_same_statistics(parts, whole, rtol=1e-12, atol=1e-12)
        assert torch.equal(apart.best, at_once.best)
        assert torch.allclose(apart.direction, at_once.direction, atol=1e-13)
        assert torch.allclose(apart.log_likelihood, at_once.log_likelihood, rtol=1e-13)


def test_posteriors_and_occupancy_add_up():
    observed, templates, log_density = problem()
    for candidates in (None, shuffled_candidates()[:, :4]):
        found, assigned = expectation(observed, TemplateBank(templates, log_density, CIRCLE), candidates=candidates)
        ones = torch.ones(B, dtype=torch.float64)
        assert torch.allclose(assigned.direction.sum(1), ones)
        assert torch.allclose(assigned.shift.sum(1), ones)
        assert bool((assigned.direction >= 0).all())
        assert found.count == B
        assert float(found.occupancy.sum()) == pytest.approx(B)
        assert torch.allclose(found.second.sum(0), observed.ctf2_over_noise.sum(0))


def test_merging_parts_is_seeing_both_and_scaling_multiplies():
    observed, templates, log_density = problem()
    whole, _ = expectation(observed, TemplateBank(templates, log_density, CIRCLE))
    parts = [expectation(part, TemplateBank(templates, log_density, CIRCLE))[0] for part in observed.chunks(4)]
    assert len(parts) == 2
    assert_same_statistics(parts[0].merge(parts[1]), whole, rtol=1e-12, atol=1e-12)
    half = parts[0].scaled(0.5)
    assert_same_statistics(half.merge(half), parts[0], rtol=1e-12, atol=1e-12)
    assert half.count == 2


def test_statistics_of_several_parts_are_added():
    observed, templates, log_density = problem()
    bank = TemplateBank(templates, log_density, CIRCLE)
    whole, _ = expectation(observed, bank)

    def add(sums: Sums, part: Observations) -> None:
        sums.add(part, None)

    found = Sums.of_parts(bank, list(observed.chunks(3)), add).statistics()
    assert_same_statistics(found, whole, rtol=1e-12, atol=1e-12)


def test_the_statistics_are_the_likelihoods_gradient():
    # Fisher's identity: ∇_T Σ_j log p(y_j) = first − second·T, and ∂/∂ log ρ gives the occupancy.
    observed, templates, log_density = problem()
    templates.requires_grad_()
    log_density.requires_grad_()
    linear = torch.einsum("bsmk,dmk,ma->bsda", observed.modes, templates.conj(), torch.exp(1j * MODES[:, None] * ALPHA))
    energy = torch.einsum("bk,dmk->bd", observed.ctf2_over_noise, templates.abs().square())
    score = linear.real - energy[:, None, :, None] / 2 + log_density + observed.log_shift[:, None, None]
    score.flatten(1).logsumexp(1).sum().backward()
    found, _ = expectation(observed, TemplateBank(templates.detach(), log_density.detach(), CIRCLE))
    assert torch.allclose(templates.grad, found.first - found.second[:, None] * templates.detach(), atol=1e-12)
    assert torch.allclose(log_density.grad, found.occupancy, atol=1e-12)


@pytest.mark.parametrize(("dtype", "count"), [(torch.float32, 1), (torch.float32, 500), (torch.float64, 501)])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_significant_samples_are_the_fewest_that_hold_the_share(dtype, count, share):
    """Of flat, peaked and random posteriors together; of equal ones, just more than the share of them."""
    spread = torch.tensor([0.0, 1.0, 3.0, 20.0]).double()
    logits = spread[:, None] * torch.randn(4, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = logits.softmax(1)
    found = significant_samples(p.to(dtype), share)
    assert int(found[0]) == min(count, math.floor(count * share + 1e-9) + 1)
    for row, number in zip(p[1:], found[1:].tolist(), strict=True):
        largest = row.sort(descending=True).values
        assert float(largest[:number].sum()) > share - 1e-6  # float32 rounds the sum
        assert float(largest[: number - 1].sum()) <= share + 1e-6


def test_samples_are_counted_when_asked_for():
    observed, templates, log_density = problem()
    bank = TemplateBank(templates, log_density, CIRCLE)
    assert bool((expectation(observed, bank)[1].significant == 0).all())
    whole, parts = (expectation(observed, bank, counted=True, chunk_bytes=size)[1] for size in (None, 1))
    assert torch.equal(whole.significant, parts.significant)
    assert bool((whole.significant >= 1).all())


def with_odds(observed: Observations, odds: Tensor) -> Observations:
    return Observations(observed.modes, observed.ctf2_over_noise, observed.log_shift, odds)


def test_outliers_have_the_weight_of_a_mixture():
    """Every observation by itself: its sums times p/(p + o), and log(p + o) of the mixture."""
    observed, templates, log_density = problem()
    bank = TemplateBank(templates, log_density, CIRCLE)
    _, alone = expectation(observed, bank)
    odds = alone.log_likelihood + torch.linspace(-3, 3, B, dtype=torch.float64)
    found, assigned = expectation(with_odds(observed, odds), bank)
    weight = alone.log_likelihood.exp() / (alone.log_likelihood.exp() + odds.exp())
    assert torch.allclose(assigned.inlier, weight)
    assert torch.allclose(assigned.direction, alone.direction)
    parts = [expectation(part, bank)[0] for part in observed.chunks(1)]
    for name in ("first", "second", "occupancy"):
        wanted = sum(w * getattr(part, name) for w, part in zip(weight, parts, strict=True))
        assert torch.allclose(getattr(found, name), wanted)
    total = (alone.log_likelihood.exp() + odds.exp()).log().sum()
    assert found.log_likelihood == pytest.approx(float(total), rel=1e-12)


def test_certain_outliers_are_as_if_they_were_not_there():
    observed, templates, log_density = problem()
    bank = TemplateBank(templates, log_density, CIRCLE)
    odds = torch.full((B,), -math.inf, dtype=torch.float64)
    odds[2:4] = math.inf
    found, assigned = expectation(with_odds(observed, odds), bank)
    kept = torch.tensor([0, 1, 4, 5, 6])
    rest = Observations(observed.modes[kept], observed.ctf2_over_noise[kept], observed.log_shift)
    wanted, _ = expectation(rest, bank)
    wanted.count = float(B)  # they are still observations
    assert_same_statistics(found, wanted, rtol=1e-12)
    assert assigned.inlier.tolist() == [1, 1, 0, 0, 1, 1, 1]

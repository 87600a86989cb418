"""The bank's folding and what it leaves out, against sums written out."""

import math

import pytest
import torch

from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.likelihood import Observations, expectation, scores
from orbitrec.inference.template_bank import Fold, TemplateBank
from orbitrec.models.base import Circle, reached
from orbitrec.models.cryoem import polar_circle

B, S = 5, 2
GRID = PolarGrid.for_radius(24, 0.9, 7.0)
MIRROR = (1 - 2 * (torch.arange(GRID.max_mode + 1) % 2))[:, None]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(angles: int, dtype: torch.dtype) -> tuple[Observations, torch.Tensor, torch.Tensor, Circle]:
    generator = seeded(1)
    half = torch.randn(6, GRID.max_mode + 1, GRID.node_count, generator=generator, dtype=torch.complex128)
    templates = torch.cat([half, MIRROR * half.conj()]).to(dtype.to_complex())
    modes = torch.randn(B, S, *half.shape[1:], generator=generator, dtype=torch.complex128).to(dtype.to_complex())
    power = torch.rand(B, GRID.node_count, generator=generator, dtype=torch.float64).to(dtype)
    log_shift = torch.tensor([0.3, 0.7], dtype=dtype).log()
    log_density = torch.randn(len(templates), angles, generator=generator, dtype=torch.float64).to(dtype)
    return Observations(modes, power, log_shift), templates, log_density, polar_circle(GRID, angles)


def written_out(
    observed: Observations, templates: torch.Tensor, log_density: torch.Tensor, circle: Circle
) -> torch.Tensor:
    phase = torch.exp(1j * circle.modes[:, None] * circle.in_plane_angles).to(templates.dtype)
    linear = torch.einsum("bsmk,dmk,ma->bsda", observed.modes, templates.conj(), phase).real
    energy = torch.einsum("bk,dmk->bd", observed.ctf2_over_noise, templates.abs().square())
    return linear - energy[:, None, :, None] / 2 + log_density + observed.log_shift[:, None, None]


@pytest.mark.parametrize("angles", [1, 2, 3, 7, 8, 25, 40])  # 13 modes: most of these alias
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_scores_are_the_sum_over_modes_and_nodes(angles, dtype, tolerance):
    observed, templates, log_density, circle = problem(angles, dtype)
    assert circle.modes[-1] * 2 > 25
    expected = written_out(observed, templates, log_density, circle)
    scale = float(expected.abs().max())
    found = scores(observed, TemplateBank(templates, log_density, circle))
    assert float((found - expected).abs().max()) < tolerance * scale
    flat = log_density[:, :1].expand_as(log_density).contiguous()
    found = scores(observed, TemplateBank(templates, flat, circle))
    assert float((found - written_out(observed, templates, flat, circle)).abs().max()) < tolerance * scale


@pytest.mark.parametrize("narrowed", [False, True])
@pytest.mark.parametrize("angles", [1, 2, 8, 40])
def test_statistics_are_sums_over_the_coordinates_that_templates_reach(angles, narrowed):
    observed, templates, log_density, circle = problem(angles, torch.float64)
    kept = torch.ones(templates.shape[1:], dtype=torch.bool)
    kept[6:, : GRID.node_count // 2] = False
    templates = templates * kept
    own = torch.stack([torch.randperm(len(templates), generator=seeded(j))[:4] for j in range(B)]) if narrowed else None
    plain, assigned = expectation(observed, TemplateBank(templates, log_density, circle), candidates=own)
    bank = TemplateBank(templates, log_density, circle, Fold.of(circle, kept, torch.float64))
    found, same = expectation(observed, bank, candidates=own)
    for name in ("second", "occupancy"):
        assert torch.allclose(getattr(found, name), getattr(plain, name), rtol=1e-10, atol=1e-10)
    assert torch.equal(same.best, assigned.best)
    p = written_out(observed, templates, log_density, circle)
    if own is not None:
        barred = torch.full((B, len(templates)), -math.inf, dtype=torch.float64).scatter(1, own, 0.0)
        p = p + barred[:, None, :, None]
    p = p.flatten(1).softmax(1).reshape(p.shape)
    phase = torch.exp(1j * circle.modes[:, None] * circle.in_plane_angles)
    expected = torch.einsum("bsda,ma,bsmk->dmk", p.to(torch.complex128), phase, observed.modes)
    assert torch.allclose(plain.first, expected, rtol=1e-9, atol=1e-9)
    assert torch.allclose(found.first, expected * kept, rtol=1e-9, atol=1e-9)


def test_coordinates_that_no_template_reaches_are_left_out_of_the_products():
    observed, templates, log_density, circle = problem(40, torch.float64)
    power = templates.abs().square().mean(0)
    power[6:, : GRID.node_count // 2] *= 1e-32
    kept = reached(power)
    assert torch.equal(~kept, power < 1e-25)
    whole = TemplateBank(templates, log_density, circle)
    bank = TemplateBank(templates * kept, log_density, circle, Fold.of(circle, kept, torch.float64))
    assert bank.fold.real.sum() == kept.sum() < 0.8 * whole.fold.real.sum()
    expected = written_out(observed, templates * kept, log_density, circle)
    assert torch.allclose(scores(observed, bank), expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("angles", [1, 2, 5, 12, 31])
def test_folding_is_undone(angles):
    modes = torch.randn(3, 9, 4, generator=seeded(4), dtype=torch.complex128)
    circle = Circle(torch.arange(9) - 4, angles)
    fold = Fold.of(circle, torch.ones(9, 4, dtype=torch.bool), torch.float64)
    assert len(fold.index) == angles // 2 + 1
    rows = fold.rows(modes)
    assert torch.equal(fold.unfolded(rows[:, :, 0], (9, 4)), modes)
    if angles > 2:  # the second rows are i times the first, of which some are conjugated
        again = fold.unfolded(rows[:, :, 1], (9, 4))
        residue = circle.modes % angles
        sign = torch.where(residue > angles - residue, -1, 1)[:, None]
        assert torch.equal(again, 1j * sign * modes)

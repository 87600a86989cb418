import math
from dataclasses import replace

import pytest
import torch

from orbitrec.cryoem.classes.averages import MeasuredClasses
from orbitrec.cryoem.classes.membership import Posterior
from orbitrec.cryoem.classes.ranking import ranked
from orbitrec.evaluation.fsc import FSC

RADIUS, PIXEL_A, COUNT = 20.0, 4.0, 12
NODES = torch.linspace(0.05, 1.2, 24, dtype=torch.float64)


def measured() -> MeasuredClasses:
    """Classes of one molecule: spectra that differ by half, halves that agree to the last frequency but two."""
    generator = torch.Generator().manual_seed(1)
    spectrum = 20 * torch.exp(-NODES / 0.3)
    power = spectrum * torch.exp(0.25 * torch.randn(COUNT, 1, generator=generator, dtype=torch.float64))
    curve = FSC(torch.cat([torch.zeros(1).double(), NODES]), torch.tensor([1.0] * 23 + [0.1, 0.1]).double())
    one = torch.ones(COUNT)
    found = Posterior(torch.eye(COUNT), one, one.double(), torch.zeros(COUNT, 2).double(), one)
    return MeasuredClasses(
        torch.zeros(COUNT, 8, 8), found, torch.arange(60, 60 - COUNT, -1), (curve,) * COUNT, power, NODES,
        8 * one, 0 * one, one.long(), 0 * one,
    )  # fmt: skip


def changed(what: MeasuredClasses, d: int, name: str, value: object) -> MeasuredClasses:
    column = getattr(what, name)
    if isinstance(column, tuple):
        return replace(what, **{name: (*column[:d], value, *column[d + 1 :])})
    column = column.clone()
    column[d] = value
    return replace(what, **{name: column})


def test_classes_of_one_molecule_are_all_good():
    found = ranked(measured(), PIXEL_A, RADIUS)
    assert bool(found.good.all())
    assert found.why == ("",) * COUNT
    assert float(found.score.min()) > 0.5


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("power", 2000 * torch.exp(-((NODES / 0.1) ** 2)), "power"),  # a bright, smooth blob
        ("power", 0.001 * torch.ones(24).double(), "less power"),
        ("likelihood", 0.3, "noise"),
        ("members", 1, "hardly any"),
        ("frc", FSC(torch.cat([torch.zeros(1).double(), NODES]), torch.zeros(25).double()), "do not agree"),
    ],
)
def test_what_is_not_like_the_others_is_not_kept_and_said_why(name, value, why):
    found = ranked(changed(measured(), 5, name, value), PIXEL_A, RADIUS)
    assert found.good.tolist() == [d != 5 for d in range(COUNT)]
    assert why in found.why[5]
    assert float(found.score[5]) < 0.5


def test_resolution_is_that_of_the_curve_and_no_finer_than_the_search():
    what = measured()
    halfway = 2 * math.pi * PIXEL_A / float(NODES[-2])
    assert what.resolutions_A(PIXEL_A)[0] == pytest.approx(halfway, rel=0.03)
    perfect = FSC(what.frc[0].frequency, torch.ones(25).double())
    finest = 2 * math.pi * PIXEL_A / float(NODES[-1])
    assert changed(what, 0, "frc", perfect).resolutions_A(PIXEL_A)[0] == pytest.approx(finest)


def test_classes_are_sorted_with_all_that_belongs_to_them():
    what = changed(changed(measured(), 7, "members", 500), 7, "likelihood", 99.0)
    after = what.sorted()
    assert after.members[0] == 500
    assert after.likelihood[0] == 99
    assert after.found.most_probable[7] == 0
    assert torch.equal(after.power[0], what.power[7])

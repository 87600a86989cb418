"""Records from JSON: what is written is read back, and what does not fit is named."""

import json
import math
from dataclasses import asdict, dataclass

import pytest

from orbitrec.io.files import to_json
from orbitrec.io.plain import from_plain


@dataclass(frozen=True)
class Part:
    size: float
    name: str = "none"


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    span: tuple[float, float]
    by_number: dict[int, float]
    reached: Part | None
    count: int
    flags: list[bool]


WHOLE = Whole((Part(1.5), Part(2.0, "b")), (0.0, 1.0), {3: 4.0}, None, 7, [True, False])


def plain(record) -> dict:
    return json.loads(to_json(asdict(record)))


def test_what_was_written_is_read_back():
    assert from_plain(Whole, plain(WHOLE)) == WHOLE
    one = Whole((), (1.0, 2.0), {}, Part(3.0), 0, [])
    assert from_plain(Whole, plain(one)) == one


def test_whole_numbers_become_floats_and_null_nan():
    assert isinstance(from_plain(Part, {"size": 2}).size, float)
    assert math.isnan(from_plain(Part, plain(Part(math.inf))).size)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 1.5}, "Whole.count cannot be 1.5"),
        ({"count": True}, "Whole.count cannot be True"),
        ({"count": None}, "Whole.count cannot be None"),
        ({"span": [1.0]}, "Whole.span has 1 entries instead of 2"),
        ({"parts": "ab"}, "Whole.parts cannot be 'ab'"),
        ({"parts": [{"size": 1.0, "weight": 2.0}]}, "Whole.parts has no field weight"),
        ({"reached": 3}, "Whole.reached cannot be 3"),
        ({"more": 1}, "Whole has no field more"),
    ],
)
def test_what_does_not_fit_is_named(change, says):
    with pytest.raises(TypeError, match=says):
        from_plain(Whole, plain(WHOLE) | change)


def test_a_missing_field_is_named():
    values = plain(WHOLE)
    del values["span"]
    with pytest.raises(TypeError, match="span"):
        from_plain(Whole, values)

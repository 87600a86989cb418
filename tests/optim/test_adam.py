"""Adam: its first steps in closed form; schedules; a run restored from its state is the run that never stopped."""

import math

import pytest
import torch

from orbitrec.optim.adam import ScheduledAdam, constant, cosine, one_cycle, warm_up_cosine


def parameter(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_steps_under_a_constant_gradient_are_the_rates():
    """Bias-corrected means of a constant gradient g are g and g², so that every step is its rate against g's sign."""
    x, rates = parameter(1.0, -1.0), [0.1, 0.02, 0.3]
    adam = ScheduledAdam([x], rates.__getitem__)
    at = x.detach().clone()
    for rate in rates:
        adam.step(3 * x[0] - 5e-2 * x[1])
        at = at - rate * torch.tensor([1.0, -1.0])
        torch.testing.assert_close(x.detach(), at, rtol=1e-6, atol=0)
    assert adam.steps == 3


def test_two_steps_as_the_paper_has_them():
    x = parameter(0.5)
    adam, at, mean, square = ScheduledAdam([x], constant(0.1)), 0.5, 0.0, 0.0
    for t in (1, 2, 3):
        gradient = 4 * at**3
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        at -= 0.1 * mean / (1 - 0.9**t) / (math.sqrt(square / (1 - 0.999**t)) + 1e-8)
        adam.step((x**4).sum())
        assert float(x.detach()) == pytest.approx(at, rel=1e-12)


@pytest.mark.parametrize("steps", [40, 57])
def test_one_cycle_is_torchs(steps):
    ours, theirs = parameter(1.0, -2.0), parameter(1.0, -2.0)
    adam, other = ScheduledAdam([ours], one_cycle(0.1, steps)), torch.optim.Adam([theirs])
    schedule = torch.optim.lr_scheduler.OneCycleLR(other, 0.1, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        adam.step((ours**4).sum())
        other.zero_grad()
        (theirs**4).sum().backward()
        other.step()
        schedule.step() if schedule.last_epoch < steps - 1 else None
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_schedules():
    falling = [cosine(2.0, 10)(step) for step in range(11)]
    assert falling == pytest.approx([1 + math.cos(math.pi * t / 10) for t in range(11)])
    assert falling[-1] == 0
    rising = [warm_up_cosine(2.0, 10, 4)(step) for step in range(11)]
    assert rising[:3] == pytest.approx([falling[t] * (t + 1) / 4 for t in range(3)])
    assert rising[3:] == falling[3:]


def test_long_gradients_are_shortened():
    """Adam does not see a gradient's scale but sees it change: after a slope of 1, one of 100 moves further."""
    moved = {}
    for largest in (1.0, math.inf):
        x = parameter(0.0)
        adam = ScheduledAdam([x], constant(0.1), largest_norm=largest)
        for slope in (1.0, 100.0):
            adam.step((slope * x).sum())
        moved[largest] = -float(x.detach())
    assert moved[1.0] == pytest.approx(0.2, rel=1e-6)  # both gradients are 1
    mean, square = (0.09 + 10) / (1 - 0.81), (0.000999 + 10) / (1 - 0.999**2)
    assert moved[math.inf] == pytest.approx(0.1 + 0.1 * mean / math.sqrt(square), rel=1e-6)


def test_gradients_may_come_in_parts():
    x, y = parameter(1.0, 2.0), parameter(1.0, 2.0)
    whole, parts = ScheduledAdam([x], constant(0.1)), ScheduledAdam([y], constant(0.1))
    for _ in range(2):
        whole.step((x**4).sum())
        parts.zero_grad()
        for part in y**4:
            part.backward(retain_graph=True)
        parts.step_down()
    torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-14, atol=0)


def test_a_restored_run_goes_on_as_it_would_have():
    def run(adam: ScheduledAdam, x: torch.Tensor, steps: int) -> None:
        for _ in range(steps):
            adam.step(((x - 3) ** 4).sum())

    x = parameter(1.0, -1.0)
    adam = ScheduledAdam([x], cosine(0.1, 20))
    run(adam, x, 8)
    state = {place: {name: value.clone() for name, value in entry.items()} for place, entry in adam.state().items()}
    y = x.detach().clone().requires_grad_()
    other = ScheduledAdam([y], cosine(0.1, 20))
    other.restore(state, 8)
    run(adam, x, 12)
    run(other, y, 12)
    assert torch.equal(x.detach(), y.detach())

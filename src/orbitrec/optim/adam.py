"""Adam on torch parameters with a schedule of learning rates: torch's implementation.

Kingma and Ba 2015, with their β = (0.9, 0.999).
"""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

RateSchedule = Callable[[int], float]
"""The learning rate of each step, from step 0 on."""


def constant(rate: float) -> RateSchedule:
    """The same rate at every step."""
    return lambda step: rate


def cosine(rate: float, steps: int) -> RateSchedule:
    """From ``rate`` to zero after ``steps``, as half a period of a cosine (Loshchilov and Hutter 2017, (5))."""
    return lambda step: rate * (1 + math.cos(math.pi * step / steps)) / 2


def warm_up_cosine(rate: float, steps: int, warm_up: int) -> RateSchedule:
    """:func:`cosine` times a factor that rises linearly to 1 over the first steps.

    Args:
        rate: the learning rate that the cosine begins with.
        steps: after which the rate is zero.
        warm_up: number of steps over which the factor rises.

    Returns:
        The rate of each step.
    """
    return lambda step: cosine(rate * min(1.0, (step + 1) / warm_up), steps)(step)


class ScheduledAdam:
    """Adam with a schedule.

    Args:
        parameters: the variables.
        schedule: the learning rate of each step.
        largest_norm: gradients with a larger norm over all parameters are scaled to this norm before each step.

    Attributes:
        steps: how many have been taken; the argument of the schedule for the next one.
    """

    def __init__(self, parameters: Iterable[Tensor], schedule: RateSchedule, largest_norm: float = math.inf) -> None:
        self._parameters = list(parameters)
        self._adam = torch.optim.Adam(self._parameters)
        self._schedule, self._largest_norm = schedule, largest_norm
        self.steps = 0

    def step(self, loss: Float[Tensor, ""]) -> None:
        """Differentiate the loss and take one step."""
        self.zero_grad()
        loss.backward()
        self.step_down()

    def zero_grad(self) -> None:
        """Set the parameters' gradients to zero, before those of several losses are added up."""
        self._adam.zero_grad()

    def step_down(self) -> None:
        """One step along the gradients that the parameters hold."""
        for group in self._adam.param_groups:
            group["lr"] = self._schedule(self.steps)
        if self._largest_norm < math.inf:
            nn.utils.clip_grad_norm_(self._parameters, self._largest_norm)
        self._adam.step()
        self.steps += 1

    def state(self) -> dict[int, dict[str, Tensor]]:
        """Running means of each parameter by its index: ``step``, ``exp_avg``, ``exp_avg_sq``, as torch names them."""
        return self._adam.state_dict()["state"]

    def restore(self, state: dict[int, dict[str, Tensor]], steps: int) -> None:
        """Go on from what :meth:`state` returned after ``steps`` steps."""
        self._adam.load_state_dict({"state": state, "param_groups": self._adam.state_dict()["param_groups"]})
        self.steps = steps

"""What every network that is kept in a file shares: a name, and how a blank one is made from what the file records."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeVar

from torch import Tensor, nn

N = TypeVar("N", bound="StoredNetwork")


class StoredNetwork(nn.Module, ABC):
    """A network whose weights are written by :func:`orbitrec.networks.pretrained.write_network`.

    Attributes:
        name: what a file of its weights says that they are for.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def blank(cls: type[N], training: Mapping[str, object], weights: Mapping[str, Tensor]) -> N:
        """A network of the architecture that was trained, its weights not loaded yet.

        Args:
            training: the training task's fields, as JSON has them.
            weights: the file's tensors, by name; only their shapes may decide.
        """

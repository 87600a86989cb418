"""MoM-net's encoder for moments on the polar grid: compressed, then full layers."""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orbitrec.io.plain import from_plain
from orbitrec.moments.analytic import Moments
from orbitrec.networks.momnet import MomNet, MomNetSetting, power_of, scaled

_TOLERANCE = 1e-5
"""Of the largest variance of a moment's coordinates, what the compression leaves out."""
_FLOOR = 3e-4
"""Of the largest deviation, added to all: what is smaller is noise in practice."""


class _Compression(nn.Module):
    """Moments as a few hundred numbers of unit variance: each block on its leading radial functions.

    Images of a band-limited particle have far fewer degrees of freedom than the grid has nodes. The functions are the
    eigenvectors of the family's mean second moment; means and deviations of what remains are the family's too.
    """

    def __init__(self, modes: int, nodes: int, kept: tuple[int, ...]) -> None:
        super().__init__()
        self.kept = kept
        self.register_buffer("functions", torch.zeros(modes, nodes, max(kept)))
        first = kept[0]
        size = first + first * (first + 1) // 2 + sum(r * r for r in kept[1:])
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    functions: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, moments: Moments, tolerance: float) -> "_Compression":
        """Functions that hold all but ``tolerance`` of the family's largest variance."""
        values, vectors = torch.linalg.eigh(moments.second.real.mean(0))
        values, vectors = values.flip(1), vectors.flip(2)
        kept = tuple(max(1, int((v > tolerance * values.max()).sum())) for v in values)
        new = cls(len(values), values.shape[1], kept)
        for m, r in enumerate(kept):
            new.functions[m, :, :r] = vectors[m, :, :r]
        numbers = new.raw(moments)
        deviation = numbers.std(0)
        new.mean, new.deviation = numbers.mean(0), deviation + _FLOOR * deviation.max()
        return new

    def raw(self, moments: Moments) -> Float[Tensor, "b f"]:
        """Numbers before they are brought to unit variance."""
        parts = [moments.first[:, 0].real @ self.functions[0, :, : self.kept[0]]]
        blocks = self.functions.mT.to(moments.second.dtype) @ moments.second @ self.functions.to(moments.second.dtype)
        for m, r in enumerate(self.kept):
            rows, columns = torch.triu_indices(r, r)
            block = blocks[:, m, rows, columns]
            parts.append(block.real)
            if m > 0:  # mode 0 of real images is real
                parts.append(block.imag[:, rows != columns])
        return torch.cat(parts, dim=1)

    def forward(self, moments: Moments) -> Float[Tensor, "b f"]:
        """Standardised numbers."""
        return (self.raw(moments) - self.mean) / self.deviation


class _Residual(nn.Module):
    """``x + W₂ silu(W₁ norm(x))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "b w"]) -> Float[Tensor, "b w"]:
        return x + self.body(x)


class PolarMomNet(MomNet):
    """Compressed moments through a residual network of full layers.

    Args:
        setting: bandwidth, grid, directions.
        kept: radial functions of each mode that the network sees.
        width: units of its layers.
        proposals: how many answers it makes.
        blocks: residual blocks of two layers.
    """

    name = "polar"

    def __init__(
        self, setting: MomNetSetting, kept: tuple[int, ...], width: int, proposals: int = 1, blocks: int = 3
    ) -> None:
        super().__init__(setting)
        self.count = proposals
        self.compression = _Compression(setting.max_mode + 1, setting.radial_nodes, kept)
        last = nn.Linear(width, proposals * sum(self.sizes))
        layers = (_Residual(width) for _ in range(blocks))
        self.body = nn.Sequential(nn.Linear(len(self.compression.mean), width), *layers, nn.LayerNorm(width), last)

    @classmethod
    def blank(cls, training: Mapping[str, object], weights: Mapping[str, Tensor]) -> "PolarMomNet":
        """See :class:`orbitrec.networks.base.StoredNetwork`; how many functions are kept is a buffer's shape."""
        kept = weights["compression.functions"].any(1).sum(1).tolist()
        setting = from_plain(MomNetSetting, training["setting"])
        return cls(setting, tuple(kept), cast("int", training["width"]), cast("int", training["proposals"]))

    @classmethod
    def for_family(
        cls,
        setting: MomNetSetting,
        moments: Moments,
        coefficients: Float[Tensor, "b p"],
        width: int,
        proposals: int = 1,
    ) -> "PolarMomNet":
        """An untrained network, scaled to a family of problems.

        Args:
            setting: bandwidth, grid, directions.
            moments: of the family, a batch.
            coefficients: of its volumes.
            width: units of the network's layers.
            proposals: how many answers it makes.

        Returns:
            The network.
        """
        power = power_of(moments)
        compression = _Compression.of(scaled(moments, power), _TOLERANCE)
        net = cls(setting, compression.kept, width, proposals)
        net.compression = compression
        net.scale = (coefficients / power.sqrt()[:, None]).square().mean(0).sqrt()
        return net

    @property
    def kept(self) -> tuple[int, ...]:
        """Radial functions of each mode that the network sees."""
        return self.compression.kept

    def answers(self, moments: Moments) -> Float[Tensor, "b proposals outputs"]:
        """See :class:`MomNet`."""
        return self.body(self.compression(moments)).unflatten(1, (self.count, -1))

"""The encoder of chapter 2 for cryo-EM: from Cartesian moments to the density of rotations (Appendix A.2).

It is the network of multireference alignment (Figure A.1) with two-dimensional convolutions, windows and channels the
same: M¹ is a field of one complex channel on the n × n frequencies, M² one of n² channels.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.moments.analytic import Moments

_SLOPE = 0.02


def _periodic(channels_in: int, channels_out: int, window: int, generator: torch.Generator) -> nn.Sequential:
    layer = nn.Conv2d(channels_in, channels_out, window, padding=window // 2, padding_mode="circular")
    _initialise(layer, generator)
    return nn.Sequential(layer, nn.LeakyReLU(_SLOPE))


def _full(size_in: int, size_out: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(size_in, size_out)
    _initialise(layer, generator)
    return layer


def _initialise(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """Torch's own law of weights, from an explicit generator."""
    bound = layer.weight[0].numel() ** -0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


class CartesianMomentEncoder(nn.Module):
    """ξ_θ: ``outputs`` numbers from the moments of n × n images; as logits they are z_ρ, otherwise a latent z_v.

    Args:
        n: box size of the images.
        outputs: how many numbers.
        generator: source of the weights.
        real: look at real parts only: where in-plane angles are uniform, moments have no others.

    Raises:
        InputError: at a call, if the moments are of images of another size.
    """

    def __init__(self, n: int, outputs: int, generator: torch.Generator, *, real: bool = False) -> None:
        super().__init__()
        self.n, self.real = n, real
        parts = 1 if real else 2
        self.first = nn.Sequential(_periodic(parts, 16, 5, generator), _periodic(16, 3, 5, generator))
        self.second = nn.Sequential(_periodic(parts * n * n, 32, 3, generator), _periodic(32, 3, 5, generator))
        self.joined = nn.Sequential(
            _periodic(6, 8, 5, generator),
            nn.Flatten(),
            _full(8 * n * n, 384, generator),
            nn.Tanh(),
            _full(384, 384, generator),
            nn.Tanh(),
            _full(384, outputs, generator),
        )

    def forward(self, moments: Moments) -> Float[Tensor, "*batch outputs"]:
        """The outputs, from moments brought to unit size.

        Raises:
            InputError: if the moments are of images of another size.
        """
        n = self.n
        if moments.first.shape[-1] != n * n:
            raise InputError(
                f"this encoder is for images of {n} px, the moments have {moments.first.shape[-1]} frequencies; "
                "make one for that size"
            )
        batch = moments.first.shape[:-2]
        first = moments.first / (moments.first_norm()[..., None, None] / n)
        second = moments.second / (moments.second_norm()[..., None, None, None] / n)
        fields = self.first(self._channels(first)), self.second(self._channels(second.flatten(-3, -2).mT))
        return self.joined(torch.cat(fields, dim=1)).reshape(*batch, -1)

    def _channels(self, rows: Complex[Tensor, "*batch c n2"]) -> Float[Tensor, "b channels n n"]:
        """Fields on the n × n frequencies, real parts and then imaginary ones."""
        parts = rows.real if self.real else torch.cat([rows.real, rows.imag], dim=-2)
        return parts.reshape(-1, parts.shape[-2], self.n, self.n).to(next(self.parameters()).dtype)

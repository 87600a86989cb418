"""The encoder of chapter 2 for cryo-EM: from Cartesian moments to the density of rotations (Appendix A.2).

It is the network of multireference alignment (Figure A.1) with two-dimensional convolutions, windows and channels the
same: M¹ is a field of one complex channel on the n × n frequencies, M² one of n² channels.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.inference.moments import Moments

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

    Raises:
        InputError: at a call, if the moments are of images of another size.
    """

    def __init__(self, n: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n = n
        self.first = nn.Sequential(_periodic(2, 16, 5, generator), _periodic(16, 3, 5, generator))
        self.second = nn.Sequential(_periodic(2 * n * n, 32, 3, generator), _periodic(32, 3, 5, generator))
        self.joined = nn.Sequential(
            _periodic(6, 8, 5, generator),
            nn.Flatten(),
            _full(8 * n * n, 384, generator),
            nn.Tanh(),
            _full(384, 384, generator),
            nn.Tanh(),
            _full(384, outputs, generator),
        )

    def forward(self, moments: Moments) -> Float[Tensor, "outputs"]:
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
        first = moments.first.reshape(n * n) / moments.first_norm() * n
        second = moments.second.reshape(n * n, n * n) / moments.second_norm() * n
        field = torch.view_as_real(first).mT.reshape(1, 2, n, n)
        fields = torch.cat([second.real, second.imag], dim=1).mT.reshape(1, 2 * n * n, n, n)
        dtype = next(self.parameters()).dtype
        joined = torch.cat([self.first(field.to(dtype)), self.second(fields.to(dtype))], dim=1)
        return self.joined(joined)[0]

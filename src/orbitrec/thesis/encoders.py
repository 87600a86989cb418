"""The encoders as the thesis has them (Appendix A): for MRA, with weights, and for cryo-EM.

A moment is a field on the frequencies: M¹ has one complex channel, M² has as many as there are frequencies, a row at
each. Each of two branches has two periodic convolutions with leaky ReLU; six channels are joined by a third, and full
layers with tanh follow (Figure A.1). Window sizes and channel numbers are not in the thesis.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.io.plain import from_plain
from orbitrec.moments.analytic import Moments
from orbitrec.moments.plane import PlaneMoments
from orbitrec.networks.encoders import Encoder
from orbitrec.networks.momnet import MomNet, MomNetSetting, power_of

WEIGHTS = Path(__file__).parent / "weights"
_SLOPE = 0.02  # of the leaky ReLU


def thesis_weights(components: int) -> Path:
    """Pretrained weights of :class:`ThesisEncoder` for mixtures of so many Gaussians, one to three."""
    return WEIGHTS / f"mra-thesis-{components}.safetensors"


def _periodic(channels_in: int, channels_out: int, window: int) -> nn.Conv1d:
    return nn.Conv1d(channels_in, channels_out, window, padding=window // 2, padding_mode="circular")


class _MomentNetwork(nn.Module):
    """One of the two networks of Appendix A.1: two branches of periodic convolutions, joined to six channels."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_periodic(2, 16, 5), nn.LeakyReLU(_SLOPE), _periodic(16, 3, 5), nn.LeakyReLU(_SLOPE))
        self.second = nn.Sequential(
            _periodic(2 * n, 32, 3), nn.LeakyReLU(_SLOPE), _periodic(32, 3, 5), nn.LeakyReLU(_SLOPE)
        )
        self.joined = nn.Sequential(
            _periodic(6, 8, 5),
            nn.LeakyReLU(_SLOPE),
            nn.Flatten(),
            nn.Linear(8 * n, 384),
            nn.Tanh(),
            nn.Linear(384, 384),
            nn.Tanh(),
            nn.Linear(384, n),
        )

    def forward(self, first: Float[Tensor, "b two n"], second: Float[Tensor, "b two_n n"]) -> Float[Tensor, "b n"]:
        return self.joined(torch.cat([self.first(first), self.second(second)], dim=1))


class ThesisEncoder(Encoder):
    """The encoder of Appendix A.1: two networks of the same architecture, one for the density and one for the signal.

    The moments are vector fields on the n frequencies: M¹ has one complex channel, M² has n, a row at each frequency.
    Convolutions are periodic over frequencies, with leaky ReLU of slope 0.02; full layers follow with tanh, the last
    one linear. Window sizes and channel numbers are not in the thesis. It does not see σ or N.
    """

    name = "thesis"

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.density, self.signal = _MomentNetwork(n), _MomentNetwork(n)

    def at_unit_scale(
        self,
        first: Complex[Tensor, "b n"],
        second: Complex[Tensor, "b n n"],
        sigma: Float[Tensor, "b"],
        count: Float[Tensor, "b"],
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Both networks on the real and imaginary parts.

        Args:
            first: M¹ (2.3), the zero frequency at index n // 2.
            second: M² (2.3), likewise.
            sigma: noise level of the observations, of a signal of unit mean square; 0 where moments are exact.
            count: number of observations; infinite where moments are exact.

        Returns:
            Densities and signals.
        """
        field = torch.view_as_real(first).mT
        fields = torch.cat([second.real, second.imag], dim=2).mT
        return self.density(field, fields) / self.n, self.signal(field, fields)


def _periodic_2d(channels_in: int, channels_out: int, window: int, generator: torch.Generator) -> nn.Sequential:
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
        self.first = nn.Sequential(_periodic_2d(parts, 16, 5, generator), _periodic_2d(16, 3, 5, generator))
        self.second = nn.Sequential(_periodic_2d(parts * n * n, 32, 3, generator), _periodic_2d(32, 3, 5, generator))
        self.joined = nn.Sequential(
            _periodic_2d(6, 8, 5, generator),
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


class ReferenceMomNet(MomNet):
    """MoM-net's encoder as the thesis has it: two networks, one for z_v, one for (z_ρ, η̂); one proposal.

    Moments come on the polar grid and are brought to the 15 × 15 frequencies first, so that training, losses and files
    are those of any :class:`orbitrec.networks.momnet.MomNet`. z_ρ are harmonics of the log density, as there; the
    thesis's are values at the rotations.

    Args:
        setting: bandwidth, grid, directions.
        generator: source of the weights.
    """

    name = "reference"

    def __init__(self, setting: MomNetSetting, generator: torch.Generator) -> None:
        super().__init__(setting)
        self.plane = PlaneMoments(setting.grid)
        coefficients, harmonics, spread = self.sizes
        self.volume = CartesianMomentEncoder(setting.box, coefficients, generator, real=True)
        self.views = CartesianMomentEncoder(setting.box, harmonics + spread, generator, real=True)

    @classmethod
    def blank(cls, training: Mapping[str, object], weights: Mapping[str, Tensor]) -> "ReferenceMomNet":
        """See :class:`orbitrec.networks.base.StoredNetwork`."""
        return cls(from_plain(MomNetSetting, training["setting"]), torch.Generator())

    @classmethod
    def for_family(
        cls, setting: MomNetSetting, moments: Moments, coefficients: Float[Tensor, "b p"], generator: torch.Generator
    ) -> "ReferenceMomNet":
        """An untrained network, scaled to a family of problems.

        Args:
            setting: bandwidth, grid, directions.
            moments: of the family, a batch.
            coefficients: of its volumes.
            generator: source of the weights.

        Returns:
            The network.
        """
        net = cls(setting, generator)
        net.scale = (coefficients / power_of(moments).sqrt()[:, None]).square().mean(0).sqrt()
        return net

    def answers(self, moments: Moments) -> Float[Tensor, "b proposals outputs"]:
        """See :class:`MomNet`."""
        plane = self.plane(moments)
        return torch.cat([self.volume(plane), self.views(plane)], dim=1)[:, None]

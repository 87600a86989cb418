"""The supervised phase of MoM-net (section 3.4.1): proteins, view densities and shifts drawn as training goes.

The loss is the Kam loss (3.13) of the answer's moments, a quarter of the relative error of its coefficients, and half
the divergence of its views. Moments alone leave the volume to chance where they say little, and can be explained well
by a single view of a volume bent to that end; from there the gradients of moments do not lead away.

Moments do not see a common rotation of volume and views, so a frame must be chosen in which coefficients can be
compared. The fixed means of the views' law would give one, but a network hardly finds it: it answers with the mean over
rotations. So the frame is the volume's own, its principal axes, with the views rotated. What these leave open,
rotations by 180° and the handedness, is eight signs of the coefficients, of which the nearest counts; and of several
proposals the nearest counts, so that they may differ.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.harmonic import log_probabilities_on_nodes
from orbitrec.errors import InputError
from orbitrec.geometry.rotations import random_rotations
from orbitrec.moments.analytic import Moments
from orbitrec.networks.molecules import ProteinLaw, ViewLaw
from orbitrec.networks.momnet import MomNet, MomNetEstimate, MomNetSetting
from orbitrec.networks.polar_momnet import PolarMomNet
from orbitrec.networks.training import TrainingTask, initialise

COEFFICIENT_SHARE = 0.25
VIEW_SHARE = 0.5
OTHERS_SHARE = 0.02
_CALIBRATION = 2048  # problems from which the compression is made


@dataclass(frozen=True, eq=False)
class VolumeProblems:
    """A batch: coefficients of volumes, views' probabilities, shifts in pixels, and their exact moments."""

    coefficients: Float[Tensor, "b p"]
    density: Float[Tensor, "b d"]
    shift_px: Float[Tensor, "b"]
    moments: Moments

    def to(self, device: torch.device) -> "VolumeProblems":
        """The same on another device."""
        m = self.moments
        moments = Moments(m.first.to(device), m.second.to(device), m.weights.to(device))
        return VolumeProblems(self.coefficients.to(device), self.density.to(device), self.shift_px.to(device), moments)


@dataclass(frozen=True, kw_only=True)
class VolumeTask(TrainingTask[MomNet, VolumeProblems]):
    """What any encoder of cryo-EM is trained on, and by which loss.

    Attributes:
        proteins: the family of volumes.
        views: the family of densities.
        setting: what the network is made for.
    """

    proteins: ProteinLaw = field(default_factory=ProteinLaw)
    views: ViewLaw = field(default_factory=ViewLaw)
    setting: MomNetSetting = field(default_factory=MomNetSetting)
    steps: int = 4000
    batch: int = 128

    def problems(self, size: int, generator: torch.Generator) -> VolumeProblems:
        """New problems, in float32: spreads of shifts are uniform up to η_max."""
        s = self.setting
        w = self.proteins.draw(size, s.basis, generator).float()
        rotated = s.directions @ random_rotations(size, generator)
        views = zip(self.views.draw(size, generator), rotated, strict=True)
        density = torch.stack([law.density(directions) for law, directions in views]).float()
        density = density / density.sum(1, keepdim=True)
        shift = torch.rand(size, generator=generator) * s.largest_shift_px
        return VolumeProblems(w, density, shift, s.moments(w, density, shift))

    def family(self, generator: torch.Generator) -> VolumeProblems:
        """Problems to which what an untrained network looks at and answers with is scaled."""
        return self.problems(_CALIBRATION, generator)

    def loss(self, network: MomNet, generator: torch.Generator, device: torch.device) -> Float[Tensor, ""]:
        """Mean over new problems: of the proposal whose volume is nearest, and a little of all the others' errors.

        Args:
            network: on ``device``.
            generator: source of the problems, on the CPU.
            device: where to compute.

        Returns:
            The mean.
        """
        problems = self.problems(self.batch, generator).to(device)
        proposals = network.proposals(problems.moments)
        errors = [distances(self.setting, proposal, problems) for proposal in proposals]
        volume, views = (torch.stack(parts) for parts in zip(*errors, strict=True))
        best, each = volume.detach().argmin(0), torch.arange(self.batch)
        kam = self.setting.kam_losses(problems.moments, MomNetEstimate.chosen(proposals, volume.detach()))
        supervised = COEFFICIENT_SHARE * volume[best, each] + VIEW_SHARE * views[best, each]
        return (kam + supervised + OTHERS_SHARE * volume.mean(0)).mean()

    def validation(self, network: MomNet, problems: VolumeProblems) -> dict[str, float]:
        """Means of ``kam_loss`` (3.13), ``volume_error``, ``view_divergence`` and ``shift_error_px``."""
        with torch.no_grad():
            estimate = network(problems.moments)
            volume, views = distances(self.setting, estimate, problems)
            return {
                "kam_loss": float(self.setting.kam_losses(problems.moments, estimate).mean()),
                "volume_error": float(volume.mean()),
                "view_divergence": float(views.mean()),
                "shift_error_px": float((estimate.shift_px - problems.shift_px).abs().mean()),
            }


@dataclass(frozen=True, kw_only=True)
class MomNetTraining(VolumeTask):
    """Training of :class:`orbitrec.networks.polar_momnet.PolarMomNet`.

    Attributes:
        width: units of the network's layers.
        proposals: how many answers it makes.

    Raises:
        InputError: if a number is not positive or the seed is out of range.
    """

    width: int = 320
    proposals: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise InputError(f"layers of {self.width} units are none; give `width` as at least 1")
        if self.proposals < 1:
            raise InputError(f"{self.proposals} proposals are none; give `proposals` as at least 1")

    @property
    def architecture(self) -> type[PolarMomNet]:
        """The network for moments on the polar grid."""
        return PolarMomNet

    def network(self, generator: torch.Generator) -> PolarMomNet:
        """The untrained network; what it looks at and answers with is scaled to the family first."""
        family = self.family(generator)
        net = PolarMomNet.for_family(self.setting, family.moments, family.coefficients, self.width, self.proposals)
        initialise(net, generator)
        return net


def distances(
    setting: MomNetSetting, estimate: MomNetEstimate, problems: VolumeProblems
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """``‖z_v − w‖ / ‖w‖`` and the Kullback–Leibler divergence ``Σ ρ log(ρ/ρ̂)`` of every problem.

    w is the nearest of all volumes with the same moments and principal axes, and ρ goes with it.

    Args:
        setting: the network's.
        estimate: a batch.
        problems: the same problems.

    Returns:
        Errors of volumes and divergences of views.
    """
    found, true = estimate.coefficients, problems.coefficients
    apart = (setting.reflections.to(true)[:, None] * found - true).norm(dim=2)
    rotated = estimate.log_density * setting.view_rotations.to(true)[apart.argmin(0)]
    log_views = log_probabilities_on_nodes(rotated, setting.harmonics(setting.directions))
    views = torch.nn.functional.kl_div(log_views, problems.density, reduction="none")
    return apart.amin(0) / true.norm(dim=1), views.sum(1)

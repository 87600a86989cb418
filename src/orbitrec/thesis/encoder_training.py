"""Training of the thesis's encoders, on the same families and with the same losses as the library's own."""

from dataclasses import dataclass

import torch

from orbitrec.mra.training import MRATraining
from orbitrec.networks.momnet_training import VolumeTask
from orbitrec.thesis.encoders import ReferenceMomNet, ThesisEncoder


@dataclass(frozen=True)
class ThesisEncoderTraining(MRATraining):
    """Training of :class:`orbitrec.thesis.encoders.ThesisEncoder`."""

    @property
    def architecture(self) -> type[ThesisEncoder]:
        """The encoder of Appendix A.1."""
        return ThesisEncoder


@dataclass(frozen=True, kw_only=True)
class ReferenceMomNetTraining(VolumeTask):
    """Training of :class:`orbitrec.thesis.encoders.ReferenceMomNet`."""

    @property
    def architecture(self) -> type[ReferenceMomNet]:
        """MoM-net's encoder of Appendix A.2."""
        return ReferenceMomNet

    def network(self, generator: torch.Generator) -> ReferenceMomNet:
        """The untrained network; what it answers with is scaled to the family first."""
        family = self.family(generator)
        return ReferenceMomNet.for_family(self.setting, family.moments, family.coefficients, generator)

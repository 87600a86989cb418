"""Fourier shell correlations of half-maps as tables: rows of ``fsc.csv``, and blocks of RELION's postprocess.star."""

import math

import pandas as pd

from orbitrec.evaluation.fsc import FSC, HalfMapFSC
from orbitrec.io.star import Blocks


def fsc_rows(halves: HalfMapFSC, truth: FSC | None, voxel_size_A: float) -> list[dict[str, object]]:
    """Rows of ``fsc.csv``, one for each shell; ``half_maps`` is the correlation within the mask, corrected for it.

    Args:
        halves: the correlations of the half-maps.
        truth: the correlation of the map with the truth; None leaves out its column.
        voxel_size_A: edge of a voxel in Å.

    Returns:
        The rows, each a value by its column.
    """
    curves = {
        "half_maps": halves.corrected,
        "unmasked": halves.unmasked,
        "masked": halves.masked,
        "phases_random": halves.randomised,
        **({} if truth is None else {"truth": truth}),
    }
    return [
        {"shell": shell, "resolution_A": resolution, **{name: float(fsc.value[shell]) for name, fsc in curves.items()}}
        for shell, resolution in enumerate(halves.corrected.resolution_A(voxel_size_A).tolist())
        if shell < min(len(fsc.value) for fsc in curves.values())
    ]


def fsc_blocks(halves: HalfMapFSC, voxel_size_A: float) -> Blocks:
    """The blocks ``general`` and ``fsc`` of the STAR file that RELION's postprocessing writes."""
    frequency = halves.corrected.frequency / (2 * math.pi * voxel_size_A)
    table = pd.DataFrame(
        {
            "rlnSpectralIndex": range(len(frequency)),
            "rlnResolution": frequency.numpy(),
            "rlnAngstromResolution": (1 / frequency.clamp(min=1e-3)).numpy(),  # RELION has 999 at the origin
            "rlnFourierShellCorrelationCorrected": halves.corrected.value.numpy(),
            "rlnFourierShellCorrelationUnmaskedMaps": halves.unmasked.value.numpy(),
            "rlnFourierShellCorrelationMaskedMaps": halves.masked.value.numpy(),
            "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": halves.randomised.value.numpy(),
        }
    )
    general = pd.DataFrame(
        {
            "rlnFinalResolution": [min(halves.corrected.cutoff_A(0.143, voxel_size_A), 999.0)],
            "rlnUnfilteredMapHalf1": ["half1.mrc"],
            "rlnUnfilteredMapHalf2": ["half2.mrc"],
            "rlnMaskName": ["mask.mrc"],
            "rlnRandomiseFrom": [float(1 / frequency[max(1, halves.random_from)])],
        }
    )
    return {"general": general, "fsc": table}

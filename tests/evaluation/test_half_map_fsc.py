"""FSC of half-maps within a mask: what the mask adds is taken away; RELION's program agrees."""

import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orbitrec.evaluation.fsc import half_map_fsc
from orbitrec.evaluation.masks import soft_mask, soft_sphere
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.io.mrc import write_map
from orbitrec.io.star import read_star
from orbitrec.volumes.phantoms import protein_phantom

N, PIXEL_A = 48, 3.0


def _signal() -> Tensor:
    """A particle that ends at shell 16."""
    k = radial_frequencies(N, 3) * N / (2 * math.pi)
    grid = protein_phantom(60, 0.25 * N, torch.Generator().manual_seed(1)).to_grid(N)
    return centred_ifft(centred_fft(grid, 3) * (k < 16), 3).real


def _halves(deviation: float, seed: int = 2) -> tuple[Tensor, Tensor]:
    generator, signal = torch.Generator().manual_seed(seed), _signal()
    first, second = (signal + deviation * torch.randn(N, N, N, generator=generator).double() for _ in range(2))
    return first, second


def test_a_tight_mask_pretends_and_random_phases_tell():
    """Noise beyond the signal's last shell: within a sharp mask it correlates, corrected it does not."""
    signal = _signal()
    mask = (soft_sphere(N, 7.0, 0.01) > 0.5).double()  # cuts through the particle, with a hard edge
    curves = [
        half_map_fsc(*_halves(0.3 * float(signal.std()), seed), mask, torch.Generator().manual_seed(3))
        for seed in range(8)
    ]
    beyond = slice(18, N // 2 + 1)
    masked, corrected = (torch.stack([getattr(c, name).value for c in curves]) for name in ("masked", "corrected"))
    assert float(masked[:, beyond].mean()) > 0.3
    # Not zero but far less: the signal that the edge spreads is that of the shells below the random ones only.
    assert abs(float(corrected[:, beyond].mean())) < 0.35 * float(masked[:, beyond].mean())
    assert float(corrected[:, 1:12].min()) > 0.9
    found = curves[0]
    assert torch.equal(found.corrected.value[: found.random_from + 2], found.masked.value[: found.random_from + 2])


def test_without_a_mask_nothing_is_corrected():
    first, second = _halves(2 * float(_signal().std()))
    found = half_map_fsc(first, second, torch.ones(N, N, N), torch.Generator().manual_seed(4))
    assert torch.allclose(found.masked.value, found.unmasked.value)
    assert float(found.randomised.value[found.random_from + 1 :].abs().max()) < 0.15  # of some hundred points
    assert torch.allclose(found.corrected.value, found.unmasked.value, atol=0.15)


def test_random_phases_keep_the_power_and_the_low_shells():
    """Identical maps: correlation 1 below the first random shell, that of noise beyond."""
    noise = torch.randn(N, N, N, generator=torch.Generator().manual_seed(5))
    found = half_map_fsc(noise, noise, torch.ones(N, N, N), torch.Generator().manual_seed(6))
    assert found.random_from == N // 2
    assert torch.allclose(found.randomised.value[: N // 2], torch.ones(N // 2, dtype=torch.float64))
    assert abs(float(found.randomised.value[N // 2])) < 0.1


def test_the_mask_holds_the_particle_and_leaves_the_solvent_out():
    signal = _signal()
    noisy = signal + 0.2 * float(signal.std()) * torch.randn(N, N, N, generator=torch.Generator().manual_seed(7))
    mask = soft_mask(noisy, 0.4 * N, smooth_px=5.0)
    assert float(mask.min()) >= 0
    assert float(mask.max()) == 1
    assert float((signal.square() * mask).sum() / signal.square().sum()) > 0.97
    assert float(mask.mean()) < 0.6 * float(soft_sphere(N, 0.4 * N).mean())
    assert float((mask[1:] - mask[:-1]).abs().max()) < 0.3  # an edge of six voxels


def test_a_map_that_shows_nothing_is_masked_by_its_ball():
    assert torch.equal(soft_mask(torch.zeros(N, N, N), 15.0, 5.0), soft_sphere(N, 15.0))


@pytest.mark.skipif(shutil.which("relion_postprocess") is None, reason="relion_postprocess is not installed")
def test_relion_finds_the_same_curves(tmp_path: Path):
    """All four, of the same half-maps and mask; RELION draws other random phases and starts at the same shell."""
    first, second = _halves(0.7 * float(_signal().std()))
    mask = soft_mask((first + second) / 2, 0.4 * N, smooth_px=5.0)
    for name, grid in (("half1", first), ("half2", second), ("mask", mask)):
        write_map(tmp_path / f"{name}.mrc", grid.float(), PIXEL_A)
    command = [
        "relion_postprocess",
        "--i",
        "half1.mrc",
        "--mask",
        "mask.mrc",
        "--angpix",
        str(PIXEL_A),
        "--o",
        "post/all",
    ]
    (tmp_path / "post").mkdir()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = read_star(tmp_path / "post" / "all.star")["fsc"]
    ours = half_map_fsc(first, second, mask, torch.Generator().manual_seed(8))
    columns = {
        "rlnFourierShellCorrelationUnmaskedMaps": (ours.unmasked, 0.01),
        "rlnFourierShellCorrelationMaskedMaps": (ours.masked, 0.01),
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": (ours.randomised, 0.12),
        "rlnFourierShellCorrelationCorrected": (ours.corrected, 0.12),
    }
    for column, (curve, tolerance) in columns.items():
        difference = torch.tensor(theirs[column].to_numpy()[: N // 2 - 1].copy()) - curve.value[: N // 2 - 1]
        difference[ours.random_from - 1 : ours.random_from + 3] = 0  # RELION begins in the middle of the shell
        assert float(difference[1:].abs().max()) < tolerance, column

import math
from dataclasses import asdict, replace

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.io.mrc import write_map
from orbitrec.io.runs import new_run
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import uniform_moments
from orbitrec.moments.cumulant_matching import MarchSettings
from orbitrec.moments.losses import relative_errors
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.thesis.neural_truth import REPORTED_ERRORS, Fit, neural_truth
from orbitrec.thesis.records import Made
from orbitrec.thesis.results import read_result
from orbitrec.thesis.steps import Steps, TimedSteps
from orbitrec.thesis.table_2_2 import Found, Plan, VolumeRow, VolumeTableSize, judged, step_count, table
from orbitrec.thesis.table_2_2_results import REPORTED, VolumeTable, draw
from orbitrec.thesis.two_moments import NAMES, Matching, TrueVolume
from orbitrec.thesis.volume_matching import three_moments
from orbitrec.thesis.volume_matching.neural_ensemble import NeuralSettings
from orbitrec.thesis.volume_matching.pseudo_atoms import PseudoAtomSettings, Solution
from orbitrec.thesis.volume_matching.three_moments import ThreeMomentPlan
from orbitrec.volumes.spherical_bessel import SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume

SIZE = VolumeTableSize(
    {
        "4 Gaussians": Plan(
            5.0,
            PseudoAtomSettings(pseudo_atoms=6, starts=4, tries=1, kept=2),
            5.0,
            NeuralSettings(members=2, steps=120, rate=1e-3, width=24),
        )
    },
    40,
)
THREE = {
    "4 Gaussians": ThreeMomentPlan((8.0, 6.0), MarchSettings(starts=2, trusts=(1e-2, 0.1), iterations=25, rounds=2))
}


def test_four_gaussians_are_matched_and_a_run_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(three_moments, "PARTICLES", 200_000)  # 5·10⁶ take a minute to make
    heard, truths = [], [TrueVolume.gaussians()]
    kept = Checkpoints(tmp_path / "kept")
    rows, pictures = table(truths, SIZE, THREE, Steps(lambda: heard.append(1), kept))
    third = rows.pop()
    assert third.method.startswith("three moments, starts ")
    assert third.second_error < 1  # that of an empty volume
    assert [row.method for row in rows] == [
        "coefficients",
        "FourierNets, mean",
        "FourierNets, refined",
        "pseudo-atoms, best",
        "pseudo-atoms, mean",
        "pseudo-atoms, corrected",
    ]
    assert len(heard) == step_count(truths, SIZE, THREE)
    networks, pseudo_atoms, mean, corrected = rows[2:]
    assert networks.first_error < 0.1
    assert networks.second_error < 0.2
    assert pseudo_atoms.first_error < 0.01
    assert pseudo_atoms.second_error < 0.03
    assert pseudo_atoms.resolution_A < 6.0
    assert corrected.second_error < mean.second_error
    assert tuple(REPORTED) == NAMES
    rows.append(third)
    result = VolumeTable.of(SIZE, rows, {})
    assert len(result.tables()[0].rows) == 8
    assert len(replace(result, neural_truths={"4 Gaussians": 0.01}).tables()[0].rows) == 9
    # From what is kept the same table is made, without a match.
    again, _ = table(truths, SIZE, THREE, Steps(checkpoints=kept))
    assert [timeless(row) for row in again] == [timeless(row) for row in rows]
    with new_run(tmp_path / "out") as run:
        made = Made("a command")
        result.write(run, made, [asdict(row) for row in rows])
        draw(run, SIZE, truths, pictures)
    names = {"table.json", "table.csv", "4-gaussians.png", "4-gaussians-views.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert read_result(tmp_path / "out" / "table.json") == (result, made)


def test_seconds_before_an_interruption_count(tmp_path):
    solution, kept = {"variables": torch.zeros(2), "loss": 1.0}, Checkpoints(tmp_path / "kept")
    for name, seconds in (("last", 5e3), ("first", 2e3)):
        kept.save(name, {**solution, "seconds": seconds})
    steps = TimedSteps(Steps(checkpoints=kept))
    for name in ("last", "first"):
        assert Solution(**steps.record(name, lambda: pytest.fail("it was kept"))).loss == 1.0
    assert 5e3 <= steps.seconds < 7e3
    steps.record("new", lambda: solution)
    assert kept.load("new")["seconds"] >= 5e3


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_truth_is_judged_right_however_it_lies(mirrored):
    # Turned by 90° about z, and mirrored in x, the voxels of an odd box go onto each other. A map and its inversion
    # have the same images along the same direction; the mirrored one is the inversion rotated by 180° about x.
    matching = Matching(TrueVolume.gaussians(), 5.0)
    voxels, directions = matching.truth.voxels.rot90(1, (2, 1)), matching.directions
    x, y, z = directions.unbind(1)
    back = torch.stack([y, -x, z], dim=1)  # where the truth is seen from
    if mirrored:
        voxels, back = voxels.flip(2), -torch.stack([y, x, z], dim=1)
    density = matching.views.density(back)
    views = density / density.sum()
    moments = uniform_moments(matching.templates(VoxelVolume(voxels), directions), views, matching.grid)
    row, _ = judged(matching, Found(VoxelVolume(voxels), 1, views, moments))
    assert row.correlation > 0.999
    assert row.views > 0.999
    assert row.second_error < 0.01
    wrong = Found(VoxelVolume(voxels), 1, views.flip(0), moments)  # every view from behind
    assert judged(matching, wrong)[0].views < 0.5


def test_a_network_is_taken_for_the_truth_and_its_distance_is_given():
    truth = TrueVolume.gaussians()
    found, error = neural_truth(truth, Fit(steps=120, points=1024, rate=1e-3, width=24))
    assert error < 0.2
    assert float(found.compact.norm()) == pytest.approx(1)
    assert torch.equal(found.voxels, found.compact)
    # Both have norm 1, and a distance of ε between two of norm about 1 leaves a correlation of about 1 − ε²/2.
    assert float((found.compact * truth.compact).sum()) == pytest.approx(1 - error**2 / 2, abs=error**2 / 4 + 1e-4)
    assert set(REPORTED_ERRORS) == set(NAMES)


def timeless(row: VolumeRow) -> VolumeRow:
    return replace(row, seconds=0.0)


def test_the_basis_holds_the_truth():
    # With the true volume's part in the basis and the true views, moments are wrong by noise and truncation alone.
    matching = Matching(TrueVolume.gaussians(), 4.0)
    axis = torch.arange(25, dtype=torch.float64) - 12
    points = torch.cartesian_prod(axis, axis, axis).flip(-1)
    inside = points.norm(dim=1) < matching.basis.radius
    w = matching.truth.compact.flatten()[inside] @ matching.basis.values(points[inside])
    projector = PolarProjector(matching.basis, matching.grid, matching.directions, torch.float64)
    density = matching.views.density(matching.directions)
    moments = uniform_moments(projector.templates(w), density / density.sum(), matching.grid)
    first, second = relative_errors(matching.target.moments, moments)
    assert float(first) < 0.02
    assert float(second) < 0.03
    assert max(matching.noise_errors) < 0.01
    found = SphericalBesselVolume(matching.basis, w).to_grid(25)
    assert float((found - matching.truth.compact).norm()) < 0.35
    assert matching.k_max == pytest.approx(math.pi / 2)


def test_maps_are_known_by_their_names(tmp_path):
    path = tmp_path / "emd_0409.mrc"
    grid = TrueVolume.gaussians().voxels.float()
    write_map(path, torch.nn.functional.pad(grid, (20, 19) * 3), 2.0)
    truth = TrueVolume.of_map(path)
    assert truth.name == "EMD-0409"
    assert truth.voxel_size_A == pytest.approx(2.0 * 64 / 63)
    assert float(truth.voxels.norm()) == pytest.approx(1)
    with pytest.raises(InputError, match="25892"):
        TrueVolume.of_map(path.rename(tmp_path / "other.mrc"))
    with pytest.raises(InputError, match="no such file"):
        TrueVolume.of_map(path)

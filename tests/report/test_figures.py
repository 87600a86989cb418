"""The pictures: what they show, against positions, densities and thresholds known beforehand, and their files."""

import math
import sys
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.evaluation.fsc import FSC, fourier_shell_correlation
from orbitrec.geometry.rotations import direction_frames, random_rotations
from orbitrec.report.figures import RunPicture, draw_fsc, draw_run, view_density
from orbitrec.report.fsc_curves import plot_curves
from orbitrec.runtime.progress import HistoryRow, Stage
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.phantoms import protein_phantom

VOXEL_A = 3.0
CENTRE = {"x": 4.0, "y": -3.0, "z": 2.0}


def history(starts=4):
    """Four starts of which 2 and 4 go on and 4 ends highest, then two resolutions."""
    rows = []

    def rise(stage, alternative, resolution_A, steps, top):
        for _ in range(steps):
            step = len(rows)
            reached = top * (1 - math.exp(-(step + 1) / 5))
            rows.append(HistoryRow(stage, alternative, step, resolution_A, reached, step / 10))

    for start in range(starts):
        rise(Stage.STARTS, str(start + 1), 24.0, 30, 70.0 + start)
    for start in (2, 4):
        rise(Stage.SELECTION, str(start), 18.0, 20, 80.0 + start)
    rise(Stage.MARCHING, "", 18.0, 8, 88.0)
    rise(Stage.MARCHING, "", 12.0, 8, 95.0)
    return rows


def picture(n=32, dtype=torch.float32, *, truth=True, rows=None, chosen=None):
    generator = torch.Generator().manual_seed(5)
    volume = protein_phantom(80, 0.3 * n, generator).to_grid(n).to(dtype)
    noisy = volume + volume.std() * torch.randn(volume.shape, generator=generator, dtype=dtype)
    return RunPicture(
        volume,
        VOXEL_A,
        random_rotations(500, generator, dtype),
        2 * torch.randn(500, 2, generator=generator, dtype=dtype),
        history() if rows is None else rows,
        fourier_shell_correlation(volume, noisy) if truth else None,
        "a phantom",
        13.5,  # coarser than the last step of the history
        chosen,
    )


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws without rendering: returns the axes by title."""
    figures = []

    def keep(figure, path, **_):
        figures.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(function, *arguments) -> dict[str, Axes]:
        function(tmp_path / "picture.png", *arguments)
        return {axes.get_title(): axes for axes in figures[-1].axes}

    return draw


@pytest.mark.parametrize(("n", "dtype", "truth"), [(32, torch.float64, True), (33, torch.float32, False)])
def test_writes_a_picture_of_the_stated_size(tmp_path, n, dtype, truth):
    path = tmp_path / "run.png"
    settings, modules = dict(matplotlib.rcParams.copy()), set(sys.modules)
    draw_run(path, picture(n, dtype, truth=truth))
    assert dict(matplotlib.rcParams.copy()) == settings
    assert "matplotlib.pyplot" not in set(sys.modules) - modules
    pixels = imread(path)
    assert pixels.shape == (1000, 1600, 4)
    tiles = pixels[:, :, :3].reshape(2, 500, 4, 400, 3)
    assert float(tiles.std(axis=(1, 3, 4)).min()) > 0.05  # every eighth of the sheet shows something
    assert [file.name for file in tmp_path.iterdir()] == ["run.png"]


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_writes_the_curve_in_the_format_of_its_suffix(tmp_path, suffix):
    path = tmp_path / f"fsc{suffix}"
    draw_fsc(path, picture().fsc, VOXEL_A)
    assert path.read_bytes().lstrip().startswith({".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix])


@pytest.mark.parametrize("name", ["run.doc", "run", "missing/run.png"])
def test_says_where_it_cannot_draw(tmp_path, name):
    with pytest.raises(InputError, match=name):
        draw_fsc(tmp_path / name, picture().fsc, VOXEL_A)
    assert list(tmp_path.iterdir()) == []


def test_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    def half(figure, path, **_):
        path.write_bytes(b"\x89PNG")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        draw_run(tmp_path / "run.png", picture())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [32, 33])
def test_axes_of_the_maps_are_those_of_the_density(drawn, n):
    """A blob lies where the labels say, and the scale bar is as long as it says."""
    blob = GaussianMixture(
        torch.tensor([[CENTRE["x"], CENTRE["y"], CENTRE["z"]]], dtype=torch.float64),
        torch.tensor([2.5], dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
    )
    shown = picture(n, torch.float64)
    panels = drawn(draw_run, RunPicture(blob.to_grid(n), VOXEL_A, shown.rotations, shown.shifts_px, [], None, "", 9.0))
    titles = ["slice xy", "slice xz", "slice yz", "projection along z", "projection along y", "projection along x"]
    for title in titles:
        axes = panels[title]
        (image,) = axes.get_images()
        values = np.asarray(image.get_array())
        across, up = axes.get_xlabel()[0], axes.get_ylabel()[0]
        assert across + up + title[-1] in {"xyy", "xzz", "yzz", "xyz", "xzy", "yzx"}
        place = np.arange(n) - n // 2
        assert (values.sum(0) @ place) / values.sum() == pytest.approx(CENTRE[across], abs=0.02)
        assert (values.sum(1) @ place) / values.sum() == pytest.approx(CENTRE[up], abs=0.02)
        assert image.origin == "lower"
        (bar,) = axes.get_lines()
        (label,) = axes.texts
        assert label.get_text() == f"{np.ptp(bar.get_xdata()) * VOXEL_A:.0f} Å" == "20 Å"


def test_view_density_is_that_of_the_particles():
    """Against the mixture that the views were drawn from, within 5 standard errors √(κρ/N), κ = 67 the kernel's.

    The kernel and the bins flatten these caps of 40° by less than a tenth.
    """
    generator = torch.Generator().manual_seed(2)
    means = torch.eye(3, dtype=torch.float64)[:2]
    true = VonMisesFisherMixture(
        means, torch.tensor([2.0, 4.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    )
    count = 40_000
    found = view_density(direction_frames(true.sample(count, generator)))
    directions = random_rotations(400, generator)[:, :, 2]
    expected, seen = true.density(directions), found.density(directions)
    assert bool(((seen - expected).abs() < 5 * (67 * expected / count).sqrt() + 0.1 * expected).all())
    uniform = view_density(random_rotations(count, generator)).density(directions)
    assert float(uniform.std()) == pytest.approx(math.sqrt(67 / count), rel=0.25)


def test_history_shows_each_phase_and_who_was_chosen(drawn):
    panels = drawn(draw_run, picture())
    assert {"stochastic EM × 4", "selection × 2", "frequency marching"} <= set(panels)
    names = [text.get_text() for text in panels["stochastic EM × 4"].get_legend().get_texts()]
    assert names == ["highest at the end: 4", "candidate", "not followed"]
    assert [text.get_text() for text in panels["frequency marching"].texts] == ["18 Å", "12 Å"]
    assert len(panels["stochastic EM × 4"].get_lines()) == 2 * 4  # each step and the running mean
    assert panels["frequency marching"].get_xlim() == (0.5, 16.5)


def test_half_sets_share_a_panel_and_none_is_chosen(drawn):
    """Each half runs through all resolutions before the other begins."""
    rows = [
        HistoryRow(Stage.REFINEMENT, f"half {half}", step, resolution_A, float(step + half), 0.0)
        for half in (1, 2)
        for resolution_A in (20.0, 15.0)
        for step in range(1, 6)
    ]
    axes = drawn(draw_run, picture(rows=rows, chosen="1"))["refinement × 2"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["half 1", "half 2"]
    assert [text.get_text() for text in axes.texts] == ["20 Å", "15 Å"]
    assert len({line.get_color() for line in axes.get_lines()}) == 2


def test_starts_of_half_sets_have_the_colour_of_their_half(drawn):
    rows = [
        HistoryRow(Stage.STARTS, f"half {half} {start}", step, 30.0, float(step + half + start), 0.0)
        for half in (1, 2)
        for start in range(1, 9)
        for step in range(1, 6)
    ]
    axes = drawn(draw_run, picture(rows=rows, chosen="3"))["stochastic EM × 16"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["half 1", "half 2"]
    assert len({line.get_color() for line in axes.get_lines()}) == 2


def test_the_chosen_start_can_be_named(drawn):
    names = drawn(draw_run, picture(chosen="2"))["stochastic EM × 4"].get_legend().get_texts()
    assert names[0].get_text() == "chosen: 2"


def test_one_start_needs_no_legend(drawn):
    rows = [row for row in history() if row.alternative in ("", "2")]
    panels = drawn(draw_run, picture(rows=rows, chosen="2"))
    assert panels["stochastic EM"].get_legend() is None
    assert {"stochastic EM", "selection", "frequency marching"} <= set(panels)


def test_fsc_is_drawn_against_frequency_with_its_cutoffs(drawn):
    """A straight line from 1 at the origin to 0 at Nyquist falls below t at 1 − t of Nyquist, 1/6 per Å."""
    shells = torch.arange(17, dtype=torch.float64)
    curve = FSC(2 * math.pi / 32 * shells, 1 - shells / 16)
    panels = drawn(draw_fsc, curve, VOXEL_A)
    axes = panels["Fourier shell correlation with the truth"]
    line = axes.get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1 / 6, 17), rtol=1e-12)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0.5: 12.0 Å", "0.143: 7.0 Å"]
    (top,) = axes.child_axes
    for place, label in zip(top.get_xticks(), top.get_xticklabels(), strict=True):
        assert label.get_text() == f"{1 / place:g} Å"


def test_a_curve_without_resolution_says_so(drawn):
    curve = FSC(2 * math.pi / 8 * torch.arange(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))
    legend = drawn(draw_fsc, curve, VOXEL_A)["Fourier shell correlation with the truth"].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["0.5: none", "0.143: none"]


def test_the_search_ended_where_the_poses_are_from(drawn):
    panels = drawn(draw_run, picture())
    said = [text.get_text() for axes in panels.values() for text in axes.texts]
    assert said[said.index("poses searched to") + 1] == "13.5 Å"


def test_curves_have_thresholds_of_their_own():
    """1 − s/16 passes 0.5 at half of Nyquist, 12 Å, and its square 0.143 at 1 − √0.143 of it; one is only shown."""
    shells = torch.arange(17, dtype=torch.float64)
    line = FSC(2 * math.pi / 32 * shells, 1 - shells / 16)
    square = FSC(line.frequency, line.value.square())
    axes = Figure().subplots()
    plot_curves(axes, {"truth": (line, 0.5), "halves": (square, 0.143), "random": (square, None)}, VOXEL_A)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["truth: 0.5 at 12.0 Å", f"halves: 0.143 at {6 / (1 - 0.143**0.5):.1f} Å", "random"]
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose(marks, [(1 / 12, 0.5), ((1 - 0.143**0.5) / 6, 0.143)], rtol=0.02)


def test_a_files_name_is_no_formula(drawn):
    """Two $ in a name would be set as mathematics, or refused after hours of work."""
    axes = next(iter(drawn(draw_run, replace(picture(), title="$^$.star: 5 particles")).values()))
    (title,) = [text for text in axes.figure.figure.findobj(Text) if text.get_text().startswith("$^$")]
    assert not title.get_parse_math()

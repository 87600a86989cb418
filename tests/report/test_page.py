"""The page of a run: its content against the files it was made from, and in a browser, where one is installed."""

import base64
import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from orbitrec.cli.main import app
from orbitrec.errors import InputError
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.evaluation.orientation import conical_fsc, popular_directions, view_averages
from orbitrec.geometry.rotations import random_rotations
from orbitrec.io.files import write_csv, write_json
from orbitrec.io.mrc import read_map, write_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import RunFolder
from orbitrec.report.notebook import notebook_html
from orbitrec.report.page import write_report
from orbitrec.report.page_facts import assumed_facts
from orbitrec.report.run_files import RunFiles, write_conical_fsc, write_views
from orbitrec.report.summary import (
    Confidence,
    Contrast,
    Directions,
    HalfMaps,
    HalfSetKind,
    HalfSetOrigin,
    Handedness,
    StartSource,
    StartSummary,
    Summary,
)

CHECK = 'views <bundle> in "one" cap, see `diameter_A`'


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A stack of 32 px with CTF and shifts, its poses and its map."""
    data = tmp_path_factory.mktemp("set") / "data"
    options = ["--phantom", "60", "-n", "240", "--box", "32", "--pixel-size", "4", "--snr", "1", "--shift-px", "1"]
    made = CliRunner().invoke(app, ["simulate", "cryoem", *options, "--seed", "3", "-o", str(data)])
    assert made.exit_code == 0, made.output
    stack = ParticleStack.open(data / "truth.star")
    return stack, *stack.poses(), read_map(data / "truth.mrc")[0]


def summary(stack):
    return Summary(
        orbitrec="0", input="some folder/particles.star", particles=len(stack), box_px=stack.n,
        pixel_size_A=stack.pixel_size_A, dialect="RELION 3.1", posed="particles.star", ctf=True, checks=(CHECK,),
        seed=1, threads=1, device="cpu", diameter_A=80.0, search_resolution_A=14.0,
        half_maps=HalfMaps(HalfSetKind.ONE_REFERENCE, HalfSetOrigin.EVERY_OTHER, math.inf, 12.0),
        directions=Directions(0.93, 0.02, 0.61, 9.0, 11.0), confidence=Confidence(0.84, 21.5, 0.12, 0.91),
        shift_spread_px=1.0, contrast=Contrast.BRIGHT, contrast_of_images=Contrast.UNCLEAR,
        handedness=Handedness.AS_FOUND, symmetry="C1", symmetry_score=None, symmetry_kept=None,
        starts=(
            StartSummary(StartSource.MOMENTS, 1.0, None, False), StartSummary(StartSource.RANDOM, 2.0, 1.0, True)
        ),
        truth=None, seconds={"total": 7000.0}, peak_memory_GiB=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(simulated, tmp_path_factory):
    """The folder of a run that found the truth."""
    stack, rotations, shifts_px, volume = simulated
    folder = tmp_path_factory.mktemp("runs") / "a run"
    folder.mkdir()
    write_map(folder / "initial_model.mrc", volume, stack.pixel_size_A)
    stack.write_posed(folder / "particles.star", rotations, shifts_px)
    write_map(folder / "mask.mrc", volume, stack.pixel_size_A)
    write_json(folder / "summary.json", summary(stack).to_dict())
    noisy = volume + volume.std() * torch.randn(volume.shape, generator=torch.Generator().manual_seed(1))
    fsc = fourier_shell_correlation(volume, noisy)
    rows = zip(fsc.resolution_A(stack.pixel_size_A).tolist(), fsc.value.tolist(), strict=True)
    write_csv(
        folder / "fsc.csv",
        [{"shell": s, "resolution_A": a, "half_maps": v, "masked": v} for s, (a, v) in enumerate(rows)],
    )
    history = [
        {
            "stage": "stochastic EM",
            "alternative": 1 + i // 10,
            "step": 1 + i % 10,
            "resolution_A": 20.0,
            "log_likelihood": i % 10,
            "seconds": i,
        }
        for i in range(20)
    ]
    write_csv(folder / "history.csv", history)
    views = view_averages(
        stack, rotations, shifts_px, volume, radius_px=10.0, k_max=2 * math.pi * 4 / 14, dense_is_dark=False
    )
    write_conical_fsc(RunFolder(folder), conical_fsc(volume, noisy))
    write_views(RunFolder(folder), views, stack.pixel_size_A)
    write_report(folder)
    return folder


def test_averages_of_particles_look_like_the_map_where_poses_are_right(simulated):
    stack, rotations, shifts_px, volume = simulated
    settings = {"radius_px": 10.0, "k_max": 2 * math.pi * 4 / 14, "views": 4}
    right = view_averages(stack, rotations, shifts_px, volume, dense_is_dark=False, **settings)
    assert float(right.correlations.min()) > 0.9
    dark = view_averages(stack, rotations, shifts_px, volume, dense_is_dark=True, **settings)
    torch.testing.assert_close(dark.averages, -right.averages)
    torch.testing.assert_close(dark.correlations, -right.correlations)
    moved = view_averages(stack, rotations, shifts_px + 4, volume, dense_is_dark=False, **settings)
    rotated = rotations[torch.randperm(len(stack), generator=torch.Generator().manual_seed(2))]
    wrong = view_averages(stack, rotated, shifts_px, volume, dense_is_dark=False, **settings)
    assert float(right.correlations.mean()) > float(moved.correlations.mean()) + 0.1
    assert float(right.correlations.mean()) > float(wrong.correlations.mean()) + 0.1


def test_popular_directions_are_where_particles_are_and_apart():
    generator = torch.Generator().manual_seed(4)
    pole = torch.nn.functional.normalize(
        torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64) + 0.05 * torch.randn(500, 3, generator=generator).double(),
        dim=1,
    )
    found = popular_directions(torch.cat([pole, random_rotations(500, generator)[:, :, 2]]), 6)
    assert math.degrees(math.acos(float(found[0] @ torch.tensor([0.0, 0.6, 0.8]).double()))) < 10
    angles = (found @ found.T).abs().fill_diagonal_(0)
    assert float(angles.max()) < math.cos(math.radians(35))


class Page(HTMLParser):
    """Text, and every address that a browser would load."""

    def __init__(self, path):
        super().__init__()
        self.text, self.addresses = "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_everything(run):
    page = Page(run / "report.html")
    assert page.addresses
    assert all(re.match("data:(image/(png|svg\\+xml);base64)?,", address) for address in page.addresses)
    assert not re.search(r"url\(|@import|https?://", (run / "report.html").read_text().split("<script type")[0])
    assert (run / "report.html").stat().st_size < 4e6
    assert page.text.index(CHECK.replace("`", "")) < page.text.index("The map")
    assert "see <code>diameter_A</code></li>" in (run / "report.html").read_text()
    for words in (
        "some folder/particles.star",
        "240",
        "32 px = 128 Å",
        "none (FSC 0.143",
        "with a probability of 84 %: uncertain",
        "117 min",
        "2 – became the map",
        "Views: SCF* 0.93",
        "2 % of the directions of Fourier space are in no particle's slice",
        "Half-maps in cones of 20°",
    ):
        assert words in page.text


def test_the_page_says_where_the_same_seed_gives_the_map_again(simulated):
    given = summary(simulated[0])
    assert assumed_facts(given)["seed"] == "1; with 1 thread(s) on this machine it gives this map again"
    there = assumed_facts(replace(given, device="cuda:0"))["seed"]
    assert there == "1; on cuda:0 of this machine it should give this map again"


def test_the_viewer_is_given_the_map(run):
    content = (run / "report.html").read_text()
    view = json.loads(re.search('<script type="application/json" id="map">(.*?)</script>', content)[1])
    voxels = np.frombuffer(base64.b64decode(view["bytes"]), np.uint8).reshape([view["n"]] * 3)
    volume = RunFiles.read(run).volume
    assert view["n"] * view["voxel_A"] > 80  # the whole ball
    inside = (voxels > 255 * (view["level"] - view["low"]) / (view["high"] - view["low"])).mean()
    size = inside * (view["n"] * view["voxel_A"]) ** 3
    assert size == pytest.approx(float((volume > view["level"]).double().mean()) * 128**3, rel=0.1)
    assert f"volume #1 level {view['level']:.4g}" in content


def test_commands_name_files_as_a_shell_reads_them(run):
    text = Page(run / "report.html").text
    assert f"'{run}/initial_model.mrc'" in text
    assert "--particle_diameter 80 --ctf" in text
    assert "--ini_high 28" in text


@pytest.mark.parametrize("program", ["relion_refine", "relion_reconstruct", "relion_postprocess"])
def test_options_are_those_of_relion(run, program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian package relion)")
    commands = re.findall("<pre>(.*?)</pre>", (run / "report.html").read_text(), re.DOTALL)
    command = next(text for text in commands if program in text)
    known = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    options = set(re.findall(r"(?<=\s)--\w+", command))
    assert len(options) > 2
    assert options <= set(re.findall(r"--\w+", known))


def test_report_is_made_anew_from_the_files(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "report.html").unlink()
    (copy / "views.csv").unlink()
    (copy / "conical_fsc.csv").unlink()
    result = CliRunner().invoke(app, ["report", str(copy)])
    assert (result.exit_code, result.output.strip()) == (0, str(copy / "report.html"))
    assert "written without averages" in Page(copy / "report.html").text
    assert "Resolution by direction" not in Page(copy / "report.html").text


@pytest.mark.parametrize("missing", ["initial_model.mrc", "summary.json", "fsc.csv", "particles.star"])
def test_a_folder_without_a_finished_run_is_refused(run, tmp_path, missing):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / missing).unlink()
    with pytest.raises(InputError, match="copy"):
        write_report(copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{"),
        ("fsc.csv", "a,b\n1,2\n"),
        ("summary.json", "{}"),
        ("conical_fsc.csv", "x,y,z,0\n0,0,1,1\n"),
        ("conical_fsc.csv", ""),
    ],
)
def test_a_broken_file_is_told_of(run, tmp_path, name, content):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / name).write_text(content)
    with pytest.raises(InputError, match="copy"):
        write_report(copy)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Opens a page without a window: what the browser wrote to stdout and stderr."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium is installed (Debian package chromium): the report is not opened")
    profile = tmp_path_factory.mktemp("profile")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []

    def browse(page: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        options = ["--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}", *root, *arguments]
        told = ["--enable-logging=stderr", "--virtual-time-budget=10000", page.as_uri()]
        return subprocess.run([program, *options, *told], capture_output=True, text=True, timeout=300, check=True)

    return browse


# The browser's clock is a virtual one that jumps ahead while nothing runs: it waits for timers, but not for frames.
FRAMES = "<script>window.requestAnimationFrame = (draw) => setTimeout(draw, 10);</script>"
ACTIONS = """
<script>
const canvas = document.querySelector("canvas");
const picture = () => new Promise((done) => setTimeout(() => {
  const text = canvas.toDataURL();
  let sum = 7;
  for (let i = 0; i < text.length; i++) sum = (sum * 31 + text.charCodeAt(i)) % 1000003;
  done([canvas.width, canvas.dataset.drawn, sum]);
}, 100));
const change = (name, act) => {
  const control = document.querySelector(`[name=${name}]`);
  act(control);
  control.dispatchEvent(new Event("change"));
};
const mouse = (type, x) => canvas.dispatchEvent(new PointerEvent(type, { clientX: x, clientY: 90, pointerId: 1 }));
(async () => {
  const seen = { start: await picture() };
  mouse("pointerdown", 100); mouse("pointermove", 160); mouse("pointerup", 160);
  seen.dragged = await picture();
  document.querySelector("[data-view=z]").click();
  seen.back = await picture();
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp" }));
  seen.key = await picture();
  document.querySelector("[data-view=z]").click();
  change("mirror", (box) => { box.checked = true; });
  seen.mirror = await picture();
  change("mirror", (box) => { box.checked = false; });
  change("level", (slider) => { slider.value = slider.max; });
  seen.high = await picture();
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
})();
</script>
"""


def console(result):
    return [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def test_the_viewer_draws_and_turns(run, chromium, tmp_path):
    acted = tmp_path / "acted.html"
    page = (run / "report.html").read_text()
    acted.write_text(page.replace("<head>", "<head>" + FRAMES).replace("</body>", ACTIONS + "</body>"))
    result = chromium(acted, "--window-size=1200,900", "--dump-dom")
    assert console(result) == []
    seen = json.loads(re.search('<pre id="seen">(.*?)</pre>', result.stdout)[1])
    size, drawn, _ = seen["start"]
    assert 0.05 < int(drawn) / size**2 < 0.8
    assert seen["back"] == seen["start"]
    for action in ("dragged", "key", "mirror", "high"):
        assert seen[action][2] != seen["start"][2], action
    assert int(seen["high"][1]) < int(drawn)
    assert abs(int(seen["mirror"][1]) / int(drawn) - 1) < 0.02  # the mirror image covers as much, but for rounding
    assert seen["overflow"] <= 0


@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_shows_the_map(run, chromium, tmp_path, width):
    picture = tmp_path / "page.png"
    result = chromium(run / "report.html", f"--window-size={width},1000", f"--screenshot={picture}")
    assert console(result) == []
    red, _, blue = np.moveaxis(imread(picture)[:, :, :3], -1, 0)
    assert picture.stat().st_size > 20_000
    assert (blue - red > 0.15).mean() > 0.02  # the surface is blue


def test_errors_of_a_page_would_be_seen(chromium, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text("<script>missing.call()</script>")
    assert any("missing is not defined" in line for line in console(chromium(broken, "--dump-dom")))


def test_poses_are_read_back_from_a_cryosparc_table_without_its_images(run, tmp_path):
    """Against RELION's table of the same poses; the image fields of a .cs file may be in a passthrough file."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    star = RunFiles.read(copy)
    records = np.zeros(
        len(star.rotations),
        [
            ("uid", "<u8"),
            ("alignments3D/pose", "<f4", 3),
            ("alignments3D/shift", "<f4", 2),
            ("alignments3D/psize_A", "<f4"),
        ],
    )
    records["alignments3D/pose"] = Rotation.from_matrix(star.rotations.numpy()).as_rotvec()
    records["alignments3D/shift"] = -star.shifts_px.numpy()
    records["alignments3D/psize_A"] = star.voxel_size_A
    with (copy / "particles.cs").open("wb") as file:
        np.save(file, records)
    write_json(copy / "summary.json", replace(star.summary, posed="particles.cs").to_dict())
    found = RunFiles.read(copy)
    torch.testing.assert_close(found.rotations, star.rotations, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.shifts_px, star.shifts_px, atol=1e-5, rtol=0)


def test_a_notebook_shows_pictures_numbers_and_checks(run, chromium, tmp_path):
    """Rendered with checks: nothing is loaded, and their text is escaped."""
    files = RunFiles.read(run)
    shown = notebook_html(
        files.volume, files.voxel_size_A, files.curves["half_maps"], files.rotations, [CHECK], files.summary
    )
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{shown}")
    page = Page(path)
    assert [address[:22] for address in page.addresses] == ["data:image/png;base64,"]
    for words in ("240 particles of some folder/particles.star", CHECK.replace("`", ""), "agree to none", "117 min"):
        assert words in page.text
    assert "<bundle>" not in shown
    picture = tmp_path / "notebook.png"
    result = chromium(path, "--window-size=920,700", f"--screenshot={picture}")
    assert console(result) == []
    pixels = imread(picture)[:, :, :3]
    assert (pixels.max(axis=2) < 0.1).mean() > 0.05  # the black ground of the slices
    assert (pixels.min(axis=2) > 0.95).mean() > 0.3
    passed = notebook_html(
        files.volume, files.voxel_size_A, files.curves["half_maps"], files.rotations, [], files.summary
    )
    assert "Quality checks passed" in passed

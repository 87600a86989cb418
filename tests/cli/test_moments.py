import pytest
import torch

from oracles import whitened
from orbitrec.cli.main import run
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import read_star, write_star
from orbitrec.models.noise import estimate_noise
from orbitrec.moments.analytic import uniform_moments
from orbitrec.moments.files import read_moments
from orbitrec.moments.losses import kam_loss


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        run([*map(str, arguments)])
    return int(exit_.value.code or 0)


@pytest.fixture
def particles(tmp_path):
    options = ["--phantom", 20, "--box", 24, "-n", 300, "--snr", 0.5, "--shift-px", 0, "-o", tmp_path / "data"]
    assert command("simulate", "cryoem", *options) == 0
    return tmp_path / "data" / "particles.star"


def part(star, start: int, stop: int):
    tables = read_star(star)
    path = star.with_name(f"{start}.star")
    write_star(path, {**tables, "particles": tables["particles"].iloc[start:stop]})
    return path


def test_parts_merged_are_the_whole(tmp_path, particles):
    options = ["--resolution", 15, "--diameter", 60]
    assert command("moments", particles, "-o", tmp_path / "whole.safetensors", *options) == 0
    names = []
    for start, stop in ((0, 110), (110, 300)):
        names.append(tmp_path / f"{start}.safetensors")
        assert command("moments", "-o", names[-1], part(particles, start, stop), *options) == 0
    assert command("moments", "merge", *names, "-o", tmp_path / "merged.safetensors") == 0
    (whole, pixel), (merged, merged_pixel) = (read_moments(tmp_path / f"{n}.safetensors") for n in ("whole", "merged"))
    assert pixel == merged_pixel
    assert int(merged.count) == int(whole.count) == 300
    # Each part was whitened by its own estimate of the noise, from its own corners.
    assert float(kam_loss(whole.estimate(), merged.estimate())) < 0.1


def test_moments_are_those_of_the_images(tmp_path, particles):
    out = tmp_path / "m.safetensors"
    assert command("moments", particles, "-o", out, "--no-ctf", "--resolution", 12) == 0
    found, pixel = read_moments(out)
    stack = ParticleStack.open(particles, ctf=False)
    n = found.grid.box
    assert pixel == pytest.approx(stack.pixel_size_A * stack.n / n)
    # Without a CTF the sums are those of the whitened images' own outer products, cut at 1.2 k_max, with the
    # whitening as their filter.
    full = type(found.grid)(stack.n, found.grid.k_max * n / stack.n, found.grid.radial_nodes, found.grid.max_mode)
    images = stack.images(range(300))
    noise = estimate_noise([images])
    modes = full.from_images(whitened(images, noise)) * noise.at(full.nodes).rsqrt().float()
    own = uniform_moments(modes, torch.full((300,), 1 / 300), full).second
    symmetric = (found.second + found.second.mT) / 2 / 300
    assert float((symmetric - own.real).norm() / own.real.norm()) < 0.02


def test_bad_input_is_one_sentence(tmp_path, particles, capsys):
    out = tmp_path / "m.safetensors"
    assert command("moments", tmp_path / "none.star", "-o", out) == 2
    assert command("moments", particles, "-o", out, "--resolution", 1) == 2
    assert "two pixels" in capsys.readouterr().err
    assert command("moments", "merge", particles, "-o", out) == 2
    assert "not a whole safetensors file" in capsys.readouterr().err
    assert not out.exists()

import pytest
import torch

from oracles import whitened
from orbitrec.cli.main import run
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import read_star, write_star
from orbitrec.models.noise import estimate_noise
from orbitrec.moments.analytic import uniform_moments
from orbitrec.moments.files import read_cumulants, read_moments
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


def test_third_cumulants_of_parts_merge(tmp_path, particles, capsys):
    options = ["--resolution", 15, "--diameter", 60, "--order", 3]
    assert command("moments", particles, "-o", tmp_path / "whole.safetensors", *options) == 0
    whole, pairs = read_cumulants(tmp_path / "whole.safetensors"), read_moments(tmp_path / "whole.safetensors")[0]
    assert f"{whole.target().numbers} third cumulants" in capsys.readouterr().out
    assert int(whole.count) == int(pairs.count) == 300
    # Of the same images: what both hold of them is the same.
    assert torch.equal(whole.power, pairs.power)
    assert torch.allclose(whole.first, pairs.first)
    names, same = [], ["--coordinates", tmp_path / "whole.safetensors"]
    for start, stop in ((0, 110), (110, 300)):
        names.append(tmp_path / f"{start}.safetensors")
        assert command("moments", part(particles, start, stop), "-o", names[-1], *options, *same) == 0
    assert command("moments", "merge", *names, "-o", tmp_path / "merged.safetensors") == 0
    merged = read_cumulants(tmp_path / "merged.safetensors")
    # Each part was whitened by its own estimate of the noise, from its own corners.
    assert float((merged.third - whole.third).norm() / whole.third.norm()) < 0.3
    assert float((merged.product - whole.product).norm() / whole.product.norm()) < 0.1
    apart = tmp_path / "own.safetensors"
    assert command("moments", part(particles, 110, 300), "-o", apart, *options) == 0
    capsys.readouterr()
    assert command("moments", "merge", names[0], apart, "-o", tmp_path / "bad.safetensors") == 2
    assert "different coordinates" in capsys.readouterr().err
    assert command("moments", particles, "-o", tmp_path / "two.safetensors", *options[:4]) == 0
    assert command("moments", "merge", names[0], tmp_path / "two.safetensors", "-o", tmp_path / "bad.safetensors") == 2
    assert "some of the parts" in capsys.readouterr().err
    assert command("moments", particles, "-o", apart, *options, "--coordinates", tmp_path / "two.safetensors") == 2
    assert "no third cumulants" in capsys.readouterr().err
    assert not (tmp_path / "bad.safetensors").exists()


def test_the_order_of_two_changes_no_bit(tmp_path, particles):
    options = ["--resolution", 15, "--diameter", 60]
    assert command("moments", particles, "-o", tmp_path / "two.safetensors", *options) == 0
    assert command("moments", particles, "-o", tmp_path / "three.safetensors", *options, "--order", 3) == 0
    two, three = (read_moments(tmp_path / f"{name}.safetensors")[0].sums() for name in ("two", "three"))
    assert all(torch.equal(two[name], value) for name, value in three.items())
    assert read_cumulants(tmp_path / "two.safetensors") is None


def test_bad_input_is_one_sentence(tmp_path, particles, capsys):
    out = tmp_path / "m.safetensors"
    assert command("moments", tmp_path / "none.star", "-o", out) == 2
    assert command("moments", particles, "-o", out, "--resolution", 1) == 2
    assert "two pixels" in capsys.readouterr().err
    assert command("moments", "merge", particles, "-o", out) == 2
    assert "not a whole safetensors file" in capsys.readouterr().err
    assert not out.exists()

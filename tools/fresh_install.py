"""Install orbitrec's wheel into an empty environment and run a small job there, from a folder outside the checkout.

    python tools/fresh_install.py                     with the newest dependencies that pip finds
    python tools/fresh_install.py --lowest            with every direct dependency at its declared lower bound

Needs nothing but Python: the environment and the job's files lie in a temporary folder. The bounds are read from
``pyproject.toml``. Run ``--lowest`` with the oldest Python that ``pyproject.toml`` allows.

pip finds torch as it is set up to: where the plain torch is a build for GPUs, its oldest version brings gigabytes of
CUDA. ``--pin torch==2.13.0`` tries all other lower bounds with a torch that is at hand; the environment variable
``PIP_EXTRA_INDEX_URL``, which pip reads, can offer it CPU builds.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEST_FILES = (
    "cli/test_info.py",
    "cryoem/test_reconstruct.py",
    "geometry",
    "io",
    "models/test_ctf.py",
    "networks/test_pretrained.py",
    "report",
    "volumes/test_spherical_bessel.py",
)
"""At least one file for every dependency."""

DEMO = (
    "simulate cryoem --phantom 60 --box 24 --pixel-size 4 -n 300 --snr 1 --shift-px 1 --seed 1 -o data",
    "abinitio data/particles.star -o run --truth data/truth.mrc --matched 0 --starts 1 --resolution 24",
    "evaluate run/initial_model.mrc data/truth.mrc",
)
"""What ``make demo`` does, at a size that takes 20 seconds."""


def requirements(extras: Sequence[str] = ("test",)) -> list[str]:
    """The direct dependencies that ``pyproject.toml`` declares, with those of some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]


def lower_bounds(declared: Sequence[str]) -> dict[str, str]:
    """The lower bound of every requirement.

    Raises:
        ValueError: A requirement is not of the form ``name>=version``.
    """
    found = {}
    for requirement in declared:
        match = re.fullmatch(r"([A-Za-z\d._-]+)>=([\d.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r} declares no lower bound: write name>=version")
        found[match[1]] = match[2]
    return found


def outside() -> dict[str, str]:
    """The environment's variables, without those that let the checkout or the user's own packages be imported."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONNOUSERSITE": "1"}


def run(command: Sequence[str | Path], folder: Path) -> None:
    """Run a command in a folder outside the checkout, and stop here if it fails."""
    print("$", *command, flush=True)
    subprocess.run([str(word) for word in command], cwd=folder, env=outside(), check=True)


def run_demo(python: Path, folder: Path) -> None:
    """Simulate particles, recover them and evaluate the map with the orbitrec that ``python`` imports."""
    for line in ("--help", *DEMO):
        run([python, "-m", "orbitrec", *line.split()], folder)


def main() -> None:
    """Build the wheel, make the environment, run the job and a part of the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lowest", action="store_true", help="every direct dependency at its declared lower bound")
    parser.add_argument("--pin", action="append", default=[], metavar="NAME==VERSION", help="this version instead")
    parser.add_argument("--wheel", type=Path, help="the wheel to install; without it, one is built of the checkout")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in and to keep, e.g. to try again by hand")
    options = parser.parse_args()
    declared = requirements()
    pins = dict(lower_bounds(declared)) if options.lowest else {}
    pins |= dict(pin.split("==") for pin in options.pin)

    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "venv", folder / "environment"], folder)
        python = folder / "environment" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if options.wheel is None:
            run([python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], folder)
        wheel = options.wheel.resolve() if options.wheel else next(folder.glob("orbitrec-*.whl"))
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="utf-8")
        print(constraints.read_text(encoding="utf-8"))
        run([python, "-m", "pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[test]"], folder)
        run([python, "-m", "pip", "check"], folder)
        run_demo(python, folder)
        tests = [ROOT / "tests" / name for name in TEST_FILES]
        run([python, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ROOT, *tests], folder)


if __name__ == "__main__":
    main()

"""Particles that no code of this project made: RELION's projector and noise of make_set.py, or real ice behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import starfile

from orbitrec.errors import InputError
from plan import Ice, Trial

NOISELESS = 1e6
"""SNR of the projections that real ice is put behind: make_set.py's own noise is then a thousandth of theirs."""
STACK = "particles.mrcs"


def make_set(trial: Trial, folder: Path, shared: Path) -> None:
    """Blind particles.star, truth.star, truth.mrc (truth1.mrc of another species) and class.npy (−1 for junk).

    Args:
        trial: which map, condition and seed.
        folder: to be made.
        shared: with data/ and tools/.

    Raises:
        InputError: if the map or make_set.py is not there, or it fails.
    """
    options = dict(trial.condition.set)
    if trial.condition.ice:
        options["snr"] = NOISELESS
    words = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    maps = [shared / "data" / "panel" / f"{name}.mrc" for name in (trial.map, *trial.others)]
    for needed in (*maps, shared / "tools" / "make_set.py"):
        if not needed.is_file():
            raise InputError(f"{needed}: no such file; --shared names the folder that has data/ and tools/")
    run_tool(["tools/make_set.py", str(folder), ",".join(map(str, maps)), "--seed", str(trial.seed), *words], shared)
    if trial.condition.ice:
        patches = binned(shared / "data" / trial.condition.ice.file, trial.condition.ice)
        put_ice_behind(folder / STACK, patches, trial.condition.set["snr"], np.random.default_rng(trial.seed))


def binned(file: Path, ice: Ice) -> np.ndarray:
    """Patches of ice on fewer pixels: the low frequencies of their Fourier transform; unit variance over all."""
    with mrcfile.open(file) as stack:
        patches = stack.data.astype(np.float32)
    n = patches.shape[-1]
    m = n // ice.bin
    kept = slice(n // 2 - m // 2, n // 2 - m // 2 + m)
    spectrum = np.fft.fftshift(np.fft.fft2(patches), axes=(-2, -1))[:, kept, kept]
    small = np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1))).real
    return (small / small.std()).astype(np.float32)


def put_ice_behind(stack: Path, patches: np.ndarray, snr: float, generator: np.random.Generator) -> None:
    """Scale noiseless projections to ``snr`` and add a random crop of a random patch to each, turned and mirrored."""
    with mrcfile.mmap(stack, mode="r+") as file:
        n = file.data.shape[-1]
        for image in file.data:
            place = generator.integers(0, patches.shape[-1] - n + 1, 2)
            crop = patches[generator.integers(len(patches)), place[0] : place[0] + n, place[1] : place[1] + n]
            crop = np.rot90(crop, generator.integers(4))[:: generator.choice((-1, 1))]
            image *= (snr / NOISELESS) ** 0.5
            image += crop - crop.mean()
        file.update_header_stats()


def truth_of(folder: Path, species: int) -> Path:
    """The map of a species, as make_set.py names it."""
    return folder / f"truth{species or ''}.mrc"


def known_poses(folder: Path, species: int) -> Path:
    """RELION's map from the true poses of the good particles of a species.

    Raises:
        InputError: if relion_reconstruct fails.
    """
    tables = starfile.read(folder / "truth.star", always_dict=True)
    tables["particles"] = tables["particles"][np.load(folder / "class.npy") == species]
    starfile.write(tables, folder / "good.star")
    name = f"known_poses{species or ''}.mrc"
    run_tool(["relion_reconstruct", "--i", "good.star", "--o", name, "--ctf"], folder)
    return folder / name


def run_tool(command: list[str], folder: Path) -> str:
    """What a program or a Python script prints that works in ``folder``.

    Raises:
        InputError: if it is not there or fails: then the benchmark is at fault, not the run that it judges.
    """
    if command[0].endswith(".py"):
        command = [sys.executable, *command]
    if shutil.which(command[0]) is None:
        raise InputError(f"there is no program {command[0]}; install RELION (the Debian package relion)")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=one_thread())
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise InputError(f"{' '.join(command)} failed in {folder} and said: {said}")
    return done.stdout


def one_thread() -> dict[str, str]:
    """The tools' arrays are small: more threads only wait for one another."""
    return os.environ | {"OMP_NUM_THREADS": "1"}

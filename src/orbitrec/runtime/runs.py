"""Folders of runs that can be interrupted and resumed."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orbitrec.errors import InputError
from orbitrec.io.files import to_json, write_json
from orbitrec.io.runs import CHECKPOINT, RunFolder, new_run
from orbitrec.runtime.checkpoints import Checkpoints

SETTINGS = "settings.json"
FORMAT = 3
"""Of the records that runs keep; counted up when their names or content change, as a run cannot go on from others."""


@contextmanager
def resumable_run(
    path: Path | str, settings: Mapping[str, object], *, resume: bool
) -> Iterator[tuple[RunFolder, Checkpoints]]:
    """Context manager that gives a run's folder and checkpoints; these are removed when the run ends well.

    Without ``resume``, or where there is no interrupted run, the folder is one of :func:`new_run`.

    Args:
        path: the folder.
        settings: all that decides the result, in JSON's types. An interrupted run goes on only with the same settings.
        resume: whether to go on with the interrupted run in ``path``.

    Returns:
        The folder, and the records of the finished steps.

    Raises:
        InputError: as :func:`new_run`; if the interrupted run had other settings or is of a version with other records,
            or one of its files is damaged, the run in ``path`` is finished, or ``path`` has a folder of that name which
            is no run's.
    """
    path = Path(path)
    if resume and (path / CHECKPOINT / SETTINGS).is_file():
        run = RunFolder(path)
        _check_settings(path, settings)
        for stray in filter(_is_stray, path.rglob(".*")):
            stray.unlink(missing_ok=True)
        checkpoints = Checkpoints(run.checkpoint)
        checkpoints.require_whole()
        yield run, checkpoints
        shutil.rmtree(run.checkpoint)
        return
    if resume and path.is_dir() and (path / "summary.json").is_file():
        raise InputError(f"the run in {path} is finished; there is nothing to resume")
    if resume and (path / CHECKPOINT).is_dir():
        if not all(map(_is_stray, (path / CHECKPOINT).iterdir())):
            raise InputError(
                f"{path / CHECKPOINT} is not of a run that can go on; choose another folder for the output"
            )
        shutil.rmtree(path / CHECKPOINT)  # killed before it had begun
    with new_run(path) as run:
        checkpoints = Checkpoints(run.checkpoint)
        write_json(run.checkpoint / SETTINGS, {**settings, "format": FORMAT})
        yield run, checkpoints
        shutil.rmtree(run.checkpoint)


def _is_stray(path: Path) -> bool:
    """Whether a file was left by a writer that was killed."""
    return re.match(r"\.\d+-", path.name) is not None


def _check_settings(path: Path, settings: Mapping[str, object]) -> None:
    file, now = path / CHECKPOINT / SETTINGS, json.loads(to_json(settings))
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged; remove the folder of this run and begin anew") from error
    if before.pop("format", None) != FORMAT:
        raise InputError(
            f"the run in {path} was begun by another version of orbitrec, whose records this one cannot use; begin it "
            "anew in another folder"
        )
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        raise InputError(
            f"the run in {path} was begun with {name} {before.get(name)}, not {now.get(name)}; give the same, or begin "
            "another run"
        )

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
        InputError: as :func:`new_run`; if the interrupted run had other settings, or the run in ``path`` is finished.
    """
    path = Path(path)
    if resume and (path / CHECKPOINT / SETTINGS).is_file():
        run = RunFolder(path)
        _check_settings(path, settings)
        for stray in path.rglob(".*"):  # left by writers that were killed
            if re.match(r"\.\d+-", stray.name):
                stray.unlink(missing_ok=True)
        yield run, Checkpoints(run.checkpoint)
        shutil.rmtree(run.checkpoint)
        return
    if resume and path.is_dir() and (path / "summary.json").is_file():
        raise InputError(f"the run in {path} is finished; there is nothing to resume")
    if resume:  # killed before it had begun
        shutil.rmtree(path / CHECKPOINT, ignore_errors=True)
    with new_run(path) as run:
        checkpoints = Checkpoints(run.checkpoint)
        write_json(run.checkpoint / SETTINGS, settings)
        yield run, checkpoints
        shutil.rmtree(run.checkpoint)


def _check_settings(path: Path, settings: Mapping[str, object]) -> None:
    before, now = json.loads((path / CHECKPOINT / SETTINGS).read_text(encoding="utf-8")), json.loads(to_json(settings))
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        raise InputError(
            f"the run in {path} was begun with {name} {before.get(name)}, not {now.get(name)}; give the same, or begin "
            "another run"
        )

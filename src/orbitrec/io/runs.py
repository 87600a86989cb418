"""The folder that a command writes its results to."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from orbitrec.errors import InputError, WriteError

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, eq=False)
class RunFolder:
    """The folder that one run fills. Every file in it is written atomically, so that it can be read at any time.

    Attributes:
        path: the folder.
    """

    path: Path
    _names: set[str] = field(default_factory=set, repr=False)
    _folders: "list[RunFolder]" = field(default_factory=list, repr=False)

    def file(self, name: str) -> Path:
        """Path of the output file ``name``, which is removed again if the run ends in an :class:`InputError`."""
        self._names.add(name)
        return self.path / name

    def folder(self, name: str) -> "RunFolder":
        """A folder in it, for a run that is a part of this one; it is removed with this one's files."""
        inner = RunFolder(self.path / name)
        inner.path.mkdir(exist_ok=True)
        self._folders.append(inner)
        return inner

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoints; it exists until the run is finished."""
        return self.path / CHECKPOINT

    def _remove_files(self) -> None:
        for name in self._names:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoint, ignore_errors=True)
        for inner in self._folders:
            inner._remove_files()
            with suppress(OSError):  # something else is in it
                inner.path.rmdir()


@contextmanager
def new_run(path: Path | str) -> Iterator[RunFolder]:
    """Create the folder ``path`` for one run.

    Where the run ends in an :class:`InputError`, its own files and the folders made for it are removed. After any other
    error, a full disk among them, or an interrupt, the files so far are kept, since they may be hours of work.

    Raises:
        InputError: if ``path`` is a file, holds something already, or cannot be created.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; choose a folder for the output")
    if (path / CHECKPOINT).is_dir():
        raise InputError(f"{path} holds an interrupted run; go on with it with `resume`, or choose another folder")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"the folder {path} already holds a run or other files; choose another folder or remove it")
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {path}: {error.strerror}; choose another folder") from error
    run = RunFolder(path)
    try:
        yield run
    except BaseException as error:
        if isinstance(error, InputError) and not isinstance(error, WriteError):
            run._remove_files()
        for folder in created:
            with suppress(OSError):  # not empty: something worth keeping is in it
                folder.rmdir()
        raise

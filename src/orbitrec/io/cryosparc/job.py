"""The files of a cryoSPARC job that belong together: a table, what its job passed through, and the group of both."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from orbitrec.errors import InputError
from orbitrec.io.cryosparc.stream import LZ4_STREAM, SNAPPY_STREAM, read_stream
from orbitrec.io.files import existing_file, replacing, what_it_is


def read_records(path: Path) -> np.ndarray:
    """The records of one ``.cs`` file, compressed or not.

    Raises:
        InputError: if there is no such file, it is no cryoSPARC table, is damaged, or stores Python objects.
    """
    path = existing_file(path)
    with path.open("rb") as file:
        begin = file.read(1 << 16)
    if begin[:6] not in (b"\x93NUMPY", SNAPPY_STREAM, LZ4_STREAM):
        found = what_it_is(path) or "; give the particles' .cs file of a job"
        raise InputError(f"{path} is not a cryoSPARC table (.cs){found}")
    try:
        if begin[:6] != b"\x93NUMPY":
            return read_stream(path)
        # Mapped, so that a damaged header cannot ask for memory that the file does not fill. The header is parsed as
        # Python, and whatever that can raise says the same.
        with warnings.catch_warnings(action="ignore"):
            records = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=1 << 20)
        names, ndim = records.dtype.names, records.ndim
        records = np.array(records)
    except Exception as error:
        if begin[:6] == b"\x93NUMPY" and re.search(rb"'\|?O[48]?'", begin):
            raise InputError(
                f"{path} stores Python objects, which are never read since they could run anything; save it anew with "
                "cryosparc-tools"
            ) from error
        raise InputError(f"{path} is a damaged cryoSPARC table or is truncated; copy it again") from error
    if names is None or ndim != 1:
        raise InputError(f"{path} is a plain array and not a cryoSPARC table; give the particles' .cs file of a job")
    return records


def described(dtype: np.dtype) -> list[tuple]:
    """Name, type and shape of every field, without the padding between them."""
    return [(name, dtype[name].base, dtype[name].shape) for name in dtype.names or ()]


def read_output(
    path: Path, passthrough: Path | None, images: Sequence[str], ctf: Sequence[str]
) -> tuple[np.ndarray, dict[str, str]]:
    """The records of one output of a job, with the fields that its other files hold.

    Args:
        path: a ``.cs`` file, or the ``.csg`` file that lists those of an output.
        passthrough: the file to look for missing fields in; if None, those beside the table.
        images: fields without which nothing can be done.
        ctf: fields that most runs need.

    Returns:
        The records, and the types of their groups of fields as far as a ``.csg`` file says.

    Raises:
        InputError: if a file is missing or damaged, or lacks particles that are needed.
    """
    types: dict[str, str] = {}
    if path.suffix.lower() == ".csg":
        group = ResultGroup.read(path)
        path, types, records = group.files[0], group.types, group.records()
    else:
        records = read_records(path)
        group = None
    needed = {*images, *ctf}
    must = needed if passthrough is not None else {*images}  # a run may do without a CTF
    listed = [] if group is not None else _passthroughs(path)
    others = listed if passthrough is None else [(passthrough, True)]
    short: list[tuple[str, set[str]]] = []
    for other, is_own in others:
        missing = needed - {*_names(records)}
        if not missing and not is_own:
            break
        try:
            table = read_records(other)
            lacking = int((_rows_of(path, records, other, table) < 0).sum())
        except InputError:
            if (missing and is_own) or passthrough is not None:
                raise
            continue
        if lacking == 0:
            records = _joined(path, records, other, table)
        else:
            short.append((f"{other} lacks {lacking} of the {len(records)} particles of {path}", {*_names(table)}))
    missing = must - {*_names(records)}
    for said, held in short:
        if missing & held:
            raise InputError(
                f"{said}, which has no {min(missing & held)}; give the passthrough file of the same output"
            )
    return records, types


def _names(records: np.ndarray) -> tuple[str, ...]:
    return records.dtype.names or ()


def _passthroughs(path: Path) -> list[tuple[Path, bool]]:
    """The passthrough files beside a table that may be of its output, likely ones first, and whether they surely are.

    A ``.csg`` file tells. Else names do: ``J2_020_particles.cs``, ``cryosparc_P1_J2_020_particles.cs`` and
    ``particles_selected.cs`` go with ``J2_passthrough_particles.cs``, ``P1_J2_passthrough_particles.cs`` and
    ``J2_passthrough_particles_selected.cs``.
    """
    if "passthrough" in path.name or not path.parent.is_dir():
        return []
    listed: set[str] = set()
    for group in sorted(path.parent.glob("*.csg")):
        with suppress(InputError):  # of exposures, or of no use
            files = {file.name for file in ResultGroup.read(group).files}
            listed |= files if path.name in files else set()
    job, output, found = _job(path.name), _output(path.name), []
    for other in sorted(path.parent.glob("*passthrough*.cs")):
        if other.name in listed or not (job and _job(other.name)) or _job(other.name) == job:
            found.append((other, other.name in listed or (not listed and _output(other.name) == output)))
    if not (job or listed) and len({_job(other.name) for other, _ in found}) > 1:
        return []  # a name without its job, beside files of several jobs: any of them would be a guess
    return sorted(found, key=lambda each: not each[1])


def _job(name: str) -> str | None:
    found = re.search(r"(?:^|_)(J\d+)_", name)
    return found[1] if found else None


def _output(name: str) -> tuple[str, ...]:
    """What distinguishes the outputs of a job: the words of a name but for job, iteration and stage."""
    words = re.sub(r"\.cs$", "", name).split("_")
    dropped = r"cryosparc|[PJ]\d+|passthrough|final|exported|extracted|imported|\d{3,}"
    return tuple(sorted(re.sub(r"^0+(?=\d)", "", word) for word in words if not re.fullmatch(dropped, word)))


def table_of(passthrough: Path) -> Path | None:
    """The table beside a passthrough file that its job wrote, the last iteration's; None if there is none."""
    beside = [path for path in passthrough.parent.glob("*.cs") if "passthrough" not in path.name]
    own = [path for path in sorted(beside) if (passthrough, True) in _passthroughs(path)]
    return own[-1] if own else None


def _rows_of(path: Path, records: np.ndarray, other_path: Path, other: np.ndarray) -> np.ndarray:
    """For each record the row of the same ``uid`` in another table, −1 where it has none."""
    for name, table in ((path, records), (other_path, other)):
        if "uid" not in _names(table) or table["uid"].dtype.kind not in "iu" or table["uid"].ndim != 1:
            raise InputError(f"{name} has no uid to match it with the other files of its job; export the job anew")
    if len(other) == 0:
        return np.full(len(records), -1)
    order = np.argsort(other["uid"])
    rows = order[np.searchsorted(other["uid"], records["uid"], sorter=order).clip(max=len(other) - 1)]
    return np.where(other["uid"][rows] == records["uid"], rows, -1)


def _joined(
    path: Path, records: np.ndarray, other_path: Path, other: np.ndarray, owned: Sequence[str] = ()
) -> np.ndarray:
    """The records with the fields that only the other file has, and those of its ``owned`` groups, by ``uid``."""
    rows = _rows_of(path, records, other_path, other)
    if (rows < 0).any():
        raise InputError(
            f"{other_path} lacks {(rows < 0).sum()} of the {len(records)} particles of {path}; give files of one output"
        )
    replaced = {name for name in _names(other) if name.partition("/")[0] in owned}
    kept = [each for each in described(records.dtype) if each[0] not in replaced]
    added = [each for each in described(other.dtype) if each[0] not in {name for name, *_ in kept}]
    out = np.zeros(len(records), dtype=[*kept, *added])
    for name, *_ in kept:
        out[name] = records[name]
    for name, *_ in added:
        out[name] = other[name][rows]
    return out


@dataclass(frozen=True)
class ResultGroup:
    """What a ``.csg`` file says: the files that together are one output of a job.

    Attributes:
        files: the ``.cs`` files, the one with the images first.
        types: cryoSPARC's type of each group of fields, such as ``particle.blob`` of ``blob``.
        owned: for each file, the groups of fields that are its own, whatever the others hold.
    """

    files: tuple[Path, ...]
    types: dict[str, str] = field(default_factory=dict)
    owned: dict[Path, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "ResultGroup":
        """Read a ``.csg`` file; names that begin with ``>`` are relative to its folder, others to the project's.

        Raises:
            InputError: if there is no such file, it lists no files, or it lists no particles.
        """
        entries = dict(_entries(existing_file(path).read_text(encoding="utf-8", errors="surrogateescape")))
        kind = entries.get(("group", "type"), "particle")
        if kind != "particle":
            raise InputError(f"{path} is a cryoSPARC result group of the type {kind}; give one of particles")
        results = {
            keys[1]: value for keys, value in entries.items() if keys[0] == "results" and keys[2:] == ("metafile",)
        }
        if not results:
            raise InputError(f"{path} is no cryoSPARC result group: it lists no metafile; give the .cs file itself")
        names = dict.fromkeys([results.get("blob", next(iter(results.values()))), *results.values()])
        types = {keys[1]: value for keys, value in entries.items() if keys[0] == "results" and keys[2:] == ("type",)}
        files = {name: _beside(path, name) for name in names}
        owned: dict[Path, list[str]] = {file: [] for file in files.values()}
        for fields, name in results.items():
            owned[files[name]].append(fields)
        return cls(tuple(files.values()), types, owned)

    def records(self) -> np.ndarray:
        """The records of all files in one, matched by ``uid``.

        Raises:
            InputError: if a file is missing or damaged, or lacks particles.
        """
        records = read_records(self.files[0])
        for other in self.files[1:]:
            records = _joined(self.files[0], records, other, read_records(other), self.owned[other])
        return records

    @staticmethod
    def write(path: Path, records: Path, table: np.ndarray, types: dict[str, str]) -> None:
        """Write the ``.csg`` file that *Import Result Group* takes, for particles in one ``.cs`` file, atomically.

        Args:
            path: the file to write.
            records: the ``.cs`` file, in the same folder.
            table: its records.
            types: of groups of fields, as far as they are known.
        """
        metafile = "'>" + records.name.replace("'", "''") + "'"
        lines = [
            f"created: {datetime.now():%Y-%m-%d %H:%M:%S.%f}", "group:", "  description: Particles posed by orbitrec",
            "  name: particles", "  title: Particles", "  type: particle", "results:",
        ]  # fmt: skip
        for name in sorted({name.partition("/")[0] for name in _names(table) if "/" in name}):
            kind = types.get(name, f"particle.{_KIND_OF_SERIES.sub(lambda found: _SERIES[found[1]], name)}")
            lines += [f"  {name}:", f"    metafile: {metafile}", f"    num_items: {len(table)}", f"    type: {kind}"]
        with replacing(path) as temporary:
            temporary.write_text("\n".join([*lines, "version: v4.0.0", ""]), encoding="utf-8", errors="surrogateescape")


_SERIES = {"alignments_class": "alignments3D", "components_mode": "components"}
_KIND_OF_SERIES = re.compile(r"^(alignments_class|components_mode)_\d+$")


def _beside(path: Path, name: str) -> Path:
    """The file that a group means."""
    folders = [path.parent] if name.startswith(">") else [path.parent, *Path(os.path.abspath(path)).parents]
    found = [folder / name.lstrip(">") for folder in folders]
    return next((file for file in found if file.is_file()), found[0])


def _entries(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names and values of a YAML file of nothing but names within names."""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = re.fullmatch(r"( *)([^\s:#'\"][^:]*): *(.*?) *", line)
        if not found:
            continue
        indent, value = len(found[1]), found[3]
        above = [each for each in above if each[0] < indent] + [(indent, found[2])]
        if value:
            quote = value[0] if value[0] in "'\"" and value[-1] == value[0] else ""
            yield tuple(name for _, name in above), value.strip(quote).replace(2 * quote, quote) if quote else value

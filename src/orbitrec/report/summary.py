"""The facts of a run on particles: one typed record, and its form in ``summary.json``."""

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file, to_json

FORMAT = 2
"""Of ``summary.json``. Files without this number are of format 1; they are read as well."""

Resolution = Annotated[float, "Å; ∞ where a correlation curve has no resolution, null in JSON"]


class RunKind(StrEnum):
    """What a run made; the value is the name of its map, without suffix."""

    INITIAL_MODEL = "initial_model"
    REFINED = "refined"

    @property
    def title(self) -> str:
        """What people call it."""
        return {RunKind.INITIAL_MODEL: "Initial model", RunKind.REFINED: "Refined map"}[self]


class HalfSetKind(StrEnum):
    """How the two half-sets of the particles were treated."""

    INDEPENDENT = "independent"
    """Each was refined with a map of its own, so that their correlation stands for the resolution."""
    ONE_REFERENCE = "of one reference"
    """Both had their poses from one map, so that their correlation is an upper bound."""


class HalfSetOrigin(StrEnum):
    """Where the split of the particles is from."""

    EVERY_OTHER = "every other particle"
    INPUT = "the input's own"


class Contrast(StrEnum):
    """What dense matter looks like in the images."""

    BRIGHT = "dense is bright"
    DARK = "dense is dark"
    UNCLEAR = "not clear from the images"


class Handedness(StrEnum):
    """Which of the two mirror images the map is. Projections cannot tell."""

    AS_FOUND = "undetermined"
    MIRRORED = "undetermined, mirrored as asked"


class StartSource(StrEnum):
    """Where a start is from."""

    MOMENTS = "moments"
    MOMNET = "momnet"
    RANDOM = "random"
    MAP = "map"
    """The map that was given to be refined."""


@dataclass(frozen=True)
class StartSummary:
    """What became of one start.

    Attributes:
        source: where it is from.
        log_likelihood: of a held-out particle, after the first stage; None where it was not computed.
        agreement: correlation of its map with the chosen one's; None where the start was not a candidate.
        chosen: whether it became the map.
    """

    source: StartSource
    log_likelihood: float | None
    agreement: float | None
    chosen: bool


@dataclass(frozen=True)
class HalfMaps:
    """How far the maps of two half-sets agree.

    Attributes:
        kind: whether the half-sets were independent.
        origin: where the split is from.
        fsc0143_A: where their correlation within the mask, corrected for it, falls below 0.143.
        unmasked_fsc0143_A: the same without a mask.
        agreement: correlation of the half-sets' models at the end of the search; None where they had one model.
    """

    kind: HalfSetKind
    origin: HalfSetOrigin
    fsc0143_A: Resolution
    unmasked_fsc0143_A: Resolution
    agreement: float | None = None


@dataclass(frozen=True)
class TruthComparison:
    """How far the map agrees with the truth that was given, aligned over rotation, shift and handedness.

    Attributes:
        path: the true map.
        fsc05_A: where the correlation falls below 0.5.
        fsc0143_A: where it falls below 0.143.
        correlation: of the voxels.
        mirrored: whether the mirror image of the map agrees.
    """

    path: str
    fsc05_A: Resolution
    fsc0143_A: Resolution
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class Directions:
    """How evenly the views cover the particle, and how far the half-maps agree in each direction.

    Attributes:
        scf_star: the sampling compensation factor SCF* (Baldwin and Lyumkis 2020): 1 for uniform views, 0.81 for side
            views, near 0 where a cone of Fourier space is empty.
        unsampled: share of the directions of Fourier space that no view shows.
        cfar: the conical FSC area ratio, smallest over largest: 1 for a map that is as good in all directions.
        finest_A: where the half-maps' correlation in a cone of 20°, within the mask, falls below 0.143 in the direction
            in which it holds longest.
        coarsest_A: the same in the direction in which it falls first.
    """

    scf_star: float
    unsampled: float
    cfar: float
    finest_A: Resolution
    coarsest_A: Resolution


@dataclass(frozen=True)
class Confidence:
    """Whether the map is right, and what says so beside the half-maps and the views.

    Attributes:
        probability: that its FSC 0.5 with the truth is at most twice that of known poses, calibrated on runs whose
            truth is known.
        log_likelihood: of one particle over that of no signal, mean over those that are views.
        beyond: mean correlation of the half-maps just beyond the resolution of the search.
        starts: the largest correlation of another start's map with the chosen one.
    """

    probability: float
    log_likelihood: float
    beyond: float
    starts: float


@dataclass(frozen=True)
class Summary:
    """The facts of a run.

    Attributes:
        orbitrec: version of the package.
        input: the particle table.
        particles: their number.
        box_px: pixels along an edge of an image.
        pixel_size_A: of the images, in Å.
        dialect: format of the particle table, as people call it.
        posed: name of the table of posed particles in the run's folder.
        ctf: whether images have a CTF.
        checks: what the quality checks found, a sentence each; empty is the rule.
        seed: of the random numbers.
        threads: that torch computed with.
        device: that images were compared with templates on.
        diameter_A: of the ball that holds the particle, in Å.
        search_resolution_A: finest resolution in Å of the search for poses.
        half_maps: how far the maps of two half-sets agree.
        directions: how evenly the views cover the particle; None in runs that did not look.
        confidence: whether the map is right; None in runs that cannot tell.
        shift_spread_px: standard deviation of the shifts along x and y, in pixels.
        contrast: what the map was made with.
        contrast_of_images: what the images showed before.
        handedness: which mirror image the map is.
        symmetry: point group that was imposed; C1 for none.
        symmetry_score: how far the map shows the symmetry where it is not imposed; None without symmetry.
        symmetry_kept: log-likelihood of the symmetric map over that of one without the symmetry; None without symmetry.
        starts: in order; one for a map that was refined.
        truth: comparison with the truth; None where none was given.
        seconds: of every stage, and ``total``.
        peak_memory_GiB: of the process; None where the system does not say.
    """

    orbitrec: str
    input: str
    particles: int
    box_px: int
    pixel_size_A: float
    dialect: str
    posed: str
    ctf: bool
    checks: tuple[str, ...]
    seed: int
    threads: int
    device: str
    diameter_A: float
    search_resolution_A: float
    half_maps: HalfMaps
    directions: Directions | None
    confidence: Confidence | None
    shift_spread_px: float
    contrast: Contrast
    contrast_of_images: Contrast
    handedness: Handedness
    symmetry: str
    symmetry_score: float | None
    symmetry_kept: float | None
    starts: tuple[StartSummary, ...]
    truth: TruthComparison | None
    seconds: Mapping[str, float]
    peak_memory_GiB: float | None

    @property
    def total_seconds(self) -> float:
        """Duration of the run."""
        return self.seconds["total"]

    @property
    def chosen_start(self) -> int | None:
        """Number, from 1, of the start that became the map; None where none is marked."""
        return next((index for index, start in enumerate(self.starts, start=1) if start.chosen), None)

    def to_dict(self) -> dict[str, Any]:
        """The record as ``summary.json`` has it: half-maps and truth lie flat among the other facts."""
        flat = asdict(self)
        nested = {name: flat.pop(name) for name in _FLAT}
        for name, keys in _FLAT.items():
            flat |= {} if nested[name] is None else {key: nested[name][part] for part, key in keys.items()}
        return {"format": FORMAT, **flat}

    def to_json(self) -> str:
        """The text of ``summary.json``; ∞ is null."""
        return to_json(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Summary":
        """The record of what :meth:`to_dict` returned, or the version before wrote.

        Raises:
            InputError: if a fact is missing or has another type, or the format is a later one.
        """
        try:
            data = data if "format" in data else _from_format_1(data)
            if "kind" in data:  # as summaries of several classes have, two- or three-dimensional
                raise InputError("it is of a run with several classes; name the folder of one with a map, as class_1")
            if data["format"] != FORMAT:
                raise InputError(f"its format is {data['format']}, which this version does not know; use a later one")
            nested = {
                name: {part: data[key] if key not in _LATER else data.get(key) for part, key in keys.items()}
                for name, keys in _FLAT.items()
                if name not in _ABSENT or _ABSENT[name] in data
            }
            return _decoded(cls, {**dict.fromkeys(_LATER), **data, **dict.fromkeys(_ABSENT), **nested}, "")
        except KeyError as error:
            raise InputError(f"it lacks {error.args[0]}; run it again with this version") from error

    @classmethod
    def from_json(cls, text: str) -> "Summary":
        """The record that a ``summary.json`` holds.

        Raises:
            InputError: if it is not JSON, lacks a fact or has one of another type.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(f"it is not JSON ({error}); run it again") from error
        if not isinstance(data, dict):
            raise InputError("it does not hold facts by name; run it again")
        return cls.from_dict(data)

    @classmethod
    def read(cls, path: Path | str) -> "Summary":
        """Read a ``summary.json``.

        Raises:
            InputError: if there is no such file, or it does not hold the facts of a run.
        """
        text = existing_file(path).read_text(encoding="utf-8", errors="replace")
        try:
            return cls.from_json(text)
        except InputError as error:
            raise InputError(f"{path} cannot be used: {error}") from error


_FLAT = {
    "half_maps": {
        "kind": "half_sets",
        "origin": "half_sets_from",
        "fsc0143_A": "half_maps_fsc0143_A",
        "unmasked_fsc0143_A": "half_maps_unmasked_fsc0143_A",
        "agreement": "half_sets_agreement",
    },
    "directions": {
        "scf_star": "scf_star",
        "unsampled": "unsampled",
        "cfar": "cfar",
        "finest_A": "finest_direction_A",
        "coarsest_A": "coarsest_direction_A",
    },
    "confidence": {
        "probability": "probability_right",
        "log_likelihood": "particle_log_likelihood",
        "beyond": "correlation_beyond_search",
        "starts": "starts_agreement",
    },
    "truth": {
        "path": "truth",
        "fsc05_A": "fsc05_A",
        "fsc0143_A": "fsc0143_A",
        "correlation": "correlation",
        "mirrored": "mirrored",
    },
}
"""Nested records whose parts lie flat in JSON, where scripts look for them: part → key."""
_ABSENT = {"directions": "scf_star", "confidence": "probability_right", "truth": "truth"}
"""Those that a run may lack, and the key that tells."""
_LATER = {"half_sets_agreement", "symmetry_kept"}
"""Keys that files of this format did not have from the beginning; what they name may be None."""


def _decoded(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 — any type of a field
    """``value`` of JSON as the annotated type ``kind``."""
    origin, options = get_origin(kind), get_args(kind)
    if kind == Resolution:
        return math.inf if value is None else _decoded(float, value, where)
    if origin in (Union, types.UnionType):
        return None if value is None else _decoded(next(o for o in options if o is not type(None)), value, where)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, Mapping):
        hints = get_type_hints(kind, include_extras=True)
        dot = f"{where}." if where else ""
        return kind(
            **{part.name: _decoded(hints[part.name], value[part.name], dot + part.name) for part in fields(kind)}
        )
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_decoded(options[0], each, f"{where}[{index}]") for index, each in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        return {str(name): _decoded(options[1], each, f"{where}.{name}") for name, each in value.items()}
    if isinstance(kind, type) and issubclass(kind, Enum) and value in [each.value for each in kind]:
        return kind(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise InputError(f"its {where} is {value!r}, which cannot be; run it again")


def _from_format_1(old: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a file that has no format number, as orbitrec 0.1 wrote it."""
    agreements = old["start_agreements"]
    starts = [
        {
            "source": kind,
            "log_likelihood": score,
            "agreement": agreements.get(str(index)),
            "chosen": index == old["chosen_start"],
        }
        for index, (kind, score) in enumerate(zip_longest(old["start_kinds"], old["start_log_likelihoods"]), start=1)
    ]
    return {
        "half_sets_from": HalfSetOrigin.EVERY_OTHER.value,
        "device": "cpu",
        "symmetry": "C1",
        "symmetry_score": None,
        "symmetry_kept": None,
        **old,
        "format": FORMAT,
        "checks": old["warnings"],
        "half_sets": HalfSetKind.INDEPENDENT if old["half_sets"] == "independent" else HalfSetKind.ONE_REFERENCE,
        "handedness": Handedness.MIRRORED if "flipped" in old["hand"] else Handedness.AS_FOUND,
        "starts": starts,
    }

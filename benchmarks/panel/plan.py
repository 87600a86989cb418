"""What is to be run: the panel's file read and checked, and the trials that it asks for."""

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from orbitrec.errors import InputError


class Half(StrEnum):
    """Settings of orbitrec may be chosen on maps of the first half only."""

    TUNING = "tuning"
    HELD_OUT = "held out"


@dataclass(frozen=True)
class Ice:
    """Real noise: a stack of empty patches under the data folder, and the whole factor that they are binned by."""

    file: str
    bin: int


@dataclass(frozen=True)
class Condition:
    """How particles are made: make_set.py's options by name, and the real noise that takes the place of its own.

    Where there are several species, as many particles of each: of the map, and of those that are next by name.
    """

    name: str
    set: Mapping[str, Any]
    maps: Sequence[str]
    seeds: Mapping[Half, Sequence[int]]
    ice: Ice | None = None
    species: int = 1

    def settings(self) -> dict[str, Any]:
        """What decides the images."""
        several = {"species": self.species} if self.species > 1 else {}
        return {"set": dict(self.set), "ice": asdict(self.ice) if self.ice else None, **several}


@dataclass(frozen=True)
class Trial:
    """One set of particles and one run on it; ``others`` are the maps that share it."""

    map: str
    half: Half
    condition: Condition
    seed: int
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.map}-{self.condition.name}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The panel."""

    right: float
    fine: float
    halves: Mapping[str, Half]
    conditions: Mapping[str, Condition]

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """The panel that a file describes.

        Raises:
            InputError: if it is not TOML, lacks a part, or names what it does not define.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
            maps = {half: data["halves"][half] for half in Half}
            halves = {name: half for half, names in maps.items() for name in names}
            seeds = {half: data["seeds"][half] for half in Half}
            conditions = {name: _condition(name, part, halves, seeds) for name, part in data["conditions"].items()}
            plan = cls(float(data["right"]), float(data["fine"]), halves, conditions)
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        except KeyError as error:
            raise InputError(f"{path} lacks {error.args[0]!r}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is no panel: {error}") from error
        if len(halves) < sum(map(len, maps.values())):
            raise InputError(f"{path} names a map twice; each belongs to one half")
        return plan

    def trials(
        self,
        maps: Collection[str] | None = None,
        conditions: Collection[str] | None = None,
        seeds: Sequence[int] | None = None,
        half: Half | None = None,
    ) -> list[Trial]:
        """The trials of the panel, or of a part of it, first seeds first, so that an early stop leaves a whole look.

        Args:
            maps: names; all if None.
            conditions: names; all if None.
            seeds: instead of those of the file.
            half: the maps of one half only.

        Returns:
            Trials in the order in which they are to be run.

        Raises:
            InputError: if the panel has no map or condition of a name, or nothing is left.
        """
        for asked, known, kind in ((maps, self.halves, "map"), (conditions, self.conditions, "condition")):
            for name in asked or ():
                if name not in known:
                    raise InputError(f"the panel has no {kind} {name!r}; it has {', '.join(known)}")
        chosen = [
            trial
            for trial in self._all(seeds)
            if (maps is None or trial.map in maps)
            and (conditions is None or trial.condition.name in conditions)
            and half in (None, trial.half)
        ]
        if not chosen:
            raise InputError("the panel has no such trial: the conditions do not have these maps in this half")
        return sorted(chosen, key=lambda trial: trial.seed)

    def _all(self, seeds: Sequence[int] | None) -> Iterator[Trial]:
        for condition in self.conditions.values():
            for name in sorted(condition.maps):
                half = self.halves[name]
                own = sorted(other for other, its in self.halves.items() if its is half)
                next_ones = [*own, *own][own.index(name) + 1 :][: condition.species - 1]
                for seed in condition.seeds[half] if seeds is None else seeds:
                    yield Trial(name, half, condition, seed, tuple(next_ones))


def _condition(
    name: str, part: Mapping[str, Any], halves: Mapping[str, Half], seeds: Mapping[Half, Sequence[int]]
) -> Condition:
    unknown = part.keys() - {"set", "maps", "seeds", "ice", "species"}
    if unknown:
        raise ValueError(f"condition {name} has the unknown entry {min(unknown)!r}")
    maps = part.get("maps", list(halves))
    for each in maps:
        if each not in halves:
            raise ValueError(f"condition {name} names the map {each!r}, which is in no half")
    own = dict.fromkeys(Half, part["seeds"]) if "seeds" in part else seeds
    ice = Ice(**part["ice"]) if "ice" in part else None
    return Condition(name, part["set"], maps, own, ice, int(part.get("species", 1)))

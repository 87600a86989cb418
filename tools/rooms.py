"""How large every room of the library is: modules, lines, words. ``python tools/rooms.py`` prints the table.

``python tools/rooms.py --tree FOLDER --write docs/results/rooms-before.json`` keeps the sizes of another tree, with
which the table then compares.
"""

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEFORE = ROOT / "docs" / "results" / "rooms-before.json"

Size = tuple[int, int, int]
"""Modules, lines and words."""


def sizes(tree: Path) -> dict[str, Size]:
    """The size of every room under ``tree/src/orbitrec``; files at the top are one room, named “(top)”."""
    source, found = tree / "src" / "orbitrec", {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).parts
        room = parts[0] if len(parts) > 1 else "(top)"
        text = path.read_text(encoding="utf-8")
        modules, lines, words = found.get(room, (0, 0, 0))
        found[room] = (modules + 1, lines + len(text.splitlines()), words + len(text.split()))
    return found


def table() -> str:
    """Every room's modules, lines and words, before and now, as Markdown."""
    now, before = sizes(ROOT), {room: tuple(size) for room, size in json.loads(BEFORE.read_text()).items()}
    rows = ["| room | modules before | now | lines before | now | words before | now |", "|---|" + "---:|" * 6]
    for room in [*sorted(before.keys() | now.keys()), "all"]:
        old = _total(before) if room == "all" else before.get(room)
        new = _total(now) if room == "all" else now.get(room)
        pairs = [("" if old is None else old[i], "" if new is None else new[i]) for i in range(3)]
        rows.append(f"| {room} | " + " | ".join(f"{a} | {b}" for a, b in pairs) + " |")
    return "\n".join(rows)


def _total(of: dict) -> Size:
    modules, lines, words = zip(*of.values(), strict=True)
    return sum(modules), sum(lines), sum(words)


def main() -> None:
    """Print the table, or write the sizes of a tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    if arguments.write is None:
        print(table())
    else:
        arguments.write.write_text(json.dumps(sizes(arguments.tree), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The API reference of the documentation site: Markdown pages made from signatures and docstrings.

One page lists the names that ``import orbitrec`` offers, and one page for each room lists its public modules, classes
and functions. Sources are parsed, not imported, except to find where the names of ``orbitrec`` are defined.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "orbitrec"
LEFT_OUT = {"cli", "thesis"}
"""Rooms that are no library: commands have pages of their own, and ``thesis`` serves ``orbitrec reproduce`` alone."""
OVERVIEW = "api/index.md"

_NAMED = ("Args", "Attributes", "Raises")
_PLAIN = ("Returns", "Yields", "Example", "Examples", "References", "Source", "Note")
_WIDTH = 96

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """A module of the library: its dotted name and what it says."""

    name: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder it is in, or its own name at the top."""
        return self.name.split(".")[1]

    def public(self) -> list[Definition]:
        """Its public classes and functions, in their order."""
        return [node for node in self.tree.body if isinstance(node, Definition) and not node.name.startswith("_")]


@cache
def modules() -> list[Module]:
    """Every module that the reference describes."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] in LEFT_OUT or parts[0].startswith("__"):
            continue
        name = ".".join(("orbitrec", *(part for part in parts if part != "__init__")))
        found.append(Module(name, ast.parse(path.read_text(encoding="utf-8"))))
    return found


@cache
def rooms() -> list[str]:
    """Every room that has a page."""
    return sorted({module.room for module in modules()})


def room_page(room: str) -> str:
    """Where the page of a room is."""
    return f"api/{room}.md"


def offered() -> list[str]:
    """The names that ``import orbitrec`` offers, without the version."""
    names = getattr(importlib.import_module("orbitrec"), "__all__", [])
    return [name for name in names if not name.startswith("__")]


def pages() -> Iterator[tuple[str, str]]:
    """Every page of the reference: where it is and its Markdown."""
    yield OVERVIEW, _overview()
    for room in rooms():
        yield room_page(room), _room(room)


def _overview() -> str:
    library = importlib.import_module("orbitrec")
    entries = "\n".join(_offered(name, getattr(library, name)) for name in offered())
    listed = "\n".join(
        f"| [`orbitrec.{room}`]({room}.md) | {_first_sentence(_room_docstring(room), room_page(room))} |"
        for room in rooms()
    )
    return (
        "# API reference\n\n`import orbitrec` offers these names. Each is loaded when it is first used.\n\n"
        f"{entries}\n\n## Rooms\n\nEverything else is imported from the room that it is in.\n\n"
        f"| room | what is in it |\n|---|---|\n{listed}\n"
    )


def _offered(name: str, thing: object) -> str:
    if inspect.ismodule(thing):
        module = next(module for module in modules() if module.name == thing.__name__)
        text = _text(ast.get_docstring(module.tree) or "", OVERVIEW)
        return f"## {name} {{ #{name} }}\n\nThe module {_link(module.name, OVERVIEW)}.\n\n{text}\n"
    home, qualified = str(getattr(thing, "__module__", "")), str(getattr(thing, "__qualname__", name))
    node = _found(home, qualified)
    if node is None:
        return f"## {name} {{ #{name} }}\n"
    return _definition(node, name, f"In {_link(f'{home}.{qualified}', OVERVIEW)}.", name, OVERVIEW, "##")


def _found(home: str, name: str) -> Definition | None:
    module = next((module for module in modules() if module.name == home), None)
    return next((node for node in module.public() if node.name == name), None) if module else None


def _room_docstring(room: str) -> str:
    module = next(module for module in modules() if module.name == f"orbitrec.{room}")
    return ast.get_docstring(module.tree) or ""


def _room(room: str) -> str:
    parts = [f"# orbitrec.{room}\n\n{_text(_room_docstring(room), room_page(room))}\n"]
    for module in modules():
        public = module.public()
        if module.room != room or (not public and module.name == f"orbitrec.{room}"):
            continue
        if module.name != f"orbitrec.{room}":
            text = _text(ast.get_docstring(module.tree) or "", room_page(room))
            parts.append(f"## {module.name.removeprefix('orbitrec.')} {{ #{module.name} }}\n\n{text}\n")
        parts += [
            _definition(node, node.name, "", f"{module.name}.{node.name}", room_page(room), "###") for node in public
        ]
    return "\n".join(parts)


def _definition(node: Definition, name: str, where: str, anchor: str, page: str, heading: str) -> str:
    signature = _class_signature(node) if isinstance(node, ast.ClassDef) else _signature(node)
    parts = [
        f"{heading} {name} {{ #{anchor} }}",
        f"```text\n{signature}\n```",
        where,
        _text(ast.get_docstring(node) or "", page),
    ]
    if isinstance(node, ast.ClassDef):
        parts += [_member(*member, page) for member in _members(node)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _member(signature: str, docstring: str, page: str) -> str:
    return f'<div class="member" markdown="1">\n\n```text\n{signature}\n```\n\n{_text(docstring, page)}\n\n</div>'


def _members(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Signature and docstring of every public method and property, and of every documented field."""
    for child, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield _signature(child), ast.get_docstring(child) or ""
        elif isinstance(child, ast.AnnAssign | ast.Assign) and isinstance(after, ast.Expr):
            said = after.value.value if isinstance(after.value, ast.Constant) else None
            if isinstance(said, str):
                yield _unparsed(child), inspect.cleandoc(said)


def _class_signature(node: ast.ClassDef) -> str:
    bases = [_unparsed(base) for base in node.bases]
    made = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
    dataclass_like = "NamedTuple" in bases or any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    if dataclass_like:
        fields = [
            _unparsed(child)
            for child in node.body
            if isinstance(child, ast.AnnAssign) and "ClassVar" not in ast.unparse(child.annotation)
            and not ast.unparse(child.target).startswith("_")
        ]  # fmt: skip
        return _call(f"class {node.name}", fields, "")
    if made is not None:
        return _call(f"class {node.name}", _arguments(made.args), "")
    if any(base in ("Enum", "StrEnum") for base in bases):
        values = [_unparsed(child) for child in node.body if isinstance(child, ast.Assign)]
        return _call(f"enum {node.name}", values, "")
    return f"class {node.name}" + (f"({', '.join(bases)})" if bases else "")


def _signature(node: ast.FunctionDef) -> str:
    returns = f" -> {_unparsed(node.returns)}" if node.returns is not None else ""
    kinds = {_unparsed(each) for each in node.decorator_list}
    if kinds & {"property", "cached_property"}:
        return f"{node.name}{returns.replace(' ->', ':')}"
    prefix = "classmethod " if "classmethod" in kinds else ""
    return _call(prefix + node.name, _arguments(node.args), returns)


def _arguments(given: ast.arguments) -> list[str]:
    def one(arg: ast.arg, default: ast.expr | None) -> str:
        kind = f": {_unparsed(arg.annotation)}" if arg.annotation is not None else ""
        return arg.arg + kind + (f" = {_unparsed(default)}" if default is not None else "")

    plain = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    shown = [one(arg, default) for arg, default in zip(plain, defaults, strict=True) if arg.arg not in ("self", "cls")]
    if given.vararg is not None:
        shown.append("*" + one(given.vararg, None))
    elif given.kwonlyargs:
        shown.append("*")
    return shown + [one(arg, default) for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]


def _call(name: str, arguments: list[str], returns: str) -> str:
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= _WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){returns}"


def _unparsed(node: ast.AST | None) -> str:
    text = re.sub(r"'([^']*)'", r'"\1"', ast.unparse(node)) if node is not None else ""
    return re.sub(r'(?<![\[,] )"([A-Z]\w*)"', r"\1", text)  # a class's own name, quoted


def _first_sentence(docstring: str, page: str) -> str:
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return _inline(paragraph, page if page == OVERVIEW else OVERVIEW).replace("|", "\\|")


def _text(docstring: str, page: str) -> str:
    """A Google-style docstring as Markdown."""
    parts, lines = [], iter(docstring.splitlines())
    body: list[str] = []
    section: str | None = None
    for line in [*lines, None]:
        head = re.fullmatch(rf"({'|'.join(_NAMED + _PLAIN)}):", line) if line is not None else None
        if line is None or head or (section and line and not line.startswith(" ")):
            parts.append(_section(section, body, page))
            body, section = [], head[1] if head else None
            if line is None or head:
                continue
        body.append(line)
    return "\n\n".join(part for part in parts if part)


def _section(title: str | None, lines: list[str], page: str) -> str:
    text = inspect.cleandoc("\n".join(["", *lines])) if title else "\n".join(lines).strip("\n")
    if not text:
        return ""
    if title is None:
        return _paragraphs(text, page)
    if title not in _NAMED:
        return f"**{title}**\n\n{_paragraphs(text, page)}"
    items: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") or not line or not items:
            items = [*items[:-1], f"{items[-1]} {line.strip()}"] if items else [line]
        else:
            items.append(line)
    shown = (re.sub(r"^(\*{0,2}[\w., ]+?)(?: \(.*?\))?: ", r"`\1`: ", item) for item in items)
    return f"**{title}**\n\n" + "\n".join(f"* {_inline(item.strip(), page)}" for item in shown)


def _paragraphs(text: str, page: str) -> str:
    return "\n\n".join(part if part.startswith("    ") else _inline(part, page) for part in re.split(r"\n\s*\n", text))


def _inline(text: str, page: str) -> str:
    """Roles become links or code, and what looks like a tag stays text."""
    text = re.sub(r":(?:class|func|meth|data|mod|attr|obj):`~?([^`]+)`", lambda m: _reference(m[1], page), text)
    pieces = re.split(r"(``.*?``|`[^`]*`)", text, flags=re.DOTALL)
    return "".join(
        piece if index % 2 else re.sub(r"<(?=[A-Za-z/])", "&lt;", piece) for index, piece in enumerate(pieces)
    )


@cache
def _anchors() -> dict[str, list[str]]:
    """Dotted names of definitions and modules by their last word."""
    known: dict[str, list[str]] = {}
    for module in modules():
        if module.name.count(".") > 1:
            known.setdefault(module.name.split(".")[-1], []).append(module.name)
        for node in module.public():
            known.setdefault(node.name, []).append(f"{module.name}.{node.name}")
    return known


def _reference(name: str, page: str) -> str:
    parts = name.split(".")
    for last in range(len(parts), 0, -1):  # a method is shown with its class
        found = [full for full in _anchors().get(parts[last - 1], []) if full.endswith(".".join(parts[:last]))]
        if len(found) == 1:
            return _link(found[0], page, name)
    return f"`{name}`"


def _link(full: str, page: str, shown: str | None = None) -> str:
    room = full.split(".")[1]
    address = f"#{full}" if page == room_page(room) else f"{room}.md#{full}"
    return f"[`{shown or full}`]({address})"

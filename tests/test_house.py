"""Rules of the house that no linter knows: sizes, what docstrings say, what library text says, true documents."""

import ast
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orbitrec.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "orbitrec"
MODULES = sorted(PACKAGE.rglob("*.py"))
LIBRARY = [path for path in MODULES if "cli" not in path.parts]  # a command's docstring is its help text
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MADE = re.compile(r"(api/|commands/|commands\.md|contributing\.md)")
"""Pages of the site that are made from the code: a strict build of the site checks links to them."""

LONGEST_MODULE = 400
LONGER: dict[str, str] = {}
"""Modules above the limit, looked at twice: the one concept that needs them whole."""

MODULES_PER_FOLDER = 20
FULLER: dict[str, int] = {
    "thesis": 26,  # a module for each table and figure, which nothing imports but the command that prints it
}

ARGUMENTS = 3
"""A public function of so many arguments is documented argument by argument."""

COMMAND_LINES = {
    "src/orbitrec/report/next_steps.py",  # the commands to go on with, ours and other programs'
}
"""Library modules whose text holds command lines, because those are what they are about."""

Definition = ast.FunctionDef | ast.ClassDef


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def public_definitions(node: ast.Module | ast.ClassDef) -> Iterator[tuple[Definition, list[ast.FunctionDef]]]:
    """Every public function, method and class, with the functions whose errors its docstring answers for."""
    for child in node.body:
        if not isinstance(child, Definition) or child.name.startswith("_"):
            continue
        if isinstance(child, ast.ClassDef):
            makers = ("__init__", "__post_init__")
            yield child, [m for m in child.body if isinstance(m, ast.FunctionDef) and m.name in makers]
            yield from public_definitions(child)
        else:
            yield child, [child]


def public_functions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every public function and method, with its name inside the module."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            if isinstance(child, ast.ClassDef):
                yield from public_functions(child, f"{prefix}{child.name}.")
            elif "overload" not in map(ast.unparse, child.decorator_list):  # its implementation is documented
                yield prefix + child.name, child


def arguments(function: ast.FunctionDef) -> list[str]:
    """The names of a function's arguments, without the object or class that it is called on."""
    named = [each.arg for each in function.args.posonlyargs + function.args.args + function.args.kwonlyargs]
    rest = [each.arg for each in (function.args.vararg, function.args.kwarg) if each is not None]
    return [name for name in named + rest if name not in ("self", "cls")]


def raises_input_error(function: ast.FunctionDef) -> bool:
    calls = (
        node.exc.func for node in ast.walk(function) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    )
    return any(isinstance(name, ast.Name) and name.id == "InputError" for name in calls)


def undocumented(function: ast.FunctionDef) -> list[str]:
    """What a docstring leaves out: arguments by name, and the section on what is returned."""
    text = ast.get_docstring(function) or ""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    described = set(re.findall(r"^ {4}\*{0,2}(\w+)(?: \(.*\))?:", section[1], re.MULTILINE)) if section else set()
    missing = [name for name in arguments(function) if name not in described]
    returned = ast.unparse(function.returns) if function.returns else "None"
    if returned not in ("None", "Never", "NoReturn") and not re.search(r"^(Returns|Yields):", text, re.MULTILINE):
        missing.append("Returns")
    return missing


def described_by_protocols() -> set[tuple[str, tuple[str, ...]]]:
    """Methods that a protocol documents, by name and arguments: a class that offers one need not say it again."""
    classes = [node for path in LIBRARY for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)]
    protocols = [node for node in classes if any("Protocol" in ast.unparse(base) for base in node.bases)]
    methods = [method for node in protocols for method in node.body if isinstance(method, ast.FunctionDef)]
    return {(method.name, tuple(arguments(method))) for method in methods if not undocumented(method)}


def strings(node: ast.AST) -> list[str]:
    """The strings that an expression compares with: one constant, or a collection of them."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    values = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return values if len(values) == len(parts) else []


def compared(test: ast.expr) -> Iterator[str]:
    """What a condition compares with a string by ``==``, as source text."""
    for node in ast.walk(test):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq) and strings(node.comparators[0]):
            yield ast.unparse(node.left)


def branches(tree: ast.Module) -> Iterator[tuple[int, list[ast.expr]]]:
    """The conditions of every ``if … elif …`` and every ``a if … else b if …``, with the line where it begins."""
    followed = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.If | ast.IfExp) or node in followed:
            continue
        tests, link = [], node
        while isinstance(link, ast.If | ast.IfExp):
            followed.add(link)
            tests.append(link.test)
            rest = link.orelse if isinstance(link.orelse, list) else [link.orelse]
            link = rest[0] if len(rest) == 1 else None
        yield node.lineno, tests


def dispatches_on_strings(tree: ast.Module) -> Iterator[int]:
    """Lines of branches that ask twice what one name is equal to, and of ``match`` on strings."""
    for line, tests in branches(tree):
        if any(count > 1 for count in Counter(itertools.chain(*map(compared, tests))).values()):
            yield line
    for node in ast.walk(tree):
        if isinstance(node, ast.Match):
            patterns = [part for case in node.cases for part in ast.walk(case.pattern)]
            if any(isinstance(part, ast.MatchValue) and strings(part.value) for part in patterns):
                yield node.lineno


def test_modules_are_as_long_as_one_concept():
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert max(lengths.values()) > 50  # the tree was found
    assert {name for name, lines in lengths.items() if lines > LONGEST_MODULE} == LONGER.keys()


def test_folders_are_rooms_not_stores():
    counts = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in MODULES if path.stem != "__init__")
    assert counts["geometry"] > 3  # the tree was found
    assert {name for name, count in counts.items() if count > FULLER.get(name, MODULES_PER_FOLDER)} == set()


def test_public_functions_of_many_arguments_are_documented():
    shared = described_by_protocols()
    assert shared  # the protocols were found
    silent = [
        f"{relative(path)} {name}: {', '.join(missing)}"
        for path in LIBRARY
        for name, function in public_functions(parsed(path))
        if len(arguments(function)) >= ARGUMENTS
        and (function.name, tuple(arguments(function))) not in shared
        and (missing := undocumented(function))
    ]
    assert silent == []


def test_what_a_docstring_leaves_out_is_found():
    def of(signature: str, text: str) -> list[str]:
        return undocumented(ast.parse(f'def f{signature}:\n    """{text}"""').body[0])

    text = "What.\n\n    Args:\n        a: One.\n        *b (int): Two,\n            and more.\n\n        c: Three.\n"
    assert of("(self, a, *b, c) -> None", text) == []
    assert of("(a, *, d: int) -> int", text) == ["d", "Returns"]
    assert of("(a, b) -> int", text + "\n    Returns:\n        Four.\n") == []
    assert of("(a)", "Args of a kind.") == ["a"]


def test_docstrings_say_what_is_raised():
    silent = [
        f"{relative(path)}: {definition.name}"
        for path in LIBRARY
        for definition, functions in public_definitions(parsed(path))
        if any(map(raises_input_error, functions)) and "Raises:" not in (ast.get_docstring(definition) or "")
    ]
    assert silent == []


def test_public_tensors_state_their_shape():
    bare = [
        f"{relative(path)}: {definition.name}"
        for path in LIBRARY
        for definition, functions in public_definitions(parsed(path))
        for function in functions
        for annotation in [function.returns, *(a.annotation for a in function.args.args + function.args.kwonlyargs)]
        if annotation is not None and ast.unparse(annotation) in {"Tensor", "torch.Tensor"}
    ]
    assert bare == []


def test_library_text_names_parameters_not_options():
    option = re.compile(r"(?<![\w-])--[a-z]")
    found = [
        f"{relative(path)}:{node.lineno}: {node.value}"
        for path in LIBRARY
        if relative(path) not in COMMAND_LINES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and option.search(node.value)
    ]
    assert found == []


def test_no_string_selects_code():
    found = [f"{relative(path)}:{line}" for path in MODULES for line in dispatches_on_strings(parsed(path))]
    assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("if x == 'a':\n    f()\nelif x == 'b':\n    g()", True),
        ("y = f() if x.name == 'a' else g() if x.name == 'b' else h()", True),
        ("match x:\n    case 'a' | 'b':\n        f()", True),
        ("if x == 'a':\n    f()\nelif y == 'b':\n    g()", False),
        ("if x == Kind.A:\n    f()\nelif x == Kind.B:\n    g()", False),
        ("match x:\n    case Kind.A:\n        f()", False),
    ],
)
def test_strings_that_select_code_are_found(source, found):
    assert list(dispatches_on_strings(ast.parse(source))) == [1] * found


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_documents_name_files_that_exist(path):
    text = path.read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w/.])(?:src|tests|docs|tools|benchmarks|\.ci)/[\w./-]*\w", text)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [link for link in re.findall(r"(?<=\w\]\()[^)#]+(?=[)#])", prose) if "://" not in link]
    links = [link for link in links if not MADE.match(link.removeprefix("../"))]
    missing = [name for name in paths if not (ROOT / name).exists()]
    missing += [link for link in links if not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_documents_name_tests_that_exist(path):
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", path.read_text(encoding="utf-8"))
    assert [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")] == []


def documented_commands() -> list[str]:
    blocks = "\n".join(
        block for path in DOCUMENTS for block in re.findall(r"```(?:sh|bash)\n(.*?)```", path.read_text(), re.DOTALL)
    )
    lines = blocks.replace("\\\n", " ").splitlines()
    return sorted({line.partition("  #")[0].strip() for line in lines if line.startswith("orbitrec ")})


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands_exist(line):
    words = shlex.split(line)[1:]
    command = list(itertools.takewhile(re.compile(r"[a-z][a-z\d]*(-[a-z\d.]+)?$").match, words))
    shown = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    assert {word for word in words if re.match("--?[a-z]", word)} <= set(re.split(r"[^\w-]+", shown.output))


def test_the_documents_show_commands():
    assert documented_commands()


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.parent.name != "tutorials"], ids=relative)
def test_documented_python_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, relative(path), "exec"), {"__name__": "document"})

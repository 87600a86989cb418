"""Rules of the house that no linter knows: file sizes, what docstrings say, and documents that are true."""

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orbitrec.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "src").rglob("*.py"))
LIBRARY = [path for path in MODULES if "cli" not in path.parts]  # a command's docstring is its help text
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MADE = re.compile(r"(api/|commands/|commands\.md|contributing\.md)")
"""Pages of the site that are made from the code: a strict build of the site checks links to them."""
LONGEST_MODULE = 300

Definition = ast.FunctionDef | ast.ClassDef


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


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


def raises_input_error(function: ast.FunctionDef) -> bool:
    calls = (
        node.exc.func for node in ast.walk(function) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    )
    return any(isinstance(name, ast.Name) and name.id == "InputError" for name in calls)


def test_modules_are_short():
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert max(lengths.values()) > 50  # the tree was found
    assert [name for name, lines in lengths.items() if lines > LONGEST_MODULE] == []


def test_docstrings_say_what_is_raised():
    silent = [
        f"{relative(path)}: {definition.name}"
        for path in LIBRARY
        for definition, functions in public_definitions(ast.parse(path.read_text(encoding="utf-8")))
        if any(map(raises_input_error, functions)) and "Raises:" not in (ast.get_docstring(definition) or "")
    ]
    assert silent == []


def test_public_tensors_state_their_shape():
    bare = [
        f"{relative(path)}: {definition.name}"
        for path in LIBRARY
        for definition, functions in public_definitions(ast.parse(path.read_text(encoding="utf-8")))
        for function in functions
        for annotation in [function.returns, *(a.annotation for a in function.args.args + function.args.kwonlyargs)]
        if annotation is not None and ast.unparse(annotation) in {"Tensor", "torch.Tensor"}
    ]
    assert bare == []


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


def documented_commands() -> list[str]:
    blocks = "\n".join(
        block for path in DOCUMENTS for block in re.findall(r"```(?:sh|bash)\n(.*?)```", path.read_text(), re.DOTALL)
    )
    lines = blocks.replace("\\\n", " ").splitlines()
    return sorted({line.partition("  #")[0].strip() for line in lines if line.startswith("orbitrec ")})


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands_exist(line):
    words = shlex.split(line)[1:]
    command = list(itertools.takewhile(re.compile(r"[a-z]+(-[a-z\d.]+)?$").match, words))
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

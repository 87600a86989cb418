"""The wheel as others get it: complete, installed into an empty environment, and run from a folder of its own."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path
from types import ModuleType

import pytest

import orbitrec

pytest.importorskip("hatchling", reason="hatchling is not installed")
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
RUNS = [
    (f"{name}: {job}", step["run"])
    for name, workflow in WORKFLOWS.items()
    for job, body in workflow["jobs"].items()
    for step in body["steps"]
    if "run" in step
]


def build(target: str, source: Path, folder: Path) -> Path:
    """The only file that a build of the wheel or the source archive leaves in the folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def fresh_install() -> ModuleType:
    """The script ``tools/fresh_install.py``, as a module."""
    spec = importlib.util.spec_from_file_location("fresh_install", ROOT / "tools" / "fresh_install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel alone, and finds the dependencies in the one that runs this."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
        subprocess.run([*command, "--no-deps", "--no-index", wheel], check=True)
    else:  # an environment without pip: a wheel of Python files alone is installed where it is unpacked
        shutil.unpack_archive(wheel, packages, "zip")
    # A path in a .pth file: the other environment's own .pth files, the editable orbitrec among them, are not read.
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(others)) + "\n", encoding="utf-8")
    return folder / "bin" / "python"


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    tracked = subprocess.run(["git", "ls-files", "src/orbitrec"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    expected = {name.removeprefix("src/") for name in tracked.stdout.splitlines() if (ROOT / name).exists()}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert expected <= names
    assert {name for name in names if not name.startswith("orbitrec/")} == set()


def test_the_wheel_holds_every_kind_of_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"orbitrec/py.typed", "orbitrec/geometry/designs.npz", "orbitrec/report/page/report.html"} <= names
    assert {"orbitrec/report/page/viewer.js", "orbitrec/report/page/report.css"} <= names
    assert any(re.fullmatch(r"orbitrec/.*/weights/.*\.safetensors", name) for name in names)
    assert not [name for name in names if re.search(r"(^|/)(tests?|conftest|__pycache__)(/|\.|$)", name)]


def test_the_metadata_says_version_licence_and_requirements(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    message = message_from_bytes(archive.read(metadata))
    assert message["Version"] == orbitrec.__version__
    assert message["License-Expression"] == PROJECT["license"]
    assert set(PROJECT["classifiers"]) == set(message.get_all("Classifier"))
    required = {line for line in message.get_all("Requires-Dist") if "extra" not in line}
    assert len(required) == len(PROJECT["dependencies"])
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_the_source_archive_is_enough_to_build_the_same_wheel(wheel, tmp_path):
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    assert (source / "tests" / "conftest.py").exists()
    again = build("wheel", source, tmp_path / "wheel")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_the_installed_package_does_the_demos_job(installed, fresh_install, tmp_path):
    asked = [installed, "-c", "import orbitrec; print(orbitrec.__file__)"]
    imported = subprocess.run(
        asked, cwd=tmp_path, env=fresh_install.outside(), capture_output=True, text=True, check=True
    )
    assert Path(imported.stdout.strip()).is_relative_to(installed.parents[1])
    fresh_install.run_demo(installed, tmp_path)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["fsc05_A"] < 20  # 12.9 Å; of noise alone it is above 40


def test_the_command_is_installed_too(installed, fresh_install, tmp_path):
    command = [installed.with_name("orbitrec"), "--version"]
    said = subprocess.run(
        command, cwd=tmp_path, env=fresh_install.outside(), capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == f"orbitrec {orbitrec.__version__}"


def test_every_requirement_declares_a_lower_bound_that_can_be_tried(fresh_install):
    everything = fresh_install.requirements(("test",))
    bounds = fresh_install.lower_bounds(everything)
    assert len(bounds) == len(everything)
    with pytest.raises(ValueError, match="'numpy' declares no lower bound"):
        fresh_install.lower_bounds(["numpy"])
    assert [name for name in fresh_install.TEST_FILES if not (ROOT / "tests" / name).exists()] == []


def test_the_pinned_environment_keeps_the_declared_bounds(fresh_install):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.lower().split("==") for line in lines if "==" in line)
    for name, bound in fresh_install.lower_bounds(fresh_install.requirements()).items():
        assert [int(part) for part in pinned[name].split(".")] >= [int(part) for part in bound.split(".")], name


def test_the_citation_names_the_released_version():
    assert CITATION["version"] == orbitrec.__version__
    assert CITATION["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()  # what the format demands
    (thesis,) = CITATION["references"]
    assert thesis["year"] == 2024
    assert thesis["title"].startswith("On Learning and Optimization in Inverse Problems")


def test_workflows_try_every_python_that_is_declared():
    declared = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert set(WORKFLOWS["tests.yml"]["jobs"]["tests"]["strategy"]["matrix"]["python"]) == declared
    lowest = [step["with"] for step in WORKFLOWS["tests.yml"]["jobs"]["lowest-bounds"]["steps"] if "with" in step]
    assert f">={lowest[0]['python-version']}" == PROJECT["requires-python"]


@pytest.mark.parametrize(("where", "line"), RUNS)
def test_workflows_run_commands_that_exist(where, line):
    words = line.split()
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets, where
    else:
        assert words[0] == "python"
        assert (ROOT / words[1]).is_file()
        options = [word for word in words if word.startswith("--")]
        shown = subprocess.run([sys.executable, ROOT / words[1], "--help"], capture_output=True, text=True, check=True)
        assert set(options) <= set(re.findall(r"--[a-z-]+", shown.stdout))


def test_the_makefile_explains_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()) - {"help"}
    assert targets == set(re.findall(r"echo 'make ([a-z]+) ", text))


def test_hooks_before_a_commit_need_no_network():
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repository["repo"] for repository in configuration["repos"]} == {"local"}
    hooks = [hook for repository in configuration["repos"] for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    commands = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    assert commands <= set(re.findall(r"\$\(BIN\)/([\w-]+)", (ROOT / "Makefile").read_text(encoding="utf-8")))


def test_the_version_stands_in_one_place():
    source = (ROOT / "src" / "orbitrec" / "__init__.py").read_text(encoding="utf-8")
    assigned = re.findall(r'^__version__ = "(.*)"$', source, re.MULTILINE)  # where hatchling looks for it
    assert assigned == [orbitrec.__version__]
    assert "version" in PROJECT["dynamic"]

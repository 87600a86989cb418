"""The documentation site: built strictly, so that every link, anchor and picture is there, and complete."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from orbitrec.cli.main import app  # noqa: F401 - the pages of the commands are made from it

pytest.importorskip("mkdocs", reason="mkdocs is not installed")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import api_reference  # noqa: E402

MOST_WORDS = 12_000


def words(paths):
    """Words of prose: code that a reader copies or that a tutorial runs is not read as text."""
    texts = (path.read_text(encoding="utf-8") for path in paths)
    return sum(len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()) for text in texts)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser loads to show a page, and where its links lead."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.links = [], []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in ("script", "img", "link") and values.get("rel") != "canonical":
            self.loads += [address for address in (values.get("src"), values.get("href")) if address]
        elif tag == "a" and values.get("href"):
            self.links.append(values["href"])


def test_the_site_needs_no_network(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        for address in Loaded(page).loads:
            assert not re.match("(https?:)?//", address), f"{page.name} loads {address}"


def test_every_local_link_leads_somewhere(site):
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":  # served from anywhere, so its links start at the root
            continue
        for link in Loaded(page).links:
            path = unquote(link.partition("#")[0])
            if path and not re.match("https?:|mailto:", path):
                assert (page.parent / path).exists(), f"{page.relative_to(site)} links to {link}"


def test_every_command_has_its_page(site):
    overview = (site / "commands.html").read_text(encoding="utf-8")
    for name in ("abinitio", "refine", "report", "simulate-cryoem", "reproduce-table-4.1", "moments-merge"):
        page = (site / "commands" / f"{name}.html").read_text(encoding="utf-8")
        assert "Example:" in page, name
        assert f"commands/{name}.html" in overview
    assert "--resume" in (site / "commands" / "abinitio.html").read_text(encoding="utf-8")


def test_every_reproduction_is_listed(site):
    made = {page.stem for page in (site / "commands").glob("reproduce-*.html")}
    assert len(made) > 5
    overview = (site / "commands.html").read_text(encoding="utf-8")
    assert [name for name in made if f"commands/{name}.html" not in overview] == []


def test_every_name_and_every_room_is_in_the_reference(site):
    overview = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert [name for name in api_reference.offered() if f'id="{name}"' not in overview] == []
    folders = {path.name for path in (ROOT / "src" / "orbitrec").iterdir() if (path / "__init__.py").exists()}
    for room in folders - api_reference.LEFT_OUT:
        page = (site / "api" / f"{room}.html").read_text(encoding="utf-8")
        assert f"orbitrec.{room}" in page
        assert not re.search(r":(class|func|meth|mod|data):", page), f"a role is left on the page of {room}"


def test_the_reference_describes_what_it_documents(site):
    """A class with arguments, errors and methods: each is on its page, in its form."""
    page = (site / "api" / "geometry.html").read_text(encoding="utf-8")
    shown = page[page.index('id="orbitrec.geometry.polar.PolarGrid"') :]
    assert "class PolarGrid(" in shown
    assert "<strong>Raises</strong>" in shown
    assert ">radial_nodes</code>: number of Gauss–Legendre nodes" in shown
    assert "classmethod for_radius(" in shown


def test_documents_are_short():
    """Words for people to read; pages made from the code are not counted."""
    people = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    assert words(people) <= MOST_WORDS
    assert words([ROOT / "docs" / "architecture.md"]) <= 2000

"""Results as files and in documents: the tables of a page are those of the JSON that a command wrote."""

import json
import re
import sys
from pathlib import Path

import pytest

from orbitrec.errors import InputError
from orbitrec.io.files import to_json
from orbitrec.thesis.records import Made, TextTable
from orbitrec.thesis.results import as_markdown, read_result

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import thesis_tables  # noqa: E402

PAGES = ROOT / "docs" / "thesis"
RESULTS = sorted((PAGES / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_read_and_written_without_loss(path):
    result, made = read_result(path)
    assert json.loads(to_json(result.to_json(made))) == json.loads(path.read_text())
    assert path.stem.startswith(result.experiment)
    assert all(len(row) == len(table.headings) for table in result.tables() for row in table.rows)


def test_every_number_of_a_table_is_the_files():
    """One cell, by hand: SVRG+II on cryo-EM, 187 epochs where the thesis has 790."""
    rows = json.loads((PAGES / "results" / "table-4.3.json").read_text())["rows"]
    row = next(row for row in rows if row["method"] == "SVRG+II")
    line = next(
        line for line in as_markdown(PAGES / "results" / "table-4.3.json").splitlines() if "| SVRG+II |" in line
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:6] == [f"{row['epochs']:.0f}", "790", f"{row['passes']:.0f}", f"{row['seconds']:.2f}"]


def test_pages_have_no_table_of_their_own_and_every_table_is_in_a_page():
    included = []
    for page in PAGES.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^\|", text, re.MULTILINE), f"{page.name}: a table is pasted"
        included += thesis_tables.MARKER.findall(text)
    experiments = {read_result(PAGES / path)[0].experiment for path in included}
    assert experiments == {read_result(path)[0].experiment for path in RESULTS}


def test_a_marker_becomes_the_tables_and_by_what_they_were_made():
    page = "Before.\n\n<!-- table: results/table-4.2.json -->\n\nAfter.\n"
    shown = thesis_tables.with_tables(page, PAGES)
    assert shown.startswith(
        'Before.\n\n<div class="result" markdown="1">\n\n*Table 4.2: EM methods on windowed MRA, density estimated*'
    )
    assert "\n\n| method | to 10⁻⁴ | epochs |" in shown
    assert "\n| --- | ---: | ---: |" in shown
    assert "`OMP_NUM_THREADS=1 orbitrec reproduce table-4.2 --scale full -o table-4.2`; commit 4c24be7" in shown
    assert shown.endswith("\n\n</div>\n\n\nAfter.\n")
    assert "table:" not in shown.replace("table-4.2`", "")


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        thesis_tables.with_tables("<!-- table: absent.json -->", tmp_path)
    for text in ("{", "{}", '{"experiment": "table-9.9"}', '{"experiment": "table-4.1", "made": {"command": ""}}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(InputError, match="no result of an experiment"):
            read_result(tmp_path / "other.json")


def test_a_table_for_a_document():
    table = TextTable("A title", ("what", "n"), ((("a|b", "1"),), (("c", "2"),)))
    assert table.as_markdown() == "*A title*\n\n| what | n |\n| --- | ---: |\n| a\\|b | 1 |\n| c | 2 |\n"
    assert table.for_terminal().row_count == 2
    assert Made("a command").note == ""

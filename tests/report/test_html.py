"""The HTML page: one file that fetches nothing, holds every figure, escapes every name, twice the same."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mlcompress.errors import UsageError
from mlcompress.report import chain, html, plots, write
from mlcompress.report.rows import Report, Score
from mlcompress.report.tables import gate, tables
from tests.report.figures import ALONE, REPORT, ROWS

VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use", "rect", "line"}
HOSTILE = '<b>"&\'$x_1$ id="a"--><svg onload=alert(1)><script>alert(1).onnx'


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(html.render(REPORT))


def test_nothing_is_fetched_and_nothing_is_executed(page):
    assert {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "base",
        "image",
    } == set()
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value.startswith("#")
    text = html.render(REPORT)
    assert "://" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}


def test_every_cell_of_every_table_is_on_the_page(page):
    for table in [*tables(REPORT), *gate(REPORT)]:
        assert table.title in page.text
        for cell in [cell for line in table.lines for cell in line]:
            assert cell.text in page.text


def test_hashes_warnings_chain_skips_and_environment_are_on_the_page(page):
    for row in ROWS:
        assert row.sha256 in page.text
        assert row.path in page.text
    for text in (
        "2 Conv stay in float",
        "named in skip",
        "1.32.0",
        "50 % of the elements",
        "The gate was missed.",
    ):
        assert text in page.text


def test_tables_name_their_rows_and_columns(page):
    headers = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert set(headers) == {"col", "row"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = [value[1:] for _, attributes in page.tags for name, value in attributes.items() if name == "href"]
    assert set(used) <= set(ids)


def test_hostile_names_are_text_everywhere():
    rows = (
        replace(ROWS[0], path=HOSTILE),
        replace(ROWS[4], summary=HOSTILE, stage=HOSTILE, warnings=(HOSTILE,)),
    )
    hostile = Page(
        html.render(replace(REPORT, rows=chain.link(rows), title=HOSTILE, environment={HOSTILE: HOSTILE}))
    )
    tags = {tag for tag, _ in hostile.tags}
    assert "script" not in tags
    assert "b" not in tags
    assert all("onload" not in attributes for _, attributes in hostile.tags)
    # title, outcome, six tables' and three plots' lines, chain, warnings, files, environment
    assert hostile.text.count(HOSTILE) >= 15


def test_a_name_with_dollars_is_no_mathematics():
    """Matplotlib would draw `$x_1$` as an italic x with a subscript, and stop at a broken formula."""
    rows = (replace(ROWS[0], path="$x_1$.onnx"), replace(ROWS[4], path=r"$\frac{$.onnx"))
    for plot, names in zip(
        plots.draw(Report(chain.link(rows))), (2, 1, 2), strict=True
    ):  # latency: not the baseline
        shown = Page(plot.svg).text
        assert [name in shown for name in ("$x_1$.onnx", r"$\frac{$.onnx")].count(True) == names


def test_synthetic_data_is_loud():
    score = Score("top1", 0.1, 64, synthetic=True)
    loud = Page(html.render(Report((ROWS[0], replace(ROWS[1], synthetic=True, score=score)))))
    marked = [attributes for tag, attributes in loud.tags if attributes.get("class") == "loud"]
    assert len(marked) == 2
    assert loud.text.count("SYNTHETIC DATA") == 3  # two notices and the metric's source
    assert "SYNTHETIC" not in html.render(REPORT)


def test_a_file_without_any_measurement_still_makes_a_page():
    text = Page(html.render(ALONE)).text
    assert "there is no card beside the file" in text
    assert "not measured" in text


def test_plots_are_drawn_only_from_figures():
    assert [plot.title for plot in plots.draw(REPORT)] == [
        "Size and top1",
        "Latency on cpu, batch 1, 1 thread",
        "Bytes on disk and gzipped",
    ]
    assert [plot.title for plot in plots.draw(ALONE)] == ["Bytes on disk and gzipped"]
    assert "0.390 (0.370–0.410)" in plots.draw(REPORT)[1].description


def test_plots_follow_the_colours_of_the_page():
    for plot in plots.draw(REPORT):
        assert "var(--ink)" in plot.svg
        assert re.findall(r"(?:fill|stroke): ?#\w+", plot.svg) == []


def test_the_bytes_are_the_same_in_another_process(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from mlcompress.report import write; from tests.report.figures import REPORT\n"
        "for name in ('r.html', 'r.md', 'r.json', 'r.xml'): write.write(REPORT, Path(sys.argv[1]) / name)"
    )
    written = []
    for seed in ("1", "2"):  # two orders of every hash table
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment, cwd=root)
        written.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert list(written[0]) == ["r.html", "r.json", "r.md", "r.xml"]  # and no draft is left
    assert written[0] == written[1]
    assert written[0]["r.html"] == html.render(REPORT).encode()


def test_names_that_cannot_be_written_are_all_refused_before_any_work(tmp_path):
    (tmp_path / "folder.md").mkdir()
    names = ["r.pdf", "missing/r.html", "folder.md", "r.html"]
    with pytest.raises(UsageError) as problem:
        write.targets([tmp_path / name for name in names], [], [])
    assert [line.removeprefix(f"{tmp_path}/").split(";")[0] for line in problem.value.lines] == [
        "r.pdf: no report format has this suffix",
        f"missing/r.html: the folder {tmp_path}/missing does not exist",
        "folder.md: is a folder",
    ]


def test_formats_of_the_recipe_stand_beside_the_named_file(tmp_path):
    html_file, markdown_file = tmp_path / "r.html", tmp_path / "r.md"
    assert write.targets([html_file], ["html", "md"], []) == [html_file, markdown_file]
    assert write.targets([], ["html"], []) == []


def test_a_card_is_never_overwritten(tmp_path):
    """`int8.onnx.json` is a good name for a report, and the place of the card."""
    with pytest.raises(UsageError, match="is the card of a reported model"):
        write.targets([tmp_path / "int8.onnx.html"], ["json"], [tmp_path / "int8.onnx"])

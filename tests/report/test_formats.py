"""Terminal, Markdown, JSON and JUnit from figures written by hand; nothing is timed."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from mlcompress.gate import Checked
from mlcompress.report import json_, junit, markdown, terminal
from mlcompress.report.rows import Report, Timing
from tests.report.figures import ALONE, REPORT, ROWS, ratio


def shown(report: Report, capsys: pytest.CaptureFixture[str], width: int) -> str:
    terminal.show(report, width=width)
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.split("\n"))


GOLDEN = """\
models/teacher.onnx
├─ out/student.onnx   distill
│  └─ out/pruned.onnx   prune
│     └─ out/int8.onnx   quantize
└─ out/dynamic.onnx   quantize
student.onnx: 3.92x smaller (2.79 MB to 712.35 kB)
student.onnx: 2.56x faster on cpu
student.onnx: top1 -0.55 pt (92.43 % to 91.88 %, 10000 samples: 40 fixed, 95 broken)
pruned.onnx: 3.92x smaller (2.79 MB to 712.35 kB)
pruned.onnx: 2.56x faster on cpu
pruned.onnx: top1 -0.08 pt (92.43 % to 92.35 %, 10000 samples: 102 fixed, 110 broken); may be chance
dynamic.onnx: 1.04x larger; smaller only when gzipped (1.12x)
dynamic.onnx: 1.65x slower on cpu
dynamic.onnx: 3 nodes did not run on cpu
dynamic.onnx: top1 -2.43 pt (92.43 % to 90.00 %, 10000 samples: 57 fixed, 300 broken)
int8.onnx: 14.69x smaller (2.79 MB to 190.00 kB)
int8.onnx: 4.55x faster on cpu
int8.onnx: top1 -0.92 pt (92.43 % to 91.51 %, 10000 samples); the 95 % intervals overlap

Size
Model           On disk  Size              Gzipped  Parameters    MACs
teacher.onnx    2.79 MB  baseline          2.58 MB       696 k  31.2 M
student.onnx  712.35 kB  3.92x smaller   660.00 kB       175 k   8.1 M
pruned.onnx   712.35 kB  3.92x smaller   310.00 kB       175 k   8.1 M
dynamic.onnx    2.90 MB  1.04x larger      2.30 MB       696 k  31.2 M
int8.onnx     190.00 kB  14.69x smaller  170.00 kB       175 k     7 M
MACs: multiply-accumulates of one call at the measured batch size. They are not latency.

Accuracy
Model               Metric     95 % interval  Samples    Change  Source
teacher.onnx  top1 92.43 %  91.89 to 92.93 %    10000  baseline  measured
student.onnx  top1 91.88 %  91.33 to 92.40 %    10000  -0.55 pt  measured
pruned.onnx   top1 92.35 %  91.81 to 92.85 %    10000  -0.08 pt  measured
dynamic.onnx  top1 90.00 %  89.40 to 90.57 %    10000  -2.43 pt  measured
int8.onnx     top1 91.51 %  90.95 to 92.04 %    10000  -0.92 pt  measured
95 % interval: Wilson's for a proportion, normal for a mean. A dash: there is no simple one.

Latency on cpu, batch 1, 1 thread
Model         p50 ms  p90 ms      Time / baseline  Outcome
teacher.onnx   18.21   19.03                    –  baseline
student.onnx    7.10    7.60  0.390 (0.370–0.410)  2.56x faster
pruned.onnx     7.20    7.70  0.390 (0.370–0.410)  2.56x faster
dynamic.onnx   30.00   33.30  1.650 (1.500–1.800)  1.65x slower
int8.onnx       4.00    4.30  0.220 (0.200–0.240)  4.55x faster
Time / baseline: below 1 is faster; in brackets the range over the repeats. The baseline was cleaned
first, as every stage cleans its input.

Latency against the parent
Model        Made from     Provider        Time / parent  Outcome
pruned.onnx  student.onnx  cpu       1.010 (0.960–1.050)  no measurable difference
int8.onnx    pruned.onnx   cpu       0.560 (0.520–0.600)  1.79x faster

Memory
Model                 Peak   Load  Source
teacher.onnx      91.00 MB  38 ms  measured
student.onnx  not measured      –  –
pruned.onnx   not measured      –  –
dynamic.onnx  not measured      –  –
int8.onnx     not measured      –  –

Gate: int8.onnx against teacher.onnx
Limit        Allowed                                  Measured  Verdict
max_drop        0.01                                    0.0092  pass
min_speedup        5  4.55x (from 4.17x to 5.00x over repeats)  inconclusive
"""


def test_terminal_golden(capsys):
    text = shown(REPORT, capsys, 100)
    assert text == GOLDEN


def test_terminal_fits_80_columns_and_loses_nothing(capsys):
    narrow, wide = shown(REPORT, capsys, 80), shown(REPORT, capsys, 120)
    assert max(map(len, narrow.split("\n"))) <= 80
    assert "…" not in narrow
    for figure in (
        "14.69x smaller",
        "0.390 (0.370–0.410)",
        "no measurable difference",
        "90.95 to 92.04 %",
        "1.65x slower",
    ):
        assert figure in narrow
        assert figure in wide


def test_terminal_has_no_escape_codes_where_there_is_no_terminal(capsys):
    assert "\x1b" not in shown(REPORT, capsys, 100)


def test_markup_in_a_name_is_printed_as_it_is(capsys):
    rows = (replace(ROWS[0], path="[red]a[/red].onnx"), ROWS[1])
    assert "[red]a[/red].onnx" in shown(Report(rows), capsys, 100)


def test_what_was_not_measured_is_printed_as_such(capsys):
    text = shown(ALONE, capsys, 80)
    assert text.count("not measured") == 2  # MACs and metric
    assert "Latency" not in text
    assert "not measured" in markdown.render(ALONE)


def test_markdown_golden():
    text = markdown.render(REPORT)
    assert (
        "- **pruned.onnx**: 3.92x smaller (2.79 MB to 712.35 kB); 2.56x faster on cpu; top1 -0.08 pt" in text
    )
    assert "| pruned.onnx | student.onnx | cpu | 1.010 (0.960–1.050) | no measurable difference |" in text
    assert "| min\\_speedup | 5 | 4.55x (from 4.17x to 5.00x over repeats) | inconclusive |" in text
    assert "| dynamic.onnx | 30.00 | 33.30 | 1.650 (1.500–1.800) | 1.65x slower |" in text
    assert "- out/int8.onnx: 2 Conv stay in float" in text


def test_markdown_tables_have_one_cell_per_column():
    rows = (replace(ROWS[0], path="a|b`c<b>_*.onnx"), ROWS[1])
    text = markdown.render(Report(rows))
    tables = [block.split("\n") for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 4  # size, accuracy, latency, memory
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert r"a\|b\`c\<b\>\_\*.onnx" in text


def test_json_has_the_documented_keys():
    value = json.loads(json_.render(REPORT))
    assert set(value) >= {"models", "gate"}
    student, pruned = value["models"][1:3]
    assert set(student) >= {"path", "sha256", "parent", "bytes", "size", "metric", "latency"}
    assert student["parent"] == {"path": "models/teacher.onnx", "sha256": "a" * 64}
    assert student["size"] == {"params": 175_000, "macs": 8_100_000}
    assert student["metric"] == {
        "name": "top1",
        "before": 0.9243,
        "after": 0.9188,
        "samples": 10_000,
        "low": 0.9133,
        "high": 0.924,
        "fixed": 40,
        "broken": 95,
        "synthetic": False,
        "source": "measured",
    }
    (latency,) = student["latency"]
    assert {
        key: latency[key] for key in ("provider", "batch_size", "threads", "ratio", "ratio_low", "ratio_high")
    } == {
        "provider": "cpu",
        "batch_size": 1,
        "threads": 1,
        "ratio": 0.39,
        "ratio_low": 0.37,
        "ratio_high": 0.41,
    }
    assert (latency["verdict"], latency["against"]) == ("faster", "models/teacher.onnx")
    assert latency["before"] == {"p50": 18.21, "p90": 19.03}
    assert latency["after"] == {"p50": 7.1, "p90": 7.6}
    assert pruned["latency"][0]["parent"]["verdict"] == "no measurable difference"
    assert [limit["verdict"] for limit in value["gate"]["limits"]] == ["pass", "inconclusive"]
    assert [limit["name"] for limit in value["gate"]["missed"]] == ["min_speedup"]


def test_json_of_cards_names_the_model_that_was_before():
    """Under --no-measure the ratio is the card's own: against the stage's input, not against the baseline."""
    own = Timing(
        "cpu", 1, 1, 4.0, 4.3, to_parent=ratio(0.56, 0.52, 0.6, "faster", "out/pruned.onnx"), source="card"
    )
    value = json_.as_json(Report((ROWS[0], replace(ROWS[4], timings=(own,))), measured=False))
    (latency,) = value["models"][1]["latency"]
    assert (latency["ratio"], latency["against"], latency["source"]) == (0.56, "out/pruned.onnx", "card")
    assert latency["before"] is None


def test_json_never_holds_nan():
    score = replace(ROWS[1].score, name="snr", value=float("inf"), low=None, high=None)
    limit = Checked("max_drop", 1.0, float("inf"), "missed", "inf")
    text = json_.render(Report((ROWS[0], replace(ROWS[1], score=score)), limits=(limit,)))
    value = json.loads(text, parse_constant=pytest.fail)
    assert value["models"][1]["metric"]["after"] is None
    assert value["gate"]["missed"] == [{"name": "max_drop", "limit": 1.0, "value": None, "verdict": "missed"}]


def test_junit_has_one_case_per_limit():
    root = ElementTree.fromstring(junit.render(REPORT).encode())
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    cases = {case.get("name"): case.find("failure") for case in root.iter("testcase")}
    assert list(cases) == ["max_drop", "min_speedup"]
    assert cases["max_drop"] is None
    assert "4.55x (from 4.17x to 5.00x over repeats), allowed 5: inconclusive" in cases["min_speedup"].get(
        "message"
    )


def test_junit_survives_any_file_name():
    rows = (ROWS[0], replace(ROWS[1], path='<b>"&\x01\udc80.onnx'))
    root = ElementTree.fromstring(junit.render(replace(REPORT, rows=rows)).encode())
    assert (
        next(root.iter("testcase")).get("classname")
        == '<b>"&\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}.onnx'
    )


def test_without_limits_there_is_no_gate():
    report = replace(REPORT, limits=())
    assert not report.missed
    assert "Gate" not in markdown.render(report)
    assert ElementTree.fromstring(junit.render(report).encode()).get("tests") == "0"
    assert REPORT.missed  # an inconclusive limit does not hold

"""The gate as JUnit XML, which CI systems show as tests: one test case per limit."""

from xml.etree import ElementTree

from mlcompress import gate
from mlcompress.report.rows import Report
from mlcompress.report.words import plain


def render(report: Report) -> str:
    """The gate of `report` as XML text; a suite without cases where the recipe has no limits."""
    missed = gate.missed(list(report.limits))
    counts = {"tests": str(len(report.limits)), "failures": str(len(missed)), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", {"name": "mlcompress", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "mlcompress.gate", **counts})
    for limit in report.limits:
        case = ElementTree.SubElement(
            suite, "testcase", classname=plain(report.rows[-1].path), name=limit.name
        )
        if limit in missed:
            message = f"{limit.name}: {limit.text}, allowed {limit.limit:g}: {limit.verdict}"
            failure = ElementTree.SubElement(case, "failure", type=limit.verdict, message=message)
            failure.text = (
                f"{message}\nmodel {plain(report.rows[-1].path)}\nbaseline {plain(report.base.path)}"
            )
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"

"""A report as JSON, for programs. Ratios are after / before; before is the baseline."""

import json
import math
from typing import Any

from mlcompress import gate
from mlcompress.gate import Checked
from mlcompress.report.rows import Ratio, Report, Row, Score, Timing
from mlcompress.report.words import setting, shown_ratio, timing_at


def render(report: Report) -> str:
    """`report` as JSON text. NaN and infinity become null, since JSON has neither."""
    return json.dumps(as_json(report), indent=2, allow_nan=False) + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """`report` as plain JSON types."""
    return {
        "title": report.title,
        "measured": report.measured,
        "baseline": report.base.path,
        "models": [_model(report, row) for row in report.rows],
        "gate": {
            "model": report.rows[-1].path,
            "limits": [_limit(limit) for limit in report.limits],
            "missed": [_limit(limit) for limit in gate.missed(list(report.limits))],
        },
        "warnings": list(report.warnings),
        "environment": report.environment,
    }


def _model(report: Report, row: Row) -> dict[str, Any]:
    known = row.parent_sha256 is not None
    memory = row.memory
    return {
        "path": row.path,
        "sha256": row.sha256,
        "parent": {"path": row.parent_path, "sha256": row.parent_sha256} if known else None,
        "stage": row.stage,
        "change": row.summary,
        "bytes": row.bytes,
        "compressed_bytes": row.compressed_bytes,
        "size": {"params": row.params, "macs": row.macs},
        "metric": _metric(row.score, report.base.score),
        "latency": [_latency(timing, timing_at(report.base, setting(timing))) for timing in row.timings],
        "memory": {"peak_bytes": memory.peak_bytes, "load_ms": memory.load_ms, "source": memory.source}
        if memory
        else None,
        "synthetic": row.synthetic,
        "skipped": [{"name": item.name, "reason": item.reason} for item in row.skipped],
        "warnings": list(row.warnings),
    }


def _metric(score: Score | None, base: Score | None) -> dict[str, Any] | None:
    """`before` is the baseline's; null where the baseline has no figure of that metric."""
    if score is None:
        return None
    before = base.value if base is not None and base.name == score.name else None
    return {
        "name": score.name,
        "before": _number(before),
        "after": _number(score.value),
        "samples": score.samples,
        "low": _number(score.low),
        "high": _number(score.high),
        "fixed": score.fixed,
        "broken": score.broken,
        "synthetic": score.synthetic,
        "source": score.source,
    }


def _latency(timing: Timing, base: Timing | None) -> dict[str, Any]:
    """`against` names the model that is `before`: the baseline, or the card's input under --no-measure."""
    compared = shown_ratio(timing)
    before = {"p50": base.p50, "p90": base.p90} if base is not None and timing.source != "card" else None
    return {
        "provider": timing.provider,
        "batch_size": timing.batch_size,
        "threads": timing.threads,
        "before": before,
        "after": {"p50": timing.p50, "p90": timing.p90},
        **_ratio(compared),
        "against": compared.against if compared else None,
        "parent": _ratio(timing.to_parent) if timing.to_parent else None,
        "fallback_nodes": timing.fallback_nodes,
        "source": timing.source,
        "of": timing.of,
    }


def _ratio(ratio: Ratio | None) -> dict[str, Any]:
    if ratio is None:
        return {"ratio": None, "ratio_low": None, "ratio_high": None, "verdict": None}
    return {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high, "verdict": ratio.verdict}


def _limit(limit: Checked) -> dict[str, Any]:
    """An snr falls by infinity from a baseline that is compared with itself."""
    return {**limit.as_json(), "value": _number(limit.value)}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

"""One command from start to end. This is the file to read first.

CLI -> recipe -> graph -> stage -> verify -> measure -> gate -> card -> OUTPUT
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlcompress import __version__, checkpoint, console, files, gate, graph, prepare, stages
from mlcompress.card import Card
from mlcompress.context import Change, Context
from mlcompress.draft import Draft
from mlcompress.exits import Exit
from mlcompress.gate import Checked
from mlcompress.job import Job
from mlcompress.measure import comparison, environment
from mlcompress.measure.comparison import Facts
from mlcompress.recipe.load import load as load_recipe
from mlcompress.recipe.sections import Shared


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, the card, and where the artifact is."""

    exit: Exit
    card: Card
    artifact: Path


def run(job: Job) -> Outcome:
    """Compress one model: OUTPUT and its card exist afterwards, or OUTPUT is as it was.

    Raises:
        UserError: something the user gave is wrong; nothing was written.
    """
    stage = stages.find(job.stage)
    recipe = load_recipe(job.recipe, stage.schema, job.overrides)
    files.check_output(job.output, [*job.inputs, *prepare.files_named(recipe)])
    model = checkpoint.load(job.model, recipe.model, no_code=job.no_code)
    parent = files.sha256(job.model)
    signature = graph.signature(model)
    context = prepare.context(job, recipe, model)
    baseline = prepare.baseline(recipe, signature)
    bench = comparison.Bench(job.model, signature, recipe, context)

    with Draft(job.output) as draft:
        bench.write(model, baseline, draft.folder)
        context.state_dir, context.feed = draft.state, bench.feed
        context.evaluate, context.latency = bench.evaluate, bench.latency

        result, change = stage.run(model, recipe, context)
        graph.save(result, draft.model)
        graph.verify(draft.model, signature, recipe.measure.shapes)

        facts = bench.compare(draft.model)
        checked = gate.check(recipe.gate, facts.figures)
        if stage.must_not_be_slower and recipe.gate.min_speedup is None:
            checked.append(gate.not_slower(facts.figures))
        missed = gate.missed(checked)
        if missed:
            graph.save(result, draft.rejected_model)
        written = draft.rejected_model if missed else draft.model
        card = _card(job, recipe, parent, change, facts, checked, context, files.sha256(written))
        artifact = draft.reject(card) if missed else draft.publish(card)

    _tell(job, card, checked)
    return Outcome(Exit.GATE_MISSED if missed else Exit.DONE, card, artifact)


def dry_run(job: Job) -> None:
    """Check recipe, model and data as `run` would, say what was found, and write nothing."""
    stage = stages.find(job.stage)
    recipe = load_recipe(job.recipe, stage.schema, job.overrides)
    model = checkpoint.load(job.model, recipe.model, no_code=job.no_code)
    context = prepare.context(job, recipe, model)
    prepare.baseline(recipe, graph.signature(model))
    comparison.Bench(job.model, graph.signature(model), recipe, context)
    console.say(f"{job.model}: {graph.parameters(model):,} parameters; recipe, model and data fit")
    for name, facts in prepare.used_data(context).items():
        console.say(f"data.{name}: {facts['samples']} samples")
    console.say("dry run: nothing was done")


def _card(
    job: Job,
    recipe: Shared,
    parent: str,
    change: Change,
    facts: Facts,
    checked: list[Checked],
    context: Context,
    sha256: str,
) -> Card:
    """Everything that was done and measured, in the order a reader asks for it."""
    size = facts.size["after"]
    return {
        "tool": {"name": "mlcompress", "version": __version__},
        "stage": job.stage,
        "recipe": recipe.model_dump(mode="json", by_alias=True, exclude_none=True),
        "seed": recipe.seed,
        "parent": {"path": str(job.model), "sha256": parent},
        "output": {
            "path": str(job.output),
            "sha256": sha256,
            "bytes": size["bytes"],
            "compressed_bytes": size["compressed_bytes"],
        },
        "change": {
            "summary": change.summary,
            "details": change.details,
            "skipped": change.skipped,
            "warnings": change.warnings,
        },
        "size": facts.size,
        "metric": facts.metric,
        "latency": facts.latency,
        "skipped_providers": facts.skipped_providers,
        "shapes": facts.shapes,
        "memory": facts.memory,
        "gate": {
            "limits": recipe.gate.model_dump(mode="json", exclude_none=True),
            "checked": [item.as_json() for item in checked],
            "missed": [item.name for item in gate.missed(checked)],
        },
        "data": prepare.used_data(context),
        "environment": environment.facts(),
    }


def _tell(job: Job, card: Card, checked: list[Checked]) -> None:
    """What was left alone, what to know, and one line that says what was gained."""
    change = card["change"]
    for warning in change["warnings"]:
        console.warn(f"{job.model}: {warning}")
    if change["skipped"]:
        told = "; ".join(f"{item['name']} ({item['reason']})" for item in change["skipped"][:3])
        rest = len(change["skipped"]) - 3
        console.say(f"{job.model}: kept: {told}" + (f"; {rest} more in the card" if rest > 0 else ""))
    missed = gate.missed(checked)
    console.say(f"{job.output}: {change['summary']}; {_gain(card)}")
    for item in missed:
        how = "inconclusive, still inside the noise" if item.verdict == "inconclusive" else "missed"
        limit = f"gate {item.name} {item.limit:g}"
        console.error(f"{job.output}: {limit}: {how}: {item.text}; kept as {job.output}.rejected")


def _gain(card: Card) -> str:
    """`0.74 -> 0.18 MB (4.1x)  cpu 0.52 -> 0.21 ms (2.48x, faster)  top1 0.9415 -> 0.9380`."""
    before, after = card["size"]["before"], card["size"]["after"]
    parts = [_change("MB", before["bytes"] / 1e6, after["bytes"] / 1e6)]
    for row in card["latency"]:
        gain = "" if row["verdict"] == "no measurable difference" else f"{1 / row['ratio']:.2f}x, "
        times = f"{row['before']['p50']:.3g} -> {row['after']['p50']:.3g} ms"
        parts.append(f"{row['provider']} {times} ({gain}{row['verdict']})")
    if metric := card["metric"]:
        parts.append(f"{metric['name']} {_figure(metric['before'])} -> {_figure(metric['after'])}")
    else:
        parts.append("accuracy not measured: no data.evaluate")
    if any(entry.get("synthetic") for entry in card["data"].values()):
        parts.append("on SYNTHETIC data")
    return ", ".join(parts)


def _change(unit: str, before: float, after: float) -> str:
    return f"{before:.3g} -> {after:.3g} {unit} ({before / after:.2f}x)"


def _figure(value: Any) -> str:
    return "infinite" if value is None else f"{value:.4f}"

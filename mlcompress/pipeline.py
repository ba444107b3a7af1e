"""One command from start to end. This is the file to read first.

CLI -> recipe -> graph -> stage -> verify -> measure -> gate -> card -> OUTPUT
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mlcompress import (
    __version__,
    artifact,
    card,
    checkpoint,
    console,
    files,
    gate,
    graph,
    prepare,
    processes,
    stages,
)
from mlcompress.card import Card
from mlcompress.context import Change, Context
from mlcompress.draft import Draft
from mlcompress.errors import UsageError
from mlcompress.exits import Exit
from mlcompress.gate import Checked
from mlcompress.graph import Signature
from mlcompress.job import Job
from mlcompress.measure import comparison, environment
from mlcompress.measure.comparison import Facts
from mlcompress.metrics import HIGHER_IS_BETTER
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
    if processes.count() > 1 and job.stage != "distill":
        raise UsageError(f"{job.stage}: several processes do `distill` only; start it without torchrun")
    if processes.is_short():
        raise UsageError(
            "`accelerate launch --cpu` starts one process, whatever --num_processes says; use torchrun, or"
            " --multi_gpu in place of --cpu, which needs no GPU"
        )
    stage = stages.find(job.stage)
    recipe = load_recipe(job.recipe, stage.schema, job.overrides)
    files.check_output(job.output, [*job.inputs, *prepare.files_named(recipe)])
    kind = artifact.kind(job.output)
    prepare.check(job, recipe)
    model = checkpoint.load(job.model, recipe.model, no_code=job.no_code)
    parent = files.sha256(job.model)
    signature = graph.signature(model)
    context = prepare.context(job, recipe, model)
    interface = _interface(signature, context)
    kind.refuse(recipe, context.student or model)
    baseline = prepare.baseline(recipe, signature, no_code=job.no_code)
    if not processes.is_first():
        return _follow(job, recipe, model, context)
    bench = comparison.Bench(job.model, signature, recipe, context)

    with Draft(job.output) as draft:
        bench.write(model, baseline, draft.folder)
        context.state_dir, context.folder, context.feed = draft.state, draft.folder, bench.feed
        context.evaluate, context.latency = bench.evaluate, bench.latency

        result, change = stage.run(model, recipe, context)
        twin = kind.twin(draft)
        graph.save(result, twin)
        graph.verify(twin, interface, recipe.measure.shapes)
        kind.write(result, draft, recipe, context)

        facts = kind.labelled(bench.compare(twin, draft.model))
        checked = gate.check(recipe.gate, facts.figures)
        if kind.is_timed and stage.must_not_be_slower(recipe) and recipe.gate.min_speedup is None:
            checked.append(gate.not_slower(facts.figures))
        missed = gate.missed(checked)
        written = kind.keep_rejected(result, draft) if missed else draft.model
        output = {"path": str(job.output), "format": kind.format, **card.identity(written)}
        told = _card(job, recipe, parent, change, facts, checked, context, output)
        published = draft.reject(told) if missed else draft.publish(told)

    _tell(job, told, checked)
    return Outcome(Exit.GATE_MISSED if missed else Exit.DONE, told, published)


def _interface(signature: Signature, context: Context) -> Signature:
    """Inputs and outputs of the result: the input model's, and outputs of a student that others teach."""
    if context.student is None:
        return signature
    outputs = graph.signature(context.student).outputs
    return signature if len(outputs) == len(signature.outputs) else replace(signature, outputs=outputs)


def _follow(job: Job, recipe: Shared, model: ir.Model, context: Context) -> Outcome:
    """Train along with the first process, which alone verifies, measures, writes and prints."""
    context.state_dir = Draft(job.output).state
    stages.find(job.stage).run(model, recipe, context)
    return Outcome(Exit.DONE, {}, job.output)


def dry_run(job: Job) -> None:
    """Check recipe, model and data as `run` would, say what was found, and write nothing."""
    stage = stages.find(job.stage)
    recipe = load_recipe(job.recipe, stage.schema, job.overrides)
    files.check_output(job.output, [*job.inputs, *prepare.files_named(recipe)])
    prepare.check(job, recipe)
    model = checkpoint.load(job.model, recipe.model, no_code=job.no_code)
    context = prepare.context(job, recipe, model)
    artifact.kind(job.output).refuse(recipe, context.student or model)
    prepare.baseline(recipe, graph.signature(model), no_code=job.no_code)
    context.feed = comparison.Bench(job.model, graph.signature(model), recipe, context).feed
    told = stage.check(model, recipe, context)
    console.say(f"{job.model}: {graph.parameters(model):,} parameters; recipe, model and data fit")
    for line in told:
        console.say(line)
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
    output: dict[str, Any],
) -> Card:
    """Everything that was done and measured, in the order a reader asks for it."""
    size = facts.size["after"]
    return {
        "tool": {"name": "mlcompress", "version": __version__},
        "stage": job.stage,
        "recipe": recipe.model_dump(mode="json", by_alias=True, exclude_none=True),
        "seed": recipe.seed,
        "parent": {"path": str(job.model), "sha256": parent},
        "output": {**output, "bytes": size["bytes"], "compressed_bytes": size["compressed_bytes"]},
        "change": {
            "summary": change.summary,
            "details": change.details,
            "skipped": change.skipped,
            "warnings": [
                *change.warnings,
                *_growth(change.warnings, facts),
                *_collapse(recipe, facts),
                *_seen(recipe),
            ],
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


def _collapse(recipe: Shared, facts: Facts) -> list[str]:
    """A result that has lost half of the metric is said where no limit on it is there to say so."""
    metric = facts.metric
    if metric is None or gate.needs_metric(recipe.gate) or not HIGHER_IS_BETTER[metric["name"]]:
        return []
    before, after = metric["before"], metric["after"]
    if before is None or after is None or after >= before / 2:
        return []
    return [
        f"{metric['name']} falls from {before:.4g} to {after:.4g}, and no gate limits it: compress less, "
        "train longer, or set `gate: {max_drop: ...}` to be stopped"
    ]


def _seen(recipe: Shared) -> list[str]:
    """The metric of samples that were trained on says little of others."""
    train, evaluate = recipe.data.train, recipe.data.evaluate
    if train is None or evaluate is None or "train" not in recipe.needs():
        return []
    files = [(getattr(train, key), getattr(evaluate, key)) for key in ("path", "images", "table")]
    if not any(one is not None and one == other for one, other in files):
        return []
    return ["data.evaluate reads the file of data.train: the metric is that of samples that were trained on"]


def _growth(told: list[str], facts: Facts) -> list[str]:
    """A file that is larger than the one it came from is said, unless the stage did: clean-up folds, say.

    Up to 1 % is the name of this program and the like.
    """
    before, after = facts.size["before"]["bytes"], facts.size["after"]["bytes"]
    if after <= 1.01 * before or any("the file grows" in line for line in told):
        return []
    is_decoded = before < 3 * facts.size["before"]["params"]  # a float32 has four bytes
    hint = ": weights that it computed or stored in fewer bits are written out; quantize packs them again"
    return [f"the file grows from {before} to {after} bytes{hint if is_decoded else ''}"]


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
        times = f"{row['before']['min']:.3g} -> {row['after']['min']:.3g} ms"  # what the ratio compares
        of = f" for its {row['of']}" if "of" in row else ""
        parts.append(f"{row['provider']} {times}{of} ({gain}{row['verdict']})")
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

"""How things look in a terminal, and as JSON. Words carry the meaning; colour may only repeat it.

The JSON documents are the contract for programs: docs/reference/json.md.
"""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sd3tune import __version__
from sd3tune.backends.decide.options import AXES
from sd3tune.backends.observe.facts import to_json
from sd3tune.escaping import page, sentence
from sd3tune.plan.describe import decision, decisions, describe
from sd3tune.plan.memory import gib
from sd3tune.urls import shown_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sd3tune.config.datasets.image_dataset import ImageDataset
    from sd3tune.data.discover import Discovery, Sample
    from sd3tune.data.shards import Damage
    from sd3tune.dataset_inspection import Inspection
    from sd3tune.demo import Written
    from sd3tune.doctor import Report
    from sd3tune.encode.store import Built
    from sd3tune.plan.plan import Plan
    from sd3tune.train.run import Outcome

SHOWN = (  # what decides a run, in the order people ask
    "device",
    "model",
    "mixed_precision",
    "base_model_default_dtype",
    "base_model_precision",
    "trainable_dtype",
    "grad_scaler",
    "text_encoder_dtype",
    "text_encoder_1_precision",
    "text_encoder_2_precision",
    "text_encoder_3_precision",
    "quantize_via",
    "vae_dtype",
    "attention_mechanism",
    "attention_no_grad",
    "attention_inputs",
    "optimizer",
    "gradient_checkpointing",
    "gradient_checkpointing_interval",
    "gradient_checkpointing_backend",
    "blocks_to_swap",
    "dynamo_backend",
    "pin_memory",
    "fp8_dtype",
    "offload",
    "distributed_backend",
    "deterministic",
    "train_batch_size",
    "gradient_accumulation_steps",
    "num_processes",
    "learning_rate",
    "max_train_steps",
    "model_type",
    "lora_type",
    "peft_lora_target_modules",
)


def doctor(report: "Report") -> str:
    lines = []
    if report.chip:
        lines.append(f"{report.chip}: from the catalogue, not measured on a device")
        lines.append("")
    for f in report.findings:
        lines.append(f"{f.status:<4}  {f.name}: {f.fact} ({f.source})")
        if f.fix:
            lines.append(f"      fix: {f.fix}")
    lines += ["", "sd3tune would choose here"]
    lines += _decisions(report.decisions, report.capabilities)
    count = {s: sum(f.status == s for f in report.findings) for s in ("FAIL", "warn")}
    verdict = "training can start" if report.can_train else "training cannot start"
    lines += ["", f"{verdict}: {count['FAIL']} FAIL, {count['warn']} warn"]
    return page(lines)


def doctor_json(report: "Report") -> str:
    return _json(
        {
            "schema": 1,
            "tool": "sd3tune doctor",
            "version": __version__,
            "verdict": report.verdict,
            "can_train": report.can_train,
            "measured": report.chip is None,
            "chip": report.chip,
            "seconds": round(report.seconds, 3),
            "findings": [asdict(f) for f in report.findings],
            "facts": to_json(report.facts),
            "machine": to_json(report.machine) if report.machine else None,
            "torch": to_json(report.torch) if report.torch else None,
            "decisions": {axis: decision(d) for axis, d in report.decisions.items()},
            "capabilities": {
                axis: {
                    name: {"level": level, "usable": not why, "reasons": list(why)}
                    for name, (level, why) in options.items()
                }
                for axis, options in report.capabilities.items()
            },
        }
    )


def plan(plan: "Plan") -> str:
    m, device = plan.memory.estimate, plan.hardware.device
    room = device.usable_bytes or device.total_bytes
    parts = {
        "weights": m.weights,
        "adapter": m.adapter,
        "gradients": m.gradients,
        "optimizer": m.optimizer,
        "activations, estimated": m.activations,
        "workspace, estimated": m.workspace,
    }
    lines = [*_decisions(decisions(plan)), "", "memory while training"]
    lines += [f"  {name:<24}{gib(amount):>10}" for name, amount in parts.items()]
    has = f"of {gib(room)}" if room else "of unknown"
    lines.append(f"  {'total':<24}{gib(m.training):>10}  {has}")
    lines.append(
        f"  {'text encoders before':<24}{gib(m.text_encoders):>10}  dropped after encoding"
    )
    lines += [f"warning: {w}" for w in plan.warnings]
    return page(lines)


def plan_json(plan: "Plan") -> str:
    return _json(describe(plan))


def set_aside(discoveries: "Mapping[str, Discovery]", most: int = 5) -> list[str]:
    """Files that will not be trained on, with their reasons."""
    lines = []
    for name, found in discoveries.items():
        count = len(found.rejected)
        if count:
            lines.append(f"warning: dataset `{name}`: {count} file{'s' * (count > 1)} set aside")
            lines += [f"  {sentence(r.path)}: {sentence(r.reason)}" for r in found.rejected[:most]]
        if count > most:
            why = Counter(r.reason for r in found.rejected[most:]).most_common(3)
            words = "; ".join(f"{n} x {sentence(reason)}" for reason, n in why)
            lines.append(f"  and {count - most} more: {words}")
    return lines


def notes(found: "Sequence[str]") -> list[str]:
    """Keys of a file that say nothing here."""
    return [f"note: {words}" for words in found]


def dataset(inspection: "Inspection", sheet: "Path | None", most: int = 8) -> str:
    lines = notes(inspection.notes)
    for seen in inspection.datasets:
        d, found = seen.settings, seen.discovery
        images = len(found.samples)
        every = sum(s.repeats + 1 for s in found.samples)
        again = f", {every} with repeats" if every != images else ""
        lines += ["", f"{d.id} ({d.dataset_type}): {images} images{again}, {_where(d)}"]
        how = f"crop {d.crop_aspect}, {d.crop_style}" if d.crop else "own aspect"
        lines.append(f"  {how}; resolution {d.resolution:g} {d.resolution_type}")
        lines.append(f"  {'aspect':>8}  {'size':<11}{'images':>8}  {'enlarged':>8}")
        for b in seen.buckets:
            size = f"{b.size[0]}x{b.size[1]}"
            lines.append(f"  {b.aspect:>8g}  {size:<11}{b.images:>8}  {b.enlarged:>8}")
        lines += _captions(found.samples, d)
        for p in seen.problems:
            lines.append(f"  problem: {p}")
        if found.rejected:
            lines.append(f"  set aside: {len(found.rejected)}")
            why = Counter(r.reason for r in found.rejected)
            lines += [f"    {n:>6} x {sentence(reason)}" for reason, n in why.most_common(most)]
            lines += [
                f"    {sentence(r.path)}: {sentence(r.reason)}" for r in found.rejected[:most]
            ]
            if len(found.rejected) > most:
                lines.append(f"    and {len(found.rejected) - most} more: --json lists them all")
    if sheet is not None and sheet.exists():
        lines += ["", f"contact sheet  {sheet}"]
    return page(lines).lstrip("\n")


def _where(d: "ImageDataset") -> str:
    place = {
        "local": d.instance_data_dir,
        "aws": f"s3://{d.aws_bucket_name}/{d.aws_data_prefix}",
        "huggingface": f"{d.dataset_name} [{d.split}]",
        "csv": d.csv.path if d.csv else "",
    }
    return str(place[d.type])


def _captions(samples: "Sequence[Sample]", d: "ImageDataset") -> list[str]:
    """How many, and the first few."""
    if not samples:
        return []
    counts = [len(s.captions) for s in samples]
    several = sum(n > 1 for n in counts)
    more = f", {several} images have several" if several else ""
    unlike = len({c for s in samples for c in s.captions})
    lines = [f"  captions ({d.caption_strategy}): {unlike} different{more}, for example"]
    return lines + [
        f"    {sentence(shown_url(s.name))}: {sentence(s.captions[0])[:90]}" for s in samples[:3]
    ]


def dataset_json(inspection: "Inspection") -> str:
    from sd3tune.dataset_inspection import document

    head = {"schema": 1, "tool": "sd3tune dataset", "version": __version__}
    return _json(head | document(inspection))


def cache(built: "Built") -> str:
    lines = []
    for held in built.held:
        lines.append(f"{held.kind:<9} {held.folder}")
        each = f", {held.bytes_per_entry:,} bytes each" if held.entries else ""
        if held.kind == "captions" and held.entries:
            factor = built.padded_bytes / held.bytes_per_entry
            each += f" ({built.padded_bytes:,} as padded float32, {factor:.1f} times as much)"
        lines.append(
            f"  {held.entries} entries in {held.shards} files, {gib(held.size_bytes)}{each}"
        )
        lines.append(
            f"  this run wants {held.wanted}, {held.missing} missing; {held.unused} unused"
            + (f"; {held.problems} known to be unusable" if held.problems else "")
        )
    return page([*lines, f"{built.seconds:.1f} s"])


def cache_json(built: "Built") -> str:
    rows = [asdict(h) | {"folder": str(h.folder), "unused": h.unused,
                         "bytes_per_entry": h.bytes_per_entry} for h in built.held]  # fmt: skip
    return _json(
        {
            "schema": 1,
            "tool": "sd3tune cache",
            "version": __version__,
            "seconds": round(built.seconds, 3),
            "padded_float32_bytes_per_caption": built.padded_bytes,
            "caches": rows,
        }
    )


def pruned(found: "Sequence[tuple[Path, int]]", *, dry_run: bool) -> str:
    word = "unused" if dry_run else "removed"
    return page(f"{count:>8} {word}  {folder}" for folder, count in found)


def verified(whole: int, damaged: "Sequence[Damage]", *, repaired: bool) -> str:
    lines = [f"{d.path}: {d.reason} ({d.entries} entries)" for d in damaged]
    count = f"{whole} entries whole, {len(damaged)} files damaged"
    if damaged:
        count += ", removed" if repaired else "; --repair removes them"
    return page([*lines, count])


def outcome(outcome: "Outcome") -> str:
    lines = [f"steps            {outcome.step} of {outcome.steps}"]
    if outcome.loss_after is not None and outcome.loss_before is not None:
        change = outcome.loss_after / outcome.loss_before - 1
        lines.append(
            f"evaluation loss  {outcome.loss_before:.4f} before, {outcome.loss_after:.4f} after "
            f"({change:+.1%}), same images and noise"
        )
    if outcome.adapter:
        lines.append(f"result           {outcome.adapter}")
    lines += [f"picture          {path}" for path in outcome.pictures]
    lines.append(f"noise            {outcome.noise:016x}  (of all that was drawn; compares runs)")
    lines.append(f"output           {outcome.output}")
    return page(lines)


def demo(written: "Written") -> str:
    return page(
        [*(f"wrote  {path}" for path in written.paths), "", f"next   {written.next_command}"]
    )


def _decisions(decisions: Any, usable: Any = None) -> list[str]:
    """A line per choice; below it what would have been preferred, and what else works."""
    lines = []
    for axis in SHOWN:
        if axis not in decisions:
            continue
        d = decisions[axis]
        lines.append(f"  {axis:<32}{d.value:<16} {d.source.by:<7} {d.reason}")
        names = [option.name for option in AXES.get(axis, ())]
        better = names[: names.index(d.value)] if d.value in names else []
        lines += [
            f"  {'':<32}not {r.name}: {r.reasons[0]}"
            for r in d.rejected
            if d.source.by != "user" and r.name in better
        ]
        also = [n for n, (_, why) in (usable or {}).get(axis, {}).items() if not why]
        if len(also) > 1:
            lines.append(f"  {'':<32}also usable: {', '.join(n for n in also if n != d.value)}")
    return lines


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1)

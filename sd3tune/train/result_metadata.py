"""The metadata of a result: Stability's `modelspec.*`, and under kohya's `ss_*` names the facts
that model managers show. Only what is true of the run; no path, no date, no host.

Rank and alpha are not here: they are those of the tensors in the file (formats/file_metadata.py).
"""

import json
from collections.abc import Iterator

from sd3tune.config.repositories import STEP
from sd3tune.formats import file_metadata
from sd3tune.plan.plan import Plan


def about(plan: Plan, step: int) -> dict[str, str]:
    """Metadata for the file of a run after a step."""
    kind = plan.trained.kind.value
    words, comment = plan.result.trigger_words, plan.publishing.comment
    more = {"trigger_phrase": ", ".join(words)} if words else {}
    if comment is not None:
        more["comment"] = comment.replace(STEP, str(step))
    facts = file_metadata.modelspec(
        plan.model.name,
        title=plan.result.title,
        resolution=plan.data.square,
        kind="" if kind == "full" else kind,
        **more,
    )
    return (
        facts
        | {file_metadata.STEP: str(step)}
        | dict(_of_run(plan, step))
        | dict(_of_network(plan))
    )


def _of_run(plan: Plan, step: int) -> Iterator[tuple[str, str]]:
    data, optimizer, images = plan.data, plan.optimizer, plan.batch_size * plan.batches_per_step
    yield "ss_sd_model_name", plan.result.base
    yield "ss_base_model_version", plan.model.name.removesuffix(" (tiny)")
    yield "ss_steps", str(step)
    yield "ss_max_train_steps", str(plan.steps)
    yield "ss_num_train_images", str(plan.result.images)
    yield "ss_batch_size_per_device", str(plan.batch_size)
    yield "ss_total_batch_size", str(images)
    yield "ss_gradient_accumulation_steps", str(data.accumulation.value)
    yield "ss_resolution", f"({data.square}, {data.square})"
    yield "ss_learning_rate", f"{optimizer.peak_rate.value:g}"
    yield "ss_lr_scheduler", optimizer.rate.name
    yield "ss_lr_warmup_steps", str(optimizer.rate.warmup)
    yield "ss_optimizer", optimizer.name.value
    yield "ss_max_grad_norm", f"{optimizer.max_grad_norm:g}"
    yield "ss_mixed_precision", plan.precision.autocast.value or "no"
    yield "ss_seed", str(plan.seed)
    if any(plan.result.tags.values()):
        yield "ss_tag_frequency", json.dumps(plan.result.tags)


def _of_network(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.trained.lora is None and plan.trained.lycoris is None:
        return
    yield "ss_output_name", plan.result.file.removesuffix(".safetensors")
    yield "ss_network_module", f"sd3tune.adapters.{plan.trained.kind.value}"
    if (lora := plan.trained.lora) is not None:
        yield "ss_network_dropout", f"{lora.dropout:g}"
    if (lycoris := plan.trained.lycoris) is not None:
        yield "ss_network_dropout", f"{lycoris.dropout:g}"
        yield "ss_network_args", json.dumps({"algo": lycoris.algo})

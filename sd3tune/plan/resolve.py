"""What will happen: a pure function of the configuration, the machine's facts and the dataset.

`sd3tune plan` and `train --dry-run` print a Plan, the trainer reads nothing else, and every
checkpoint carries one. Nothing is observed here, and no weight is loaded.
"""

from dataclasses import replace

from sd3tune.backends.decide.decisions import decide_all
from sd3tune.decision import DEFAULT, Decision
from sd3tune.plan import compile_choice, products
from sd3tune.plan.arithmetic import (
    attention_asked,
    attention_plan,
    hardware_plan,
    precision_plan,
    request_of,
)
from sd3tune.plan.blocks import memory_plan
from sd3tune.plan.encoding import caption_plan
from sd3tune.plan.evaluation_plan import evaluation_plan, score_plan
from sd3tune.plan.fastest import fastest, keep_decision
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.keeping import checkpoint_plan
from sd3tune.plan.length import data_plan, parallel_plan
from sd3tune.plan.modulation_plan import modulation_decision
from sd3tune.plan.objective import loss_plan
from sd3tune.plan.optimisation import optimizer_plan
from sd3tune.plan.picture_plan import picture_plan, refuse_impossible_pictures
from sd3tune.plan.plan import ModelFiles, Plan
from sd3tune.plan.publishing import publishing_plan
from sd3tune.plan.reporting import reporting_plan
from sd3tune.plan.result import result_plan
from sd3tune.plan.sizes import Sizes
from sd3tune.plan.trainable import trained_plan
from sd3tune.plan.warnings import warnings
from sd3tune.plan.watching import preview_plan, webhook_plan


def resolve(inputs: RunInputs) -> Plan:
    """Raises PlanError when what is asked cannot run here, ConfigError when it makes no sense."""
    config, model, size = inputs.config, inputs.model, inputs.processes.size
    refuse_impossible_pictures(config, model)
    products.refuse(inputs, attention_asked(config) or "sliced")
    trained = trained_plan(inputs)
    sizes = Sizes(inputs, trained)
    chosen, decided = decide_all(inputs.facts, request_of(inputs), sizes.too_big)
    attention = attention_plan(chosen)
    products.refuse(inputs, attention.training.value)  # slices may have failed their probe
    batch = sizes.batch(decided)
    load = sizes.load(decided, batch.value, chosen["base_model_precision"].value)
    data = data_plan(inputs, batch)
    picked = compiled = fastest(inputs, load)
    compiler = chosen["dynamo_backend"]
    if compiler.value != compile_choice.NOTHING or compile_choice.may_pay(compiler, config):
        compiled = fastest(inputs, replace(load, compiled=True))
    expected = compile_choice.prospect(inputs, picked.load, compiled.load, data.steps.value)
    compiler = compile_choice.choose(compiler, config, expected)
    chosen = chosen | {"dynamo_backend": compiler}
    if compiler.value != compile_choice.NOTHING:  # other choices fit blocks that are compiled
        picked = compiled
    load = picked.load
    pinned = chosen["pin_memory"].value == "on"
    modulations = modulation_decision(inputs, load, pinned=pinned)
    off = load.modulations_off and modulations.value != "device"
    picked = replace(picked, load=replace(load, modulations_off=off))
    keep = keep_decision(inputs, picked)
    optimizer = optimizer_plan(config, chosen["optimizer"], data, size)
    result = result_plan(inputs)
    return Plan(
        config=config,
        facts=inputs.facts,
        model=model,
        files=_model_files(inputs),
        output_dir=config.output_dir,
        seed=config.seed,
        hardware=hardware_plan(inputs, chosen),
        precision=replace(precision_plan(chosen), check_interval=config.w8a8_check_interval),
        attention=attention,
        memory=memory_plan(inputs, chosen, picked, keep, modulations),
        data=data,
        captions=caption_plan(config),
        loss=loss_plan(config),
        optimizer=optimizer,
        trained=trained,
        checkpoints=checkpoint_plan(config),
        pictures=picture_plan(inputs, data),
        previews=preview_plan(config, model),
        webhooks=webhook_plan(config),
        evaluation=evaluation_plan(config),
        score=score_plan(config),
        result=result,
        reporting=reporting_plan(inputs, result.title),
        publishing=publishing_plan(inputs),
        processes=inputs.processes,
        parallel=parallel_plan(inputs, batch.value, chosen),
        warnings=warnings(inputs, optimizer, compiler.value),
    )


def _model_files(inputs: RunInputs) -> ModelFiles:
    config, model = inputs.config, inputs.model
    shape, count = model.transformer, model.transformer.parameters
    size = f"{count / 1e9:.3f} B" if count > 1e8 else f"{count / 1e6:.2f} M"
    named = (
        "pretrained_transformer_model_name_or_path",
        "pretrained_model_name_or_path",
        "model_flavour",
    )
    source = next((s for s in map(config.source, named) if s.by == "user"), DEFAULT)
    why = f"{model.source}: {shape.layers} blocks of width {shape.hidden}, {size} parameters"
    return ModelFiles(Decision(model.name, source, why), config.revision, config.variant)

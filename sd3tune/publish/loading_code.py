"""The Python code of a model card: it draws one picture with plain diffusers and the result.

It runs as it stands in the folder of the card. On the hub the line `weights = …` names the
repository instead (`for_repository`).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sd3tune.plan.plan import Plan
from sd3tune.publish.markdown import python_literal
from sd3tune.sd3.variants import tokens
from sd3tune.tables.architectures import ARCHITECTURES

HERE = {
    False: 'weights = "."  # the folder of this card',
    True: 'weights = "pipeline"  # beside this card',
}
SCHEDULERS = {  # diffusers' classes by validation_noise_scheduler
    "euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "FlowMatchHeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
}
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
DEVICE = 'device = torch.accelerator.current_accelerator() or torch.device("cpu")'


def runs_in_diffusers(plan: Plan) -> bool:
    """Whether diffusers loads the file of the result, by itself or through lycoris-lora."""
    return plan.trained.lora is None or plan.trained.lora.dialect == "diffusers"


def code(plan: Plan, drawn: Mapping[str, Any]) -> str:
    """drawn: the metadata of the picture that it draws; what is not there is as the plan draws."""
    return "\n\n".join([
        "\n".join(_imports(plan)),
        "\n".join([_weights(plan), DEVICE]),
        "\n".join([*_pipeline(plan), "pipe.to(device)", *_adapter(plan)]),
        _picture(plan, drawn),
    ])  # fmt: skip


def for_repository(card: str, repository: str) -> str:
    """A card as it stands on the hub."""
    for line in HERE.values():
        card = card.replace(f"\n{line}\n", f'\nweights = "{repository}"\n')
    return card


def _imports(plan: Plan) -> Iterator[str]:
    other = plan.publishing.base.transformer is not None or _is_file(plan.publishing.base.name)
    yield "import torch"
    classes = [SCHEDULERS[plan.pictures.sampler], "StableDiffusion3Pipeline"]
    if other and plan.trained.kind.value != "full":
        classes.append("SD3Transformer2DModel")
    yield f"from diffusers import {', '.join(sorted(classes))}"
    if plan.trained.lycoris is not None:
        yield "from huggingface_hub import hf_hub_download"
        yield "from lycoris import create_lycoris_from_weights"


def _weights(plan: Plan) -> str:
    return HERE[plan.trained.kind.value == "full"]


def _pipeline(plan: Plan) -> Iterator[str]:
    base, dtype = plan.publishing.base, f"torch.{DTYPES[plan.precision.base.value]}"
    model = base.name
    if plan.trained.kind.value == "full":
        yield f"pipe = StableDiffusion3Pipeline.from_pretrained(weights, torch_dtype={dtype})"
    else:
        other = base.transformer
        if _is_file(base.name):  # a transformer alone: the other parts are the released model's
            model, other = ARCHITECTURES[plan.model.name.removesuffix(" (tiny)")].repository, model
        remark = "  # the folder of the base model" if base.local and model == base.name else ""
        yield f"base = {python_literal(model)}{remark}"
        more = ""
        if other is not None:
            yield from _transformer(other, base.subfolder, dtype)
            more = "transformer=transformer, "
        yield f"pipe = StableDiffusion3Pipeline.from_pretrained(base, {more}torch_dtype={dtype})"
    sampler, shift = plan.pictures.sampler, plan.pictures.shift
    of_flow = sampler in ("euler", "heun")  # the other samplers are made for diffusion first
    own = "" if of_flow else 'prediction_type="flow_prediction", use_flow_sigmas=True, '
    name = "shift" if of_flow else "flow_shift"
    how = "use_dynamic_shifting=True" if shift is None else f"{name}={shift!r}"
    yield f"pipe.scheduler = {SCHEDULERS[sampler]}({own}{how})"


def _transformer(source: str, subfolder: str, dtype: str) -> Iterator[str]:
    path = python_literal(source)
    yield "transformer = SD3Transformer2DModel." + (
        f'from_single_file({path}, config=base, subfolder="transformer", torch_dtype={dtype})'
        if _is_file(source)
        else f"from_pretrained({path}, subfolder={python_literal(subfolder)}, torch_dtype={dtype})"
    )


def _adapter(plan: Plan) -> Iterator[str]:
    file, strength = python_literal(plan.result.file), plan.pictures.strength
    if plan.trained.lora is not None:
        named = "" if strength == 1 else ', adapter_name="trained"'
        yield f"pipe.load_lora_weights(weights, weight_name={file}{named})"
        if named:
            yield f'pipe.set_adapters("trained", {strength:g})'
    if plan.trained.lycoris is not None:
        yield f"file = {file}"
        yield 'path = file if weights == "." else hf_hub_download(weights, file)'
        yield f"network, _ = create_lycoris_from_weights({strength:g}, path, pipe.transformer)"
        # Not merge_to: lycoris-lora 4.1 merges LoHa and LoKr wrongly. Look again at 4.2.
        yield "network.apply_to()"
        yield f"network.to(device, torch.{DTYPES[plan.precision.base.value]})"


def _picture(plan: Plan, drawn: Mapping[str, Any]) -> str:
    how = plan.pictures
    width, height = (
        round(_number(drawn, key, side))
        for key, side in zip(("width", "height"), how.sizes[0], strict=True)
    )
    prompt = str(drawn.get("prompt") or ", ".join(plan.result.trigger_words) or "a photograph")
    negative = str(drawn.get("negative_prompt", how.negative_prompt))
    lines = [
        "image = pipe(",
        f"    prompt={python_literal(prompt)},",
        f"    negative_prompt={python_literal(negative)},",
        f"    width={width},",
        f"    height={height},",
        f"    num_inference_steps={_number(drawn, 'steps', how.sampling_steps)},",
        f"    guidance_scale={_number(drawn, 'guidance_scale', how.guidance)},",
        f"    max_sequence_length={plan.captions.t5_tokens},",
    ]
    if how.shift is None and how.sampler != "euler":  # the pipeline's own rule is Euler's
        from sd3tune.sd3.flow import auto_shift

        lines.append(f"    mu={math.log(auto_shift(tokens(width, height)))!r},")
    if how.skip is not None:
        lines += [
            f"    skip_guidance_layers={list(how.skip.blocks)},",
            f"    skip_layer_guidance_scale={how.skip.scale},",
            f"    skip_layer_guidance_start={how.skip.start},",
            f"    skip_layer_guidance_stop={how.skip.stop},",
        ]
    seed = _number(drawn, "seed", how.seed)
    lines += [f"    generator=torch.Generator().manual_seed({seed}),", ").images[0]"]
    return "\n".join([*lines, 'image.save("picture.png")'])


def _number(drawn: Mapping[str, Any], key: str, planned: float) -> float:
    """Of a picture's metadata only numbers become code."""
    value = drawn.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return value if known and value is not None else planned


def _is_file(name: str) -> bool:
    return name.endswith(".safetensors")

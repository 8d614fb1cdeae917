"""Settings that cannot both be meant. A row that holds is an error."""

from collections.abc import Callable

from sd3tune.config.repositories import as_name
from sd3tune.config.rules.rule import Rule
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.tables.optimizers import OPTIMIZERS

SCHEDULES = (  # of which one can be set
    "flow_custom_timesteps",
    "flow_use_uniform_schedule",
    "flow_use_beta_schedule",
    "flow_cubic_schedule_weights",
)
GRAPHS = ("reduce-overhead", "max-autotune")  # modes of inductor that record CUDA graphs
OF_STANDARD_LORA = ("use_dora", "use_rslora", "lora_init_type", "peft_lora_target_modules")


def error(
    names: str, when: Callable[[AllSettings], object], sentence: str, hint: str
) -> Rule[AllSettings]:
    """names: the settings it concerns, between blanks."""
    return Rule(tuple(names.split()), "error", when, sentence, hint)


def changed(c: AllSettings, name: str) -> bool:
    """Whether a setting has another value than its default."""
    return bool(getattr(c, name) != type(c).model_fields[name].default)


def schedules(c: AllSettings) -> list[str]:
    """The settings that say how noise levels are drawn."""
    return [name for name in SCHEDULES if getattr(c, name)]


def more_than_one(names: list[str]) -> str | None:
    """That all of these are set; None for one or none."""
    how = "both" if len(names) == 2 else "all"
    return f"{' and '.join(names)} are {how} set" if len(names) > 1 else None


def unused_options(c: AllSettings) -> tuple[str, str, str] | None:
    """The options that the optimizer lacks, as the user wrote them; the optimizer; the options that
    it has."""
    has = OPTIMIZERS[c.optimizer or "adamw"].option_names
    alone = {"beta1": c.optimizer_beta1, "beta2": c.optimizer_beta2}
    unused = [
        option
        if option == "prodigy_steps"
        else f"optimizer_config={option}"
        if alone.get(option) is None
        else f"optimizer_{option}"
        for option in c.optimizer_options
        if option not in has
    ]
    if not unused:
        return None
    return "`, `".join(unused), c.optimizer or "adamw", ", ".join(sorted(has - {"prodigy_steps"}))


def repository_name(c: AllSettings) -> str:
    """The repository of push_to_hub as the settings name it; empty where none does. Without a
    namespace it is in the user's own."""
    project = c.tracker_project_name if c.source("tracker_project_name").by == "user" else ""
    return c.hub_model_id or as_name(project or c.output_name or "")


def always_euler(name: str, only: object) -> Rule[AllSettings]:
    """A choice of the rollout's sampler that flow matching does not leave open."""
    return error(
        f"scheduled_sampling_max_step_offset {name}",
        lambda c: c.scheduled_sampling_max_step_offset and getattr(c, name) != only,
        f"{name}={{c.{name}}} is not for flow matching: single steps along a straight path have no "
        "history that a higher order could use, the rollout is always Euler",
        "leave it out",
    )


def of_standard_lora(name: str) -> Rule[AllSettings]:
    """A setting that neither LyCORIS nor full training has."""

    def owner(c: AllSettings) -> str | None:
        if not changed(c, name):
            return None
        if c.model_type == "full":
            return "model_type=full"
        return "lora_type=lycoris" if c.lora_type == "lycoris" else None

    sentence = f"{name} belongs to lora_type=standard, this is {{which}}"
    return error(f"{name} model_type lora_type", owner, sentence, "leave it out")


def no_evaluation(c: AllSettings) -> tuple[str, str] | None:
    """Why the evaluation loss is not measured during training, and what would measure it."""
    if c.eval_loss_disable:
        return "eval_loss_disable is true", "leave out eval_loss_disable"
    if not c.eval_steps_interval and not c.eval_epoch_interval:
        return "neither eval_steps_interval nor eval_epoch_interval is set", (
            "set eval_steps_interval"
        )
    return None


def of_evaluation(name: str) -> Rule[AllSettings]:
    """A setting that follows the evaluation loss, where none is measured during training."""
    return error(
        f"{name} eval_steps_interval eval_epoch_interval eval_loss_disable",
        lambda c: no_evaluation(c) if getattr(c, name) else None,
        f"{name} needs the evaluation loss during training: {{which[0]}}",
        f"{{which[1]}}, or leave out {name}",
    )


def of_checkpointing(name: str, default: object) -> Rule[AllSettings]:
    """A setting of gradient checkpointing where that is off. default: asks for nothing."""
    return error(
        f"gradient_checkpointing {name}",
        lambda c: not c.gradient_checkpointing and getattr(c, name) not in (None, default),
        f"{name}={{c.{name}}} needs gradient_checkpointing=true",
        f"set gradient_checkpointing=true, or leave out {name}",
    )


LENGTH = (
    error(
        "max_train_steps num_train_epochs",
        lambda c: c.max_train_steps and c.num_train_epochs,
        "max_train_steps={c.max_train_steps} and num_train_epochs={c.num_train_epochs} are both "
        "set",
        "set one of them",
    ),
    error(
        "max_train_steps num_train_epochs",
        lambda c: not c.max_train_steps and not c.num_train_epochs,
        "neither max_train_steps nor num_train_epochs is set",
        "set one of them",
    ),
)
OPTIMISATION = (
    error(
        "lr_warmup_steps max_train_steps",
        lambda c: c.max_train_steps and c.lr_warmup_steps >= c.max_train_steps,
        "lr_warmup_steps={c.lr_warmup_steps} must be below max_train_steps={c.max_train_steps}",
        "lower lr_warmup_steps, or raise max_train_steps",
    ),
    error(
        "lr_end learning_rate optimizer",
        lambda c: c.learning_rate < c.lr_end < OPTIMIZERS[c.optimizer or "adamw"].rate_limit,
        "lr_end={c.lr_end:g} must not be above learning_rate={c.learning_rate:g}",
        "lower lr_end, or raise learning_rate",
    ),
    error(
        "lr_scale_sqrt lr_scale",
        lambda c: c.lr_scale_sqrt and not c.lr_scale,
        "lr_scale_sqrt=true without lr_scale=true scales nothing",
        "set lr_scale",
    ),
    error(
        "optimizer optimizer_config optimizer_beta1 optimizer_beta2 prodigy_steps",
        unused_options,
        "`{which[0]}` has no effect with optimizer={which[1]}",
        "leave it out; {which[1]} has {which[2]}",
    ),
)
FLOW = (
    error(
        " ".join(SCHEDULES),
        lambda c: more_than_one(schedules(c)),
        "{which}, and noise levels are drawn in one way",
        "set one of them",
    ),
    error(
        "flow_schedule_auto_shift flow_schedule_shift",
        lambda c: (
            c.flow_schedule_auto_shift
            and c.flow_schedule_shift != 1
            and c.source("flow_schedule_shift").by == "user"
        ),
        "flow_schedule_auto_shift and flow_schedule_shift are both set",
        "set one of them",
    ),
    error(
        "huber_schedule huber_c",
        lambda c: c.huber_schedule != "constant" and c.huber_c > 1,
        "huber_c={c.huber_c:g} must be at most 1 with huber_schedule={c.huber_schedule}, which "
        "goes between 1 and huber_c",
        "use huber_schedule=constant",
    ),
)
ROLLOUT = (
    error(
        "scheduled_sampling_max_step_offset fsdp_enable",
        lambda c: c.scheduled_sampling_max_step_offset and c.fsdp_enable,
        "scheduled_sampling_max_step_offset and fsdp_enable are both set: with split weights all "
        "processes must run the same number of passes, and rollouts differ in length",
        "set one of them",
    ),
    error(
        "scheduled_sampling_max_step_offset scheduled_sampling_probability "
        "scheduled_sampling_ramp_steps",
        lambda c: (
            c.scheduled_sampling_max_step_offset
            and not c.scheduled_sampling_probability
            and not c.scheduled_sampling_ramp_steps
        ),
        "scheduled_sampling_max_step_offset={c.scheduled_sampling_max_step_offset} has no effect: "
        "with scheduled_sampling_probability=0 no image is rolled out",
        "set scheduled_sampling_probability, or scheduled_sampling_ramp_steps",
    ),
    always_euler("scheduled_sampling_sampler", "euler"),
    always_euler("scheduled_sampling_order", 1),
)
ADAPTER = (
    error(
        "model_type lora_type",
        lambda c: c.model_type == "full" and c.lora_type == "lycoris",
        "model_type=full trains the weights themselves, lora_type=lycoris an adapter",
        "leave one of them out",
    ),
    error(
        "lycoris_config lora_type",
        lambda c: c.lycoris_config is not None and c.lora_type != "lycoris",
        "lycoris_config belongs to lora_type=lycoris",
        "set lora_type=lycoris, or leave out lycoris_config",
    ),
    *(of_standard_lora(name) for name in OF_STANDARD_LORA),
    error(
        "init_lora model_type",
        lambda c: c.init_lora is not None and c.model_type == "full",
        "init_lora is for an adapter, and model_type=full trains none",
        "leave it out",
    ),
    error(
        "init_lora lora_init_type",
        lambda c: c.init_lora is not None and c.lora_init_type != "default",
        "init_lora and lora_init_type={c.lora_init_type} both choose the adapter's first weights",
        "leave one of them out",
    ),
    error(
        "lora_type lora_format",
        lambda c: c.lora_type == "lycoris" and c.lora_format != "diffusers",
        "lora_format={c.lora_format} belongs to lora_type=standard: LyCORIS files have one dialect",
        "leave it out",
    ),
    error(
        "fsdp_enable use_dora lora_format",
        lambda c: c.fsdp_enable and c.use_dora and c.lora_format != "diffusers",
        "lora_format={c.lora_format} of DoRA needs whole weights, and fsdp_enable splits them",
        "leave lora_format out, and run `sd3tune export` afterwards",
    ),
    error(
        "use_dora lora_init_type",
        lambda c: c.use_dora and c.lora_init_type in ("pissa", "olora"),
        "use_dora and lora_init_type={c.lora_init_type} both replace the frozen weights",
        "leave one of them out",
    ),
)
BLOCKS = (
    of_checkpointing("gradient_checkpointing_interval", 1),
    of_checkpointing("gradient_checkpointing_backend", "torch"),
    of_checkpointing("gradient_checkpointing_keep", "auto"),
    error(
        "blocks_to_swap gradient_checkpointing gradient_checkpointing_interval",
        lambda c: (
            c.blocks_to_swap
            and (not c.gradient_checkpointing or c.gradient_checkpointing_interval > 1)
        ),
        "blocks_to_swap={c.blocks_to_swap} needs every block checkpointed: the backward pass of "
        "other blocks keeps their weights on the device",
        "set gradient_checkpointing=true and gradient_checkpointing_interval=1",
    ),
    error(
        "blocks_to_swap model_type",
        lambda c: c.blocks_to_swap and c.model_type != "lora",
        "blocks_to_swap={c.blocks_to_swap} goes with model_type=lora: only frozen weights can stay "
        "in host memory",
        "remove one of the two",
    ),
    error(
        "blocks_to_swap fsdp_enable",
        lambda c: c.blocks_to_swap and c.fsdp_enable,
        "blocks_to_swap={c.blocks_to_swap} and fsdp_enable=true are both set: FSDP moves each "
        "block's weights itself",
        "remove one of the two",
    ),
    error(
        "batch_split fsdp_enable",
        lambda c: (c.batch_split or 1) > 1 and c.fsdp_enable,
        "batch_split={c.batch_split} and fsdp_enable=true are both set: with split weights all "
        "processes must run the same number of passes, and smaller batches make fewer parts",
        "leave batch_split out, and set train_batch_size and gradient_accumulation_steps",
    ),
    error(
        "use_dora dynamo_backend",
        lambda c: c.use_dora and c.dynamo_backend not in (None, "no"),
        "use_dora=true and dynamo_backend={c.dynamo_backend} are both set: peft's DoRA cannot be "
        "traced, so that each of its layers would be compiled by itself",
        "remove one of the two; lycoris_config with dora_wd is compiled",
    ),
    error(
        "dynamo_mode dynamo_backend",
        lambda c: c.dynamo_backend == "inductor" and c.dynamo_mode in GRAPHS,
        "dynamo_mode={c.dynamo_mode} is not supported with dynamo_backend=inductor: CUDA graphs "
        "are not proven with buckets and gradient checkpointing",
        "set dynamo_mode=max-autotune-no-cudagraphs, or leave it out",
    ),
)
EVALUATION = (
    of_evaluation("keep_best_checkpoint"),
    of_evaluation("early_stopping_patience"),
)
OTHERS = (
    error(
        "validation_guidance_skip_layers validation_guidance_skip_layers_start "
        "validation_guidance_skip_layers_stop",
        lambda c: (
            c.validation_guidance_skip_layers
            and c.validation_guidance_skip_layers_start >= c.validation_guidance_skip_layers_stop
        ),
        "validation_guidance_skip_layers_start={c.validation_guidance_skip_layers_start} must be "
        "below validation_guidance_skip_layers_stop={c.validation_guidance_skip_layers_stop}",
        "lower the start, or raise the stop",
    ),
    error(
        "validation_noise_scheduler flow_schedule_auto_shift",
        lambda c: c.validation_noise_scheduler == "heun" and c.flow_schedule_auto_shift,
        "validation_noise_scheduler=heun and flow_schedule_auto_shift=true are both set: the Heun "
        "sampler of diffusers has one shift for all sizes",
        "use another sampler, or set flow_schedule_shift",
    ),
    error(
        "validation_lycoris_strength lora_init_type",
        lambda c: c.validation_lycoris_strength != 1 and c.lora_init_type in ("pissa", "olora"),
        "validation_lycoris_strength={c.validation_lycoris_strength:g} goes with "
        "lora_init_type=default: the adapter of {c.lora_init_type} holds a part of the base model "
        "while it trains",
        "leave one of them out, or draw the result with `sd3tune sample`",
    ),
    error(
        "resolution_type maximum_image_size",
        lambda c: c.resolution_type == "area" and (c.maximum_image_size or 0) > 5,
        "maximum_image_size={c.maximum_image_size:g} would be megapixels with resolution_type=area",
        "use resolution_type=pixel_area for pixels, or set it in a dataset",
    ),
    error(
        "num_machines machine_rank",
        lambda c: c.num_machines > 1 and c.machine_rank >= c.num_machines,
        "machine_rank={c.machine_rank} must be below num_machines={c.num_machines}",
        "machines are numbered from 0",
    ),
)
PUBLISHING = (
    error(
        "push_to_hub hub_model_id tracker_project_name output_name",
        lambda c: c.push_to_hub and not repository_name(c),
        "push_to_hub=true names no repository",
        "set hub_model_id=NAME, which is then in your own namespace",
    ),
    error(
        "push_checkpoints_to_hub model_type",
        lambda c: c.push_to_hub and c.push_checkpoints_to_hub and c.model_type == "full",
        "push_checkpoints_to_hub uploads adapters, and checkpoints of model_type=full hold none",
        "leave it out; the result is uploaded at the end",
    ),
)
CONTRADICTIONS = (
    *LENGTH, *OPTIMISATION, *FLOW, *ROLLOUT, *ADAPTER, *BLOCKS, *EVALUATION, *OTHERS,
    *PUBLISHING,
)  # fmt: skip

"""Settings that were set and change nothing, because another one switches them off.

What a row is: idle.py. What a run shows and reports is in reporting_without_effect.py.
"""

from sd3tune.config.rules.contradictions import SCHEDULES, schedules
from sd3tune.config.rules.idle import PICTURES_ARE_DRAWN_BY, Idle, no_pictures
from sd3tune.config.rules.reporting_without_effect import PICTURES, REPORTING
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.tables.loss_types import LOSS_TYPES
from sd3tune.tables.lr_schedulers import LR_SCHEDULERS
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.tables.schemes import SCHEMES

TEXT_PRECISIONS = tuple(f"text_encoder_{i}_precision" for i in (1, 2, 3))


def _trains_bf16(c: AllSettings) -> bool:
    return OPTIMIZERS[c.optimizer or "adamw"].bf16_weights


def model_is_local(c: AllSettings) -> bool:
    """Whether every part of the model is on this machine. The text encoders of a single file come
    from a repository."""
    model, transformer = (
        c.pretrained_model_name_or_path,
        c.pretrained_transformer_model_name_or_path,
    )
    folder = model.startswith("/") and not model.endswith(".safetensors")
    return folder and (transformer is None or transformer.startswith("/"))


def rollout(c: AllSettings) -> int:
    """Not 0 with scheduled sampling."""
    return c.scheduled_sampling_max_step_offset


def of_rollout(names: str) -> str:
    """The settings' names in full."""
    return " ".join(f"scheduled_sampling_{name}" for name in names.split())


MODEL = (
    Idle(
        "model_flavour",
        "pretrained_model_name_or_path",
        lambda c: c.source("pretrained_model_name_or_path").by == "user",
        "pretrained_model_name_or_path names the model",
        "leave out one of them",
    ),
    Idle(
        "pretrained_transformer_subfolder",
        "pretrained_transformer_model_name_or_path",
        lambda c: c.pretrained_transformer_model_name_or_path is None,
        "pretrained_transformer_model_name_or_path is not set",
        "set it, or leave out the subfolder",
    ),
    Idle(
        "pretrained_transformer_subfolder",
        "pretrained_transformer_model_name_or_path",
        lambda c: (c.pretrained_transformer_model_name_or_path or "").endswith(".safetensors"),
        "pretrained_transformer_model_name_or_path is a file",
        "leave it out",
    ),
    Idle(
        "revision",
        "pretrained_model_name_or_path pretrained_transformer_model_name_or_path",
        model_is_local,
        "the model is on this machine and not in a repository",
        "leave it out",
    ),
)
ADAPTER = (
    Idle(
        "lora_rank lora_alpha lora_dropout lora_format output_name",
        "model_type",
        lambda c: c.model_type == "full",
        "model_type=full has no adapter",
        "leave it out, or set model_type=lora",
    ),
    Idle(
        "lora_rank lora_alpha lora_dropout",
        "lora_type model_type",
        lambda c: c.model_type == "lora" and c.lora_type == "lycoris",
        "lycoris_config says how the adapter is built",
        "set linear_dim, linear_alpha or dropout there",
    ),
)
OPTIMISATION = (
    Idle(
        "lr_end",
        "lr_scheduler",
        lambda c: not LR_SCHEDULERS[c.lr_scheduler].falls,
        "lr_scheduler={c.lr_scheduler} does not fall",
        "leave it out, or set lr_scheduler=cosine",
    ),
    Idle(
        "lr_power",
        "lr_scheduler",
        lambda c: c.lr_scheduler != "polynomial",
        "lr_scheduler is {c.lr_scheduler}, not polynomial",
        "leave it out, or set lr_scheduler=polynomial",
    ),
    Idle(
        "lr_num_cycles",
        "lr_scheduler",
        lambda c: c.lr_scheduler != "cosine_with_restarts",
        "lr_scheduler is {c.lr_scheduler}, not cosine_with_restarts",
        "leave it out, or set lr_scheduler=cosine_with_restarts",
    ),
    Idle(
        "grad_clip_method",
        "max_grad_norm",
        lambda c: not c.max_grad_norm,
        "max_grad_norm=0 switches clipping off",
        "leave it out, or set max_grad_norm",
    ),
    Idle(
        "gradient_precision",
        "optimizer",
        lambda c: None if _trains_bf16(c) else c.optimizer or "adamw",
        "{which} trains float32 weights",
        "leave it out",
    ),
)
HARDWARE = (
    Idle(
        "quantize_via",
        f"base_model_precision {' '.join(TEXT_PRECISIONS)}",
        lambda c: (
            c.base_model_precision == "no_change"
            and all(getattr(c, name) == "no_change" for name in TEXT_PRECISIONS)
        ),
        "nothing is quantised",
        "leave it out, or set base_model_precision",
    ),
    Idle(
        "w8a8_check_interval",
        "base_model_precision",
        lambda c: not SCHEMES[c.base_model_precision or "no_change"].multiplies,
        "the transformer does not multiply in 8 bits",
        "leave it out, or set base_model_precision=int8-w8a8",
    ),
    Idle(
        "cache_dir_quantised",
        "base_model_precision model_type",
        lambda c: c.base_model_precision == "no_change" or c.model_type == "full",
        "the transformer is not quantised",
        "leave it out, or set base_model_precision",
    ),
    Idle(
        "dynamo_mode dynamo_fullgraph dynamo_dynamic",
        "dynamo_backend",
        lambda c: c.dynamo_backend == "no",
        "dynamo_backend is no",
        "leave it out, or set dynamo_backend=inductor",
    ),
    Idle(
        "dynamo_mode",
        "dynamo_backend",
        lambda c: c.dynamo_backend == "aot_eager",
        "dynamo_backend=aot_eager searches for no kernels",
        "leave it out, or set dynamo_backend=inductor",
    ),
)
FLOW = (
    Idle(
        "flow_sigmoid_scale",
        " ".join(SCHEDULES),
        schedules,
        "{which[0]} draws the noise levels",
        "leave out one of them",
    ),
    Idle(
        "flow_schedule_shift flow_schedule_auto_shift",
        f"flow_custom_timesteps {PICTURES_ARE_DRAWN_BY}",
        lambda c: c.flow_custom_timesteps and no_pictures(c),
        "flow_custom_timesteps are taken as they are",
        "leave it out",
    ),
    Idle(
        "flow_beta_schedule_alpha flow_beta_schedule_beta",
        "flow_use_beta_schedule",
        lambda c: not c.flow_use_beta_schedule,
        "flow_use_beta_schedule is off",
        "leave it out, or set flow_use_beta_schedule=true",
    ),
    Idle(
        "flow_timesteps_mode",
        "flow_custom_timesteps",
        lambda c: not c.flow_custom_timesteps,
        "flow_custom_timesteps is not set",
        "leave it out, or set flow_custom_timesteps",
    ),
    Idle(
        "huber_c huber_schedule",
        "loss_type",
        lambda c: not LOSS_TYPES[c.loss_type].bends,
        "loss_type is {c.loss_type}",
        "leave it out, or set loss_type=huber",
    ),
    Idle(
        "input_perturbation_steps",
        "input_perturbation",
        lambda c: not c.input_perturbation,
        "input_perturbation is 0",
        "leave it out, or set input_perturbation",
    ),
    Idle(
        "masked_loss_normalize",
        "masked_loss_probability",
        lambda c: not c.masked_loss_probability,
        "masked_loss_probability is 0",
        "leave it out, or set masked_loss_probability",
    ),
    Idle(
        "loss_spike_factor",
        "loss_spike_action",
        lambda c: c.loss_spike_action == "none",
        "loss_spike_action is none",
        "leave it out, or set loss_spike_action",
    ),
)
ROLLOUT = (
    Idle(
        # SimpleTuner's own defaults of `sampler` and `order` stand in many files: not among these.
        of_rollout(
            "probability ramp_steps prob_start prob_end ramp_shape start_step strategy reflexflow "
            "reflexflow_alpha reflexflow_beta1 reflexflow_beta2"
        ),
        of_rollout("max_step_offset"),
        lambda c: not rollout(c),
        "scheduled_sampling_max_step_offset is 0",
        "leave it out, or set scheduled_sampling_max_step_offset",
    ),
    Idle(
        of_rollout("probability"),
        of_rollout("ramp_steps"),
        lambda c: rollout(c) and c.scheduled_sampling_ramp_steps,
        "scheduled_sampling_ramp_steps rules the probability",
        "set scheduled_sampling_prob_start and _prob_end instead",
    ),
    Idle(
        of_rollout("prob_start prob_end ramp_shape"),
        of_rollout("ramp_steps"),
        lambda c: rollout(c) and not c.scheduled_sampling_ramp_steps,
        "scheduled_sampling_ramp_steps is 0",
        "leave it out, or set scheduled_sampling_ramp_steps",
    ),
    Idle(
        of_rollout("reflexflow_alpha reflexflow_beta1 reflexflow_beta2"),
        of_rollout("reflexflow"),
        lambda c: rollout(c) and c.scheduled_sampling_reflexflow is False,
        "scheduled_sampling_reflexflow is false",
        "leave it out, or leave out scheduled_sampling_reflexflow",
    ),
)
KEPT = (
    Idle(
        "ema_decay ema_warmup_steps ema_update_interval ema_device ema_validation",
        "use_ema",
        lambda c: not c.use_ema,
        "use_ema is false",
        "leave it out, or set use_ema=true",
    ),
    Idle(
        "checkpoints_rolling_total_limit",
        "checkpointing_rolling_steps",
        lambda c: not c.checkpointing_rolling_steps,
        "checkpointing_rolling_steps is 0",
        "leave it out, or set checkpointing_rolling_steps",
    ),
)
PROCESSES = (
    Idle(
        "machine_rank main_process_ip main_process_port",
        "num_machines",
        lambda c: c.num_machines == 1,
        "num_machines is 1",
        "leave it out, or set num_machines",
    ),
    Idle(
        "fsdp_reshard_after_forward",
        "fsdp_enable",
        lambda c: not c.fsdp_enable,
        "fsdp_enable is false",
        "leave it out, or set fsdp_enable=true",
    ),
)
IDLE = (
    *MODEL, *ADAPTER, *OPTIMISATION, *HARDWARE, *FLOW, *ROLLOUT, *KEPT, *PROCESSES, *PICTURES,
    *REPORTING,
)  # fmt: skip
WITHOUT_EFFECT = tuple(row for idle in IDLE for row in idle.rows())

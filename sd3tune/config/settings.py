"""What the user asks for: one typed table, read once at the edge and never changed.

A field's docstring is its help and its documentation. None means "decide for me", and so does the
word "auto" in a file; plan/resolve.py decides and says why. Unknown names are errors.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from sd3tune.config import checks
from sd3tune.config.files import (
    absolute_path,
    fill_in,
    project_folder,
    read_env,
    read_json,
    without_dashes,
    words_to_settings,
)
from sd3tune.config.report import COMMAND_LINE, refusal, refuse_unknown, shown
from sd3tune.config.vocabulary import ALIASES, INVERTED, SPELLINGS
from sd3tune.errors import ConfigError

Precision = Literal[
    "no_change", "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto", "nf4-bnb"
]
Optimizer = Literal[
    "adamw", "torch-adamw", "adamw_bf16", "optimi-adamw", "optimi-stableadamw", "optimi-lion",
    "bnb-adamw8bit", "bnb-adamw8bit-paged", "bnb-lion8bit", "bnb-lion8bit-paged",
]  # fmt: skip
Attention = Literal[
    "diffusers", "native", "native-math", "native-flash", "native-efficient", "cudnn",
    "sageattention",
]  # fmt: skip
Flag = Annotated[bool, BeforeValidator(checks.flag)]
Whole = Annotated[int, BeforeValidator(checks.whole), Field(lt=2**63)]  # what torch can hold
Number = Annotated[float, BeforeValidator(checks.number)]
Count = Annotated[Whole, Field(ge=1)]
Words = Annotated[tuple[str, ...] | None, BeforeValidator(checks.words)]
Layers = Annotated[tuple[int, ...] | None, BeforeValidator(checks.layers)]
Sizes = Annotated[tuple[tuple[int, int], ...], BeforeValidator(checks.sizes)]
FLAVOURS = {
    None: "stabilityai/stable-diffusion-3.5-medium",
    "medium": "stabilityai/stable-diffusion-3.5-medium",
    "large": "stabilityai/stable-diffusion-3.5-large",
    "sd3-medium": "stabilityai/stable-diffusion-3-medium-diffusers",
}
LENGTHS = ("max_train_steps", "num_train_epochs")
PATHS = ("output_dir", "data_backend_config", "user_prompt_library")


def _options(text: str) -> str:
    """optimizer_config, refused here so that the complaint names it."""
    names = [part.partition("=")[0].strip() for part in text.split(",")]
    if len(set(names)) != len(names):
        raise ValueError("sets an option twice")
    for name, value in checks.optimizer_options(text, None, None).items():
        if not isinstance(value, int | float):
            raise ValueError(f"`{name}` must be a number, true or false")
    return text


class Settings(BaseModel):
    """Frozen, strict about names, documented by its docstrings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Config(Settings):
    """config/config.json."""

    # model
    model_family: Literal["sd3"] = "sd3"
    """Always sd3: Stable Diffusion 3 and 3.5."""
    model_type: Literal["lora"] = "lora"
    """What is trained: `lora`, a small adapter beside frozen weights."""
    lora_type: Literal["standard"] = "standard"
    """`standard` is LoRA through peft."""
    model_flavour: Literal["medium", "large", "sd3-medium"] | None = None
    """SD3.5 `medium` (2.2 B parameters) or `large` (8.1 B), or `sd3-medium` (2.0 B)."""
    pretrained_model_name_or_path: str = ""
    """A diffusers folder or a Hugging Face repository. Left out: as model_flavour says."""
    revision: str | None = None
    """Branch, tag or commit of the repository."""
    variant: str | None = None
    """File variant of the repository, such as fp16."""

    # where things are
    output_dir: Path
    """Adapter, checkpoints, pictures and caches go here."""
    data_backend_config: Path
    """The list of datasets. Left out: multidatabackend.json beside the configuration file."""
    user_prompt_library: Path | None = None
    """JSON of {shortname: prompt}: one validation picture each."""

    # data
    resolution: Number = Field(1024, gt=0)
    """Default of every dataset, in the unit of resolution_type."""
    resolution_type: Literal["pixel", "area", "pixel_area"] = "pixel_area"
    """`pixel_area`: edge of a square of that area. `area`: megapixels. `pixel`: shorter edge."""
    minimum_image_size: Number | None = Field(None, ge=0)
    """Smaller images are set aside, in the unit of resolution_type."""
    maximum_image_size: Number | None = Field(None, ge=0)
    """With target_downsample_size: crops are taken from images resized to that size first."""
    target_downsample_size: Number | None = Field(None, ge=0)
    """Size to which images are resized before they are cropped."""
    aspect_bucket_rounding: Whole = Field(2, ge=1, le=9)
    """Decimals of an aspect ratio that tell buckets apart."""
    aspect_bucket_alignment: Literal[64] = 64
    """Sides are multiples of 64 pixels for SD3."""
    caption_strategy: Literal[
        "filename", "textfile", "instanceprompt", "parquet", "csv", "huggingface"
    ] = "filename"
    """Default of every dataset: the file's name, a .txt beside it, instance_prompt, or a column of
    a table."""
    caption_dropout_probability: Number = Field(0.1, ge=0, le=1)
    """Share of captions replaced by the blank one, which teaches guidance."""
    vae_batch_size: Count = 4
    """Images encoded at a time."""
    text_encoder_batch_size: Count = 4
    """Captions encoded at a time."""
    write_batch_size: Count = 32
    """Cache entries in a file; what an interruption can lose."""
    data_backend_sampling: Literal["uniform", "auto-weighting"] = "auto-weighting"
    """How the dataset of the next batch is drawn: by probability alone, or by probability times
    size."""
    allow_dataset_oversubscription: Flag = False
    """Repeat a dataset that is too small for one optimizer step instead of refusing it."""
    masked_loss_probability: Number = Field(1.0, ge=0, le=1)
    """Share of the batches with masks whose loss is weighed by them."""
    strict: Flag = False
    """A file that cannot be used is an error instead of a line in the report."""

    # length and size of the run
    seed: Whole = Field(0, ge=0)
    """Same seed, same noise, on every vendor."""
    max_train_steps: Whole | None = Field(None, ge=0)
    """Optimizer steps to run in total. Or set num_train_epochs."""
    num_train_epochs: Whole | None = Field(None, ge=0)
    """Passes over the data to run in total. Or set max_train_steps."""
    train_batch_size: Count | None = None
    """Images per forward pass. Left out: 4, or what fits."""
    gradient_accumulation_steps: Count = 1
    """Batches per optimizer step."""
    gradient_checkpointing: Flag = True
    """Recompute activations in the backward pass instead of keeping them."""

    # optimisation
    learning_rate: Number = Field(1e-4, gt=0)
    """Peak learning rate."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = (
        "constant_with_warmup"
    )
    """Course of the learning rate after warm-up: constant, or falling to lr_end."""
    lr_warmup_steps: Whole = Field(0, ge=0)
    """Steps over which the learning rate rises to its peak."""
    lr_end: Number = Field(0.0, ge=0)
    """Learning rate at the end of `linear` and `cosine`."""
    optimizer: Optimizer | None = None
    """Left out: adamw."""
    optimizer_config: Annotated[str, AfterValidator(_options)] = ""
    """Options of the optimizer as `weight_decay=0.01,eps=1e-6`."""
    optimizer_beta1: Number | None = Field(None, ge=0, lt=1)
    """Decay of the first moment."""
    optimizer_beta2: Number | None = Field(None, ge=0, lt=1)
    """Decay of the second moment."""
    max_grad_norm: Number = Field(1.0, ge=0)
    """Gradients longer than this are scaled down to it; 0 switches that off."""

    # hardware: all of it is chosen when left out
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Autocast of the forward pass. `no` on Apple."""
    base_model_default_dtype: Literal["bf16", "fp16", "fp32"] | None = None
    """Format of frozen weights that are not quantised."""
    base_model_precision: Precision | None = None
    """Quantisation of the frozen transformer."""
    text_encoder_1_precision: Precision | None = None
    """Quantisation of CLIP-L while captions are encoded."""
    text_encoder_2_precision: Precision | None = None
    """Quantisation of CLIP-G while captions are encoded."""
    text_encoder_3_precision: Precision | None = None
    """Quantisation of T5-XXL while captions are encoded."""
    vae_dtype: Literal["default", "fp32", "fp16", "bf16"] | None = None
    """Format of the autoencoder."""
    attention_mechanism: Attention | None = None
    """Attention kernel; `sageattention` is for validation pictures only."""
    sageattention_usage: Literal["inference"] = "inference"
    """SageAttention has no backward: `training` would leave query, key and value untrained."""
    dynamo_backend: Literal["no", "inductor", "aot_eager"] | None = None
    """torch.compile of the transformer's blocks."""
    deterministic: Flag = False
    """Same bits on each run of the same machine, at some cost in speed."""

    # adapter
    lora_rank: Count = 16
    """Width of the update; doubling it doubles the adapter file."""
    lora_alpha: Number | None = Field(None, gt=0)
    """The update is scaled by alpha / rank. Left out: alpha = rank."""
    lora_dropout: Number = Field(0.1, ge=0, lt=1)
    """Share of adapter inputs dropped in training."""
    peft_lora_target_modules: Words = None
    """Module-name suffixes to adapt. Left out: to_q, to_k, to_v, to_out.0."""

    # flow matching
    flow_schedule_shift: Number = Field(3.0, gt=0)
    """Moves noise levels toward noise: s' = shift s / (1 + (shift - 1) s). 1 leaves them alone."""
    flow_schedule_auto_shift: Flag = False
    """Shift by image size instead, alike in training, evaluation and validation pictures."""
    flow_use_uniform_schedule: Flag = False
    """Uniform noise levels instead of logit-normal ones."""
    flow_sigmoid_scale: Number = Field(1.0, gt=0)
    """Width of the logit-normal distribution."""

    # text
    t5_padding: Literal["unmodified", "zero"] = "unmodified"
    """What T5 says about padding: kept as SD3.5 expects, or zeroed."""
    tokenizer_max_length: Whole = Field(154, ge=16, le=256)
    """T5 tokens per caption; 77 saves space and loses the end of long captions."""
    sd3_clip_uncond_behaviour: Literal["empty_string", "zero"] = "empty_string"
    """The CLIP half of the blank caption: encoded, or zeros."""
    sd3_t5_uncond_behaviour: Literal["empty_string", "zero"] = "empty_string"
    """The T5 half of the blank caption: encoded, or zeros."""

    # checkpoints
    checkpoint_step_interval: Count = 500
    """Steps between checkpoints; there is always one at the end."""
    checkpoints_total_limit: Count = 5
    """Newest checkpoints to keep."""
    resume_from_checkpoint: str = "latest"
    """`latest`, `never`, or the path of a checkpoint folder."""

    # validation pictures
    validation_prompt: str | None = None
    """Prompt of one validation picture."""
    validation_negative_prompt: str = ""
    """What the pictures should not show."""
    validation_resolution: Sizes = ()
    """Sizes as `1024x1024,1280x768`; every prompt is drawn in each. Left out: the resolution."""
    validation_guidance: Number = Field(3.0, ge=0)
    """Classifier-free guidance; SD3 likes little."""
    validation_num_inference_steps: Count = 30
    """Euler steps per picture."""
    validation_seed: Whole | None = Field(None, ge=0)
    """Left out: the run's seed."""
    num_validation_images: Count = 1
    """Pictures per prompt and size."""
    validation_disable: Flag = False
    """Draw no pictures."""
    validation_step_interval: Count | None = None
    """Steps between validations. Left out: only at the end."""
    validation_guidance_skip_layers: Layers = None
    """Skip-layer guidance for SD3.5 medium: blocks left out of an extra pass, as [7, 8, 9]."""
    validation_guidance_skip_layers_start: Number = Field(0.01, ge=0, le=1)
    """Share of the steps before it starts."""
    validation_guidance_skip_layers_stop: Number = Field(0.2, ge=0, le=1)
    """Share of the steps after which it stops."""
    validation_guidance_skip_scale: Number = Field(2.8, ge=0)
    """How far to move away from that pass."""

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """optimizer_config and the betas as keyword arguments."""
        return checks.optimizer_options(
            self.optimizer_config, self.optimizer_beta1, self.optimizer_beta2
        )

    @model_validator(mode="after")
    def fits_together(self) -> "Config":
        checks.cross(self)
        return self

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> "Config":
        """A file and the command line's `key=value` words. Raises ConfigError."""
        absolute_path(str(path), Path.cwd(), COMMAND_LINE, "CONFIG")  # refuses what is no path
        path = path.expanduser()
        if path.is_dir():
            inside = [path / name for name in ("config.json", "config.env", "config/config.json")]
            path = next((p for p in inside if p.is_file()), path)
        env = path.suffix == ".env"
        data = read_env(path, TEXTS) if env else read_json(path, dict, "configuration file")
        data = renamed(fill_in(without_dashes(data, path), path, {}), f"`{path}`")
        said = renamed(words_to_settings(overrides, TEXTS), COMMAND_LINE)
        for one, other in (LENGTHS, LENGTHS[::-1]):
            if said.get(one) and other not in said:
                data.pop(other, None)  # the file's way of saying how long is overridden too
        values = {k: v for k, v in (data | said).items() if not left_open(k, v)}
        if values.get("lr_scheduler") == "constant" and values.get("lr_warmup_steps", 0) != 0:
            values["lr_scheduler"] = "constant_with_warmup"  # as the reference reads it
        values = refuse_unknown(values, cls, path, said)
        return cls._made(values, path, said)

    @classmethod
    def _made(cls, values: dict[str, Any], path: Path, said: dict[str, Any]) -> "Config":
        beside = path.absolute().parent / "multidatabackend.json"
        values.setdefault("data_backend_config", str(beside))
        flavour = values.get("model_flavour")
        if "pretrained_model_name_or_path" not in values and flavour in tuple(FLAVOURS):
            values["pretrained_model_name_or_path"] = FLAVOURS[flavour]
        for name in (*PATHS, "pretrained_model_name_or_path", "resume_from_checkpoint"):
            if isinstance(values.get(name), str):
                by_hand = name in said
                folder = Path.cwd() if by_hand else project_folder(path)
                where = COMMAND_LINE if by_hand else f"`{path}`"
                values[name] = placed(name, values[name], folder, where)
        try:
            return cls.model_validate(values)
        except ValidationError as e:
            raise refusal(e, cls, path, said, values) from None

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.model_dump_json())
        return data


# Settings that hold words: whatever is written for them is text, and "" leaves them out.
TEXTS = frozenset(
    name
    for name, field in Config.model_fields.items()
    if field.annotation in (str, str | None, Path, Path | None)
)
PROMPTS = ("validation_prompt", "validation_negative_prompt")


def left_open(name: str, value: Any) -> bool:
    """null, and the word `auto` outside prompts: decide for me."""
    if value == "":
        return name in TEXTS
    return value is None or (value == "auto" and name not in PROMPTS)


def renamed(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Old names and spellings as today's. Two names of one setting are an error."""
    found: dict[str, Any] = {}
    for old, value in values.items():
        name = ALIASES.get(old, old)
        if old in INVERTED and (turned := _inverted(value)) is not None:
            name, value = INVERTED[old], turned
        if name in found:
            raise ConfigError(
                f"{where}: `{old}={shown(value)}` sets `{name}` a second time",
                hint="remove one of the two",
            )
        spellings = SPELLINGS.get(name, {})
        found[name] = spellings.get(value, value) if isinstance(value, str) else value
    return found


def _inverted(value: Any) -> bool | None:
    try:
        return not checks.flag(value)
    except ValueError:
        return None


def placed(name: str, text: str, folder: Path, where: str) -> str:
    """A path of the file, absolute. A model may also be a repository: only what exists, or looks
    like a path, is one."""
    if name == "resume_from_checkpoint" and text in ("latest", "never"):
        return text
    path = absolute_path(text, folder, where, name)
    looks_local = text.startswith((".", "/", "~")) or path.exists()
    return text if name == "pretrained_model_name_or_path" and not looks_local else str(path)

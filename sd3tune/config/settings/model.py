"""The model, and which of its weights are trained."""

from typing import Annotated, Literal

from sd3tune.config.fields import OneOf, Settings
from sd3tune.tables.architectures import ARCHITECTURES


class ModelSettings(Settings):
    """The model, and which of its weights are trained."""

    model_family: Literal["sd3"] = "sd3"
    """Always sd3: Stable Diffusion 3 and 3.5."""
    model_type: Literal["lora", "full"] = "lora"
    """`lora` trains a small adapter beside frozen weights, `full` trains all weights of the
    transformer."""
    lora_type: Literal["standard", "lycoris"] = "standard"
    """`standard`: LoRA through peft. `lycoris`: the algorithm that lycoris_config names."""
    model_flavour: Annotated[str, OneOf(ARCHITECTURES, explained=True)] | None = None
    """Which released model; `medium` and `large` are those of SD3.5."""
    pretrained_model_name_or_path: str = ""
    """A diffusers folder, a Hugging Face repository, or one safetensors file in the original
    layout. Left out: as model_flavour says."""
    pretrained_transformer_model_name_or_path: str | None = None
    """The transformer alone from another folder, repository or safetensors file (which brings its
    VAE along when it holds one); text encoders stay those of pretrained_model_name_or_path."""
    pretrained_transformer_subfolder: str = "transformer"
    """Sub-folder of pretrained_transformer_model_name_or_path with the transformer; `.` is the
    folder itself."""
    revision: str | None = None
    """Branch, tag or commit of the repository."""
    variant: str | None = None
    """File variant of the repository, such as fp16."""

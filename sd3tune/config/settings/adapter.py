"""The adapter that is trained."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sd3tune.config import values
from sd3tune.config.fields import Count, Flag, ModuleNames, Number, OneOf, Settings
from sd3tune.config.names import supported
from sd3tune.tables.dialects import DIALECTS


class AdapterSettings(Settings):
    """The adapter that is trained."""

    lora_rank: Count = 16
    """Rank of the low-rank update; doubling it doubles the adapter file."""
    lora_alpha: Number | None = Field(None, gt=0)
    """The update is scaled by alpha / rank. Left out: alpha = rank."""
    lora_dropout: Number = Field(0.1, ge=0, lt=1)
    """Share of adapter inputs dropped in training."""
    peft_lora_target_modules: ModuleNames = None
    """Module-name suffixes to adapt. Left out: to_q, to_k, to_v, to_out.0."""
    use_dora: Flag = False
    """DoRA: trains the magnitude of each weight vector beside its direction. Slower."""
    use_rslora: Flag = False
    """rsLoRA: scales by alpha / sqrt(rank), so that large ranks still learn."""
    lora_init_type: Annotated[
        Literal["default", "gaussian", "pissa", "olora"],
        BeforeValidator(supported("lora_init_type")),
    ] = "default"
    """How the adapter is initialised. `pissa` and `olora` move a part of the frozen weights into
    it, and need weights that are not quantised."""
    init_lora: Path | None = None
    """An adapter file in any dialect, or a folder that holds one, whose weights training begins
    with. Its rank may be smaller than lora_rank."""
    lora_format: Annotated[str, OneOf(DIALECTS)] = "diffusers"
    """Dialect of the file that is written; `sd3tune export` writes the others. LyCORIS has one
    dialect."""
    output_name: Annotated[str, AfterValidator(values.file_stem)] | None = None
    """Name of the adapter's file in output_dir and in checkpoints, without .safetensors. Left out:
    pytorch_lora_weights, which diffusers finds by itself."""
    lycoris_config: Path | None = None
    """JSON of algorithm, rank and targets for lora_type=lycoris. Left out: lycoris_config.json
    beside the configuration file."""

"""The types of settings, and their base class."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sd3tune.config import checks, optimizers, refused

Precision = Annotated[
    Literal["no_change", "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto", "nf4-bnb"],
    BeforeValidator(refused.precision),
]
QuantizeVia = Annotated[Literal["accelerator", "cpu"], BeforeValidator(refused.quantize_via)]
CheckpointingBackend = Annotated[
    Literal["torch", "unsloth"], BeforeValidator(refused.checkpointing_backend)
]
Optimizer = Annotated[str, AfterValidator(optimizers.known)]
Attention = Literal[
    "diffusers", "native", "native-math", "native-flash", "native-efficient", "cudnn",
    "sliced", "sageattention",
]  # fmt: skip
Flag = Annotated[bool, BeforeValidator(checks.flag)]
Whole = Annotated[int, BeforeValidator(checks.whole), Field(lt=2**63)]  # what torch can hold
Number = Annotated[float, BeforeValidator(checks.number)]
Count = Annotated[Whole, Field(ge=1)]
Words = Annotated[tuple[str, ...] | None, BeforeValidator(checks.words)]
Layers = Annotated[tuple[int, ...] | None, BeforeValidator(checks.layers)]
Sizes = Annotated[tuple[tuple[int, int], ...], BeforeValidator(checks.sizes)]


class Settings(BaseModel):
    """Frozen, strict about names, documented by its docstrings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

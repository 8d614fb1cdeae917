"""The types of settings, and their base class."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sd3tune.config import optimizers, values
from sd3tune.config.names import supported

Precision = Annotated[
    Literal["no_change", "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto", "nf4-bnb"],
    BeforeValidator(supported("precision")),
]
QuantizeVia = Annotated[Literal["accelerator", "cpu"], BeforeValidator(supported("quantize_via"))]
CheckpointingBackend = Annotated[
    Literal["torch", "unsloth"], BeforeValidator(supported("gradient_checkpointing_backend"))
]
Optimizer = Annotated[str, AfterValidator(optimizers.known)]
Attention = Literal[
    "diffusers", "native", "native-math", "native-flash", "native-efficient", "cudnn",
    "sliced", "sageattention",
]  # fmt: skip
Flag = Annotated[bool, BeforeValidator(values.flag)]
Whole = Annotated[int, BeforeValidator(values.whole), Field(lt=2**63)]  # what torch can hold
Number = Annotated[float, BeforeValidator(values.number)]
Count = Annotated[Whole, Field(ge=1)]
Words = Annotated[tuple[str, ...] | None, BeforeValidator(values.words)]
Layers = Annotated[tuple[int, ...] | None, BeforeValidator(values.layers)]
Sizes = Annotated[tuple[tuple[int, int], ...], BeforeValidator(values.sizes)]


class Settings(BaseModel):
    """Frozen, strict about names, documented by its docstrings.

    Of a class with several topics as bases the settings stand in the order of the bases, first to
    last. pydantic alone would list those of the last base first.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        fields, inherited = cls.__pydantic_fields__, [base for base in cls.__bases__
                                                      if issubclass(base, Settings)]  # fmt: skip
        order = dict.fromkeys(name for base in inherited for name in base.model_fields)
        order |= dict.fromkeys(fields)  # its own come last
        if list(order) != list(fields):
            found = dict(fields)
            fields.clear()
            fields.update({name: found[name] for name in order})
            cls.model_rebuild(force=True)

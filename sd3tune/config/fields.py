"""The types of settings, and their base class."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from sd3tune.config import values
from sd3tune.config.names import supported
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.tables.schemes import SCHEMES
from sd3tune.tables.table import Table


@dataclass(frozen=True)
class OneOf:
    """The type of a setting whose value is the name of a table's row, as the table is when the
    setting is read: `Annotated[str, OneOf(TABLE)]`. Docs list the names, and with `explained` what
    each row is about."""

    table: Table[Any]
    explained: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.table.check, handler(source))


Precision = Annotated[str, OneOf(SCHEMES)]
QuantizeVia = Annotated[Literal["accelerator", "cpu"], BeforeValidator(supported("quantize_via"))]
CheckpointingBackend = Annotated[
    Literal["torch", "unsloth"], BeforeValidator(supported("gradient_checkpointing_backend"))
]
CheckpointingKeep = Literal["auto", "inputs", "attention"]
DynamoMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
Optimizer = Annotated[str, OneOf(OPTIMIZERS)]
Attention = Annotated[
    Literal[
        "diffusers", "native", "native-math", "native-flash", "native-efficient", "cudnn",
        "sliced", "sageattention",
    ],
    BeforeValidator(supported("attention_mechanism")),
]  # fmt: skip
Alignment = Annotated[
    Literal[64],
    BeforeValidator(lambda v: 64 if str(v) == "64" else v),
    BeforeValidator(supported("aspect_bucket_alignment")),
]
Flag = Annotated[bool, BeforeValidator(values.flag)]
Whole = Annotated[int, BeforeValidator(values.whole), Field(lt=2**63)]  # what torch can hold
Number = Annotated[float, BeforeValidator(values.number)]
Resolution = Annotated[float, BeforeValidator(values.resolution)]
Count = Annotated[Whole, Field(ge=1)]
ModuleNames = Annotated[tuple[str, ...] | None, BeforeValidator(values.module_names)]
Layers = Annotated[tuple[int, ...] | None, BeforeValidator(values.layers)]
Sizes = Annotated[tuple[tuple[int, int], ...], BeforeValidator(values.sizes)]


class Settings(BaseModel):
    """Frozen, strict about names, documented by its docstrings (docstrings.py).

    Of a class with several topics as bases the settings stand in the order of the bases, first to
    last. pydantic alone would list those of the last base first.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        defer_build=True,  # built when used
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        fields, inherited = cls.__pydantic_fields__, [base for base in cls.__bases__
                                                      if issubclass(base, Settings)]  # fmt: skip
        order = dict.fromkeys(name for base in inherited for name in base.model_fields)
        order |= dict.fromkeys(fields)  # its own come last
        if list(order) != list(fields):
            unordered = dict(fields)
            fields.clear()
            fields.update({name: unordered[name] for name in order})

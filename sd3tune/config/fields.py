"""The types of settings, and their base class."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from sd3tune.config import checks, refused
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
QuantizeVia = Annotated[Literal["accelerator", "cpu"], BeforeValidator(refused.quantize_via)]
CheckpointingBackend = Annotated[
    Literal["torch", "unsloth"], BeforeValidator(refused.checkpointing_backend)
]
Optimizer = Annotated[str, OneOf(OPTIMIZERS)]
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

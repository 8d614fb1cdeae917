"""The rows of benchmarks/full_size.py: configurations of SD3.5 at full size, and what is wanted of
them on an H100 or H200. Not a command.

The order is that of worth: a card that is rented for a quarter of an hour may not come to the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

LARGE, MEDIUM = "sd3.5-large", "sd3.5-medium"
INT8, NF4, INT2 = "int8-quanto", "nf4-bnb", "int2-quanto"
W8A8 = ("int8-w8a8", "fp8-w8a8")
Checkpointing = Literal["kept", "checkpointed", "attention", "auto"]
CHECKPOINTING: dict[Checkpointing, tuple[str, ...]] = {
    "kept": ("gradient_checkpointing=false",),
    "checkpointed": ("gradient_checkpointing=true", "gradient_checkpointing_keep=inputs"),
    "attention": ("gradient_checkpointing=true", "gradient_checkpointing_keep=attention"),
    "auto": (),
}
SMALL_CARD = "rtx4060"  # 8 GB
PUBLISHED_KEPT, PUBLISHED_CHECKPOINTED = (0.529, 34.59), (0.721, 7.67)


@dataclass(frozen=True)
class Row:
    """One configuration.

    compiled: None leaves it to the plan, as does "auto" for the others. card: the memory of the
    device is cut to that of this chip of the catalogue. bare: the bare loop instead of ours.
    most_seconds, most_gib, least_share (of the matmul rate): the targets. published: SimpleTuner's
    s/step and GiB on an H100 (its documentation, August 2026). profiled: the kernels of two more
    steps are listed.
    """

    model: str
    batch: int = 1
    rank: int = 16
    side: int = 1024
    precision: str = "no_change"
    checkpointing: Checkpointing = "checkpointed"
    modulations: str = "device"
    compiled: bool | None = False
    more: tuple[str, ...] = ()
    card: str | None = None
    bare: bool = False
    profiled: bool = False
    most_seconds: float | None = None
    most_gib: float | None = None
    least_share: float | None = None
    published: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """ "medium b3 r128 1024 px, checkpointed, compiled"; no two rows have the same."""
        size = f"{self.model.removeprefix('sd3.5-')} b{self.batch} r{self.rank} {self.side} px"
        code = {True: "compiled", False: "eager", None: None}[self.compiled]
        parts = [
            size,
            "bare loop" if self.bare else None,
            None if self.precision in ("no_change", "auto") else self.precision,
            self.checkpointing if self.card is None else f"as planned for an {self.card}",
            None if self.modulations in ("device", "auto") else self.modulations,
            code,
        ]
        return ", ".join(p for p in parts if p)

    def settings(self, side: int, backend: str = "inductor") -> tuple[str, ...]:
        """The settings of the run. side: of its pictures, in pixels. backend: of torch.compile."""
        code = {True: (f"dynamo_backend={backend}",), False: ("dynamo_backend=no",), None: ()}
        return (
            f"pretrained_model_name_or_path=models/{self.model}", f"resolution={side}",
            f"train_batch_size={self.batch}", f"lora_rank={self.rank}",
            f"lora_alpha={self.rank}", f"modulations={self.modulations}",
            *([] if self.precision == "auto" else [f"base_model_precision={self.precision}"]),
            *CHECKPOINTING[self.checkpointing], *code[self.compiled], *self.more,
        )  # fmt: skip


def medium(checkpointing: Checkpointing, compiled: bool | None, **more: Any) -> Row:
    """SimpleTuner's recipe."""
    return Row(MEDIUM, 3, 128, checkpointing=checkpointing, compiled=compiled, **more)


def wanted_first() -> Iterator[Row]:
    """The rows with targets, and what they are compared with."""
    yield medium("kept", True, most_seconds=0.24, published=PUBLISHED_KEPT, profiled=True)
    yield medium("checkpointed", True, most_seconds=0.33, published=PUBLISHED_CHECKPOINTED)
    yield Row(LARGE, 4, compiled=True, most_seconds=0.82, least_share=0.6, profiled=True)
    yield Row(LARGE, 4, precision="fp8-w8a8", compiled=True, profiled=True)
    yield Row(LARGE, 4, precision="int8-w8a8", compiled=True)
    yield Row(LARGE, precision="auto", checkpointing="auto", modulations="auto", compiled=True,
              card=SMALL_CARD, most_gib=8.0)  # fmt: skip
    yield medium("kept", False, published=PUBLISHED_KEPT, profiled=True)
    yield medium("checkpointed", False, published=PUBLISHED_CHECKPOINTED)
    yield Row(LARGE, 4, profiled=True)
    yield Row(LARGE, precision=INT8, modulations="streamed", most_gib=7.5)
    yield Row(LARGE, precision=NF4, modulations="streamed", most_gib=5.5)
    yield Row(LARGE, 1, 1, 512, NF4, modulations="streamed", most_gib=4.5,
              more=("optimizer=bnb-lion8bit-paged",))  # fmt: skip
    yield Row(LARGE, precision=INT2, modulations="streamed", most_gib=4.0)
    yield medium("checkpointed", False, modulations="streamed", most_gib=6.8)
    yield medium("kept", True, bare=True)
    yield medium("checkpointed", True, bare=True)
    yield Row(LARGE, 4, compiled=True, bare=True)
    yield medium("kept", False, bare=True)
    yield medium("checkpointed", False, bare=True)
    yield Row(LARGE, 4, bare=True)
    yield Row(LARGE, 4, checkpointing="attention")
    yield medium("attention", False)
    yield medium("auto", True, modulations="auto")
    yield Row(LARGE, 4, checkpointing="auto", modulations="auto", compiled=True)


def whole_table() -> Iterator[Row]:
    """Each precision, both sizes, eager and compiled."""
    for side in (1024, 512):
        for compiled in (False, True):
            for precision in ("no_change", INT8, NF4, INT2, *W8A8):
                if not compiled and precision in W8A8:
                    continue  # eager kernels that round take longer than the product saves
                yield Row(LARGE, 1, side=side, precision=precision, compiled=compiled)
    for compiled in (True, False):
        yield Row(MEDIUM, 3, 128, 512, checkpointing="kept", compiled=compiled)
        yield Row(LARGE, 4, 16, 512, compiled=compiled)


ROWS = (*wanted_first(), *whole_table())

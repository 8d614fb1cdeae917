"""The axis of optimizers: where each works, and what to use where it does not.

Names are the vocabulary's; train/optim.py has the class behind each, plan/memory.py the bytes of
its state. All train float32 weights but `adamw_bf16`.
"""

from sd3tune.backends.decide.option import Option
from sd3tune.backends.decide.rules import (
    BNB,
    Request,
    Rule,
    asks,
    elsewhere,
    native_bf16,
    never_on,
    package,
    smoke,
)
from sd3tune.backends.observe.facts import Facts

OPTIMI = package("torch-optimi", "0.3.3")
COLLECTION = package("pytorch-optimizer", "4.1")
TORCHAO = package("torchao", "0.18", extra="torchao")
NOT_BF16 = "float32 weights: in bf16 an update below 1/256 of a weight is lost"
BF16_WEIGHTS = ("adamw_bf16",)

TORCH = {
    "adam": "Adam: weight decay goes through the moments",
    "sgd": "plain gradient descent",
    "radam": "Adam with a rectified start",
    "nadam": "Adam with Nesterov's momentum",
    "rmsprop": "the second moment alone",
    "adagrad": "steps shrink with the sum of squared gradients",
    "adadelta": "no learning rate of its own: set about 1",
    "adafactor": "second moments of rows and columns: hardly any state",
    "adamax": "Adam with the largest gradient instead of the second moment",
    "asgd": "averaged gradient descent",
}
OPTIMI_KINDS = {
    "stableadamw": "AdamW whose step shrinks when gradients outgrow their second moment",
    "adamw": "torch-optimi's AdamW",
    "lion": "sign updates, one moment",
    "radam": "torch-optimi's RAdam",
    "ranger": "RAdam with lookahead",
    "adan": "Nesterov momentum over gradient differences",
    "adam": "torch-optimi's Adam",
    "sgd": "torch-optimi's SGD",
}
# bitsandbytes' kinds, and the unquantised optimizer that does the same everywhere.
BNB_KINDS = {
    "adagrad": "torch-adagrad",
    "adam": "torch-adam",
    "adamw": "adamw",
    "lion": "optimi-lion",
    "ademamix": "adamw",
}
AO_KINDS = {
    "adamw8bit": "AdamW with 8-bit moments",
    "adamw4bit": "AdamW with 4-bit moments",
    "adamfp8": "Adam with fp8 moments",
    "adamwfp8": "AdamW with fp8 moments",
}


def whole_weights(f: Facts, r: Request) -> str | None:
    """Seen with one gloo process: these call kernels or sums that DTensor refuses."""
    return "it cannot step weights that are split over processes; use adamw" if r.sharded else None


def torch_or_optimi() -> tuple[Option, ...]:
    return (
        *(
            Option(f"torch-{name}", (whole_weights,) * (name == "adafactor"), why, auto=False)
            for name, why in TORCH.items()
        ),
        *(Option(f"optimi-{name}", (OPTIMI,), why, auto=False)
          for name, why in OPTIMI_KINDS.items()),
    )  # fmt: skip


def bitsandbytes() -> tuple[Option, ...]:
    """Every combination that bitsandbytes has: Adagrad cannot be paged."""
    return tuple(
        _bnb(name, bits, paged)
        for name in BNB_KINDS
        for bits in ("", "8bit")
        for paged in ("", "-paged")
        if not (name == "adagrad" and paged)
    )


def _bnb(kind: str, bits: str, paged: str) -> Option:
    other, low = BNB_KINDS[kind], "8-bit " if bits else ""
    rules: tuple[Rule, ...] = (
        never_on("mps", f"bitsandbytes has no {low}optimiser for MPS yet; use {other}"),
        elsewhere(BNB, "mps"),
        whole_weights,
        smoke("optimizer_bnb"),
    )
    if paged:
        # ROCm: reported on one card only, so it is off (docs/reference/hardware.md, "Quantisation
        # and 8-bit optimizers").
        plain = f"bnb-{kind}{bits}"
        rules += (
            never_on("rocm", f"paged state is unverified on ROCm; use {plain}"),
            never_on("cpu", f"the CPU has no other memory to page to; use {plain}"),
        )
    because = f"{bits or '32-bit'} state".replace("8bit", "8-bit")
    because += ", paged out to host memory when the card is full" if paged else ""
    return Option(f"bnb-{kind}{bits}{paged}", rules, because, auto=False)


def low_bit() -> tuple[Option, ...]:
    """torchao's. Stepped without torch.compile, so that no compiler is needed."""
    rules: tuple[Rule, ...] = (
        never_on("mps", "torchao's low-bit state is unverified on MPS; use adamw"),
        # Its import crashed there at Triton's autotuning: unknown is off.
        never_on("rocm", "torchao is unverified on ROCm; use bnb-adamw8bit"),
        elsewhere(TORCHAO, "mps", "rocm"),
    )
    return tuple(Option(f"ao-{name}", rules, why, auto=False) for name, why in AO_KINDS.items())


def float32_weights(f: Facts, r: Request) -> str | None:
    """The weights of a model that is trained whole may be bf16."""
    bf16 = r.model_type == "full" and r.base_model_default_dtype == "bf16"
    return "in bf16 an update below 1/256 of a weight is lost" if bf16 else None


def bf16_trained(f: Facts, r: Request) -> str | None:
    if r.optimizer not in BF16_WEIGHTS:
        return f"{r.optimizer} trains {NOT_BF16}"
    return None


def fp32_trained(f: Facts, r: Request) -> str | None:
    if r.optimizer in BF16_WEIGHTS:
        return f"{r.optimizer} trains bf16 weights"
    if r.model_type == "full":
        return asks("base_model_default_dtype", "fp32")(f, r)
    return None


OPTIMIZERS: tuple[Option, ...] = (
    Option("adamw", (float32_weights,), "the reference"),
    Option(
        "adamw_bf16",
        (native_bf16, asks("base_model_default_dtype", "bf16")),
        "AdamW on bf16 weights, all rounded stochastically: 4 bytes of state for each",
    ),
    *torch_or_optimi(),
    Option("prodigy", (COLLECTION, whole_weights), "finds its own step size", auto=False),
    Option("adamw_schedulefree", (COLLECTION,), "AdamW that averages its weights", auto=False),
    Option(
        "soap", (COLLECTION, whole_weights), "AdamW in the eigenbasis of the gradients", auto=False
    ),
    *bitsandbytes(),
    *low_bit(),
)

TRAINABLE: tuple[Option, ...] = (
    Option("bf16", (bf16_trained,), "adamw_bf16 trains bf16 weights"),
    Option("fp32", (fp32_trained,), "small updates vanish in half precision"),
)

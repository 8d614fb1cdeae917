"""The optimizers: one row each. Names are SimpleTuner's.

Weights are float32 in all but `adamw_bf16`. Decay is 0.01 wherever it shrinks the weights
themselves; every other default is the library's own. Bytes were measured
(tests/cpu/test_optimizers.py); paged state is counted as if it stayed on the device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sd3tune.tables import libraries, needs
from sd3tune.tables.needs import Need
from sd3tune.tables.table import Table


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    build: its class, "module:attribute". state_bytes: optimizer state per trained value, of an
    adapter of rank 16. options: names in optimizer_config that change the update; switches of a
    library's inner workings (fused, foreach, gradient_release, …) are not among them. fixed:
    arguments that differ from the library's defaults. auto: chosen when the user names none.
    rate_limit: a learning rate that is not below it is refused.
    bf16_weights: trains bf16 weights instead of float32 ones. compiles: its library compiles the
    step unless told not to.
    """

    name: str
    build: str
    state_bytes: float
    options: str
    about: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    aliases: tuple[str, ...] = ()
    auto: bool = False
    rate_limit: float = 1.0
    bf16_weights: bool = False
    compiles: bool = False

    @property
    def option_names(self) -> frozenset[str]:
        return frozenset(self.options.split())

    @property
    def kind(self) -> str:
        """Library and class, as checkpoints name them: "torch.AdamW"."""
        module, _, attribute = self.build.partition(":")
        return f"{module.split('.')[0]}.{attribute}"

    @property
    def library(self) -> str:
        """The class, as the documents name it."""
        module, _, attribute = self.build.partition(":")
        top = module.split(".")[0]
        return "sd3tune" if top == "sd3tune" else f"{module}.{attribute}"


# Limits of learning rates. Adam's step is the rate itself: at 1 every weight is replaced. A rate
# that is a factor on the optimizer's own step is about 1, one on the bare gradient may be larger.
FACTOR, GRADIENT = 100.0, 1000.0
ADAM = "beta1 beta2 eps weight_decay"
DECAYED = {"weight_decay": 0.01}

TORCH = (
    Optimizer("adamw", "torch.optim:AdamW", 8.0, f"{ADAM} amsgrad",
              "published learning rates for LoRA refer to it",
              DECAYED, (needs.FLOAT32_WEIGHTS,), aliases=("torch-adamw",), auto=True),
    Optimizer("adamw_bf16", "sd3tune.train.adamw_bf16:AdamWBF16", 4.0, ADAM,
              "AdamW on bf16 weights with stochastic rounding: 4 bytes of state per weight",
              DECAYED, (needs.NATIVE_BF16, needs.decided("base_model_default_dtype", "bf16")),
              auto=True, bf16_weights=True),
    Optimizer("torch-adam", "torch.optim:Adam", 8.0, f"{ADAM} amsgrad",
              "Adam: weight decay acts through the moments"),
    Optimizer("torch-sgd", "torch.optim:SGD", 0.0, "weight_decay momentum dampening nesterov",
              "plain gradient descent", rate_limit=GRADIENT),
    Optimizer("torch-radam", "torch.optim:RAdam", 8.0, f"{ADAM} decoupled_weight_decay",
              "Adam with a rectified start: it needs no warm-up"),
    Optimizer("torch-nadam", "torch.optim:NAdam", 8.0,
              f"{ADAM} decoupled_weight_decay momentum_decay", "Adam with Nesterov's momentum"),
    Optimizer("torch-rmsprop", "torch.optim:RMSprop", 4.0,
              "eps weight_decay alpha momentum centered", "the second moment alone"),
    Optimizer("torch-adagrad", "torch.optim:Adagrad", 4.0,
              "eps weight_decay lr_decay initial_accumulator_value",
              "steps shrink with the sum of squared gradients", rate_limit=GRADIENT),
    Optimizer("torch-adadelta", "torch.optim:Adadelta", 8.0, "eps weight_decay rho",
              "adapts the step itself: set learning_rate to about 1", rate_limit=FACTOR),
    Optimizer("torch-adafactor", "torch.optim:Adafactor", 0.27, "weight_decay beta2_decay d",
              "second moments of rows and columns, almost no state; learning_rate is relative to "
              "the size of each weight", needs=(needs.WHOLE_WEIGHTS,), rate_limit=FACTOR),
    Optimizer("torch-adamax", "torch.optim:Adamax", 8.0, ADAM,
              "Adam with the largest gradient instead of the second moment"),
    Optimizer("torch-asgd", "torch.optim:ASGD", 4.0, "weight_decay lambd alpha t0",
              "averaged gradient descent: sampling, evaluation and files use the average from "
              "step `t0` on", rate_limit=GRADIENT),
)  # fmt: skip

OPTIMI_OPTIONS = "beta1 beta2 weight_decay decouple_lr"


def _optimi(name: str, kind: str, size: float, options: str, about: str, **fixed: Any) -> Optimizer:
    needed = (libraries.OPTIMI.needed(),)
    limit = GRADIENT if kind == "SGD" else Optimizer.rate_limit
    return Optimizer(f"optimi-{name}", f"optimi:{kind}", size, options, about, fixed, needed,
                     rate_limit=limit)  # fmt: skip


OPTIMI = (
    _optimi("stableadamw", "StableAdamW", 8.0, f"{OPTIMI_OPTIONS} eps",
            "AdamW that reduces its step when the gradient spikes; for SD3.5 large at 1e-5",
            **DECAYED),
    _optimi("adamw", "AdamW", 8.0, f"{OPTIMI_OPTIONS} eps",
            "torch-optimi's AdamW: beta2 0.99, eps 1e-6", **DECAYED),
    _optimi("lion", "Lion", 4.0, OPTIMI_OPTIONS,
            "sign updates, half of AdamW's state; use a third to a tenth of its learning rate",
            **DECAYED),
    _optimi("radam", "RAdam", 8.0, f"{OPTIMI_OPTIONS} eps decouple_wd",
            "torch-optimi's RAdam: beta2 0.99"),
    _optimi("ranger", "Ranger", 12.0, f"{OPTIMI_OPTIONS} eps decouple_wd k alpha",
            "RAdam with lookahead"),
    # adam_wd is not an option: it never reaches Adan's update (0.3.3).
    _optimi("adan", "Adan", 16.0, f"{OPTIMI_OPTIONS} eps",
            "Nesterov momentum over gradient differences; takes larger learning rates than AdamW"),
    _optimi("adam", "Adam", 8.0, f"{OPTIMI_OPTIONS} eps decouple_wd",
            "torch-optimi's Adam: beta2 0.99"),
    _optimi("sgd", "SGD", 0.0, "momentum weight_decay dampening decouple_wd decouple_lr",
            "torch-optimi's SGD"),
)  # fmt: skip

COLLECTION = libraries.COLLECTION.needed()
PYTORCH_OPTIMIZER = (
    Optimizer("prodigy", "pytorch_optimizer:Prodigy", 16.0,
              f"{ADAM} beta3 d0 d_coef growth_rate bias_correction safeguard_warmup "
              "weight_decouple prodigy_steps",
              "finds its own step size: set learning_rate=1; `prodigy_steps` ends the search",
              needs=(COLLECTION, needs.WHOLE_WEIGHTS), rate_limit=FACTOR),
    Optimizer("adamw_schedulefree", "pytorch_optimizer:ScheduleFreeAdamW", 8.0,
              f"{ADAM} r weight_lr_power",
              "AdamW that averages its weights: needs no learning-rate decay, training can end "
              "at any step", needs=(COLLECTION,)),
    # Eigenbases of wide sides would be larger than the model: an adapter's rank is rotated only.
    Optimizer("soap", "pytorch_optimizer:SOAP", 8.1,
              f"{ADAM} shampoo_beta precondition_frequency max_precondition_dim correct_bias "
              "normalize_gradient",
              "AdamW in the eigenbasis of the gradients: fewer steps, each costs more",
              DECAYED | {"max_precondition_dim": 256}, (COLLECTION, needs.WHOLE_WEIGHTS)),
)  # fmt: skip

BITSANDBYTES = libraries.BITSANDBYTES.needed().except_on("mps")


def _bitsandbytes(
    kind: str, label: str, size: float, small: float, options: str, plain: str, **fixed: Any
) -> tuple[Optimizer, ...]:
    """Every combination that bitsandbytes has: Adagrad cannot be paged. plain: the optimizer that
    does the same everywhere."""
    return tuple(
        Optimizer(
            f"bnb-{label}{bits}{paged}",
            f"bitsandbytes.optim:{'Paged' if paged else ''}{kind}{bits}",
            small if bits else size,
            options,
            f"{kind}, {'8-bit' if bits else '32-bit'} state"
            + (", paged out to host memory when the card is full" if paged else ""),
            fixed,
            _bitsandbytes_needs(bits, bool(paged), f"bnb-{label}{bits}", plain),
        )
        for bits in ("", "8bit")
        for paged in (("", "-paged") if label != "adagrad" else ("",))
    )


def _bitsandbytes_needs(bits: str, paged: bool, unpaged: str, plain: str) -> tuple[Need, ...]:
    low = "8-bit " if bits else ""
    needed = (
        needs.never_on("mps", f"bitsandbytes has no {low}optimiser for MPS yet; use {plain}"),
        BITSANDBYTES,
        needs.WHOLE_WEIGHTS,
        needs.smoke("optimizer_bnb"),
    )
    if not paged:
        return needed
    # Managed memory on ROCm was reported on one card only (docs/reference/hardware.md): unknown
    # is off.
    return (
        *needed,
        needs.never_on("rocm", f"paged state is unverified on ROCm; use {unpaged}"),
        needs.never_on("cpu", f"the CPU has no other memory to page to; use {unpaged}"),
    )


BNB = (
    *_bitsandbytes("Adagrad", "adagrad", 4.0, 1.02, "eps weight_decay", "torch-adagrad"),
    *_bitsandbytes("Adam", "adam", 8.0, 2.03, ADAM, "torch-adam"),
    *_bitsandbytes("AdamW", "adamw", 8.0, 2.03, ADAM, "adamw", **DECAYED),
    *_bitsandbytes("Lion", "lion", 4.0, 1.02, "beta1 beta2 weight_decay", "optimi-lion", **DECAYED),
    *_bitsandbytes("AdEMAMix", "ademamix", 12.0, 3.05, f"{ADAM} alpha t_alpha t_beta3", "adamw",
                   **DECAYED),
)  # fmt: skip

TORCHAO_NEEDS = (
    needs.never_on("mps", "torchao's low-bit state is unverified on MPS; use adamw"),
    # Its import crashed there at Triton's autotuning: unknown is off.
    needs.never_on("rocm", "torchao is unverified on ROCm; use bnb-adamw8bit"),
    libraries.TORCHAO.needed().except_on("mps", "rocm"),
)


def _torchao(label: str, kind: str, size: float, about: str, **fixed: Any) -> Optimizer:
    return Optimizer(f"ao-{label}", f"torchao.optim:{kind}", size, f"{ADAM} amsgrad", about,
                     fixed, TORCHAO_NEEDS, compiles=True)  # fmt: skip


TORCHAO = (
    _torchao("adamw8bit", "AdamW8bit", 2.03, "AdamW with 8-bit moments, in plain PyTorch",
             **DECAYED),
    _torchao("adamw4bit", "AdamW4bit", 1.06, "AdamW with 4-bit moments: a third of the accuracy",
             **DECAYED),
    _torchao("adamfp8", "AdamFp8", 2.03, "Adam with fp8 moments"),
    _torchao("adamwfp8", "AdamWFp8", 2.03, "AdamW with fp8 moments", **DECAYED),
)  # fmt: skip

SDNQ = "needs SDNQ, which sd3tune does not use; write bnb-adamw8bit or ao-adamw8bit"
REFUSED: Mapping[str, str] = {
    "adafactor": "is torch-adafactor here",
    "adamw8bit": "is bnb-adamw8bit or ao-adamw8bit here",
    "adam": "is torch-adam here",
    "sgd": "is torch-sgd here",
    "lion": "is optimi-lion here",
    "stableadamw": "is optimi-stableadamw here",
    "dadaptation": "was followed by prodigy",
    "dadapt": "was followed by prodigy",
    "muon": "is for hidden matrices of large batches, not for SD3; write soap",
    "adamw_schedulefree+aggressive": "changes nothing that learning_rate does not; write "
    "adamw_schedulefree and raise learning_rate",
    "adamw_schedulefree+no_kahan": "has no rounding to compensate: its weights are float32; write "
    "adamw_schedulefree",
    "bnb-adagrad-paged": "does not exist in bitsandbytes; write bnb-adagrad",
    "bnb-adagrad8bit-paged": "does not exist in bitsandbytes; write bnb-adagrad8bit",
    "torch-sparseadam": "is for sparse gradients, and SD3 has none; write torch-adam",
    **{
        f"sdnq-{name}": SDNQ
        for name in ("adamw", "adamw+no_quant", "adafactor", "came", "lion", "muon",
                     "muon+quantized_matmul")
    },
}  # fmt: skip

OPTIMIZERS = Table(
    "an optimizer", (*TORCH, *OPTIMI, *PYTORCH_OPTIMIZER, *BNB, *TORCHAO), refused=REFUSED
)


def markdown() -> str:
    """The table of docs/concepts/optimisation.md."""
    return "".join(f"| `{o.name}` | {o.library} | {o.state_bytes:g} | {o.about} |\n"
                   for o in OPTIMIZERS.rows)  # fmt: skip

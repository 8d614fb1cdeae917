"""The names of optimizers, the options each takes, and what to write instead of old names.

Where each works is decided in backends/decide/optimizers.py, so that the plan can say why not.
"""

from collections.abc import Mapping
from difflib import get_close_matches

_ADAM = "beta1 beta2 eps weight_decay"
_OPTIMI = "beta1 beta2 weight_decay decouple_lr"
# Options per name: numbers and flags that change the update. Switches of a library's inner workings
# (fused, foreach, gradient_release, …) are not among them.
OPTIONS: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "adamw": f"{_ADAM} amsgrad",
        "torch-adamw": f"{_ADAM} amsgrad",
        "adamw_bf16": _ADAM,
        "torch-adam": f"{_ADAM} amsgrad",
        "torch-sgd": "weight_decay momentum dampening nesterov",
        "torch-radam": f"{_ADAM} decoupled_weight_decay",
        "torch-nadam": f"{_ADAM} decoupled_weight_decay momentum_decay",
        "torch-rmsprop": "eps weight_decay alpha momentum centered",
        "torch-adagrad": "eps weight_decay lr_decay initial_accumulator_value",
        "torch-adadelta": "eps weight_decay rho",
        "torch-adafactor": "weight_decay beta2_decay d",
        "torch-adamax": _ADAM,
        "torch-asgd": "weight_decay lambd alpha t0",
        "optimi-stableadamw": f"{_OPTIMI} eps",
        "optimi-adamw": f"{_OPTIMI} eps",
        "optimi-lion": _OPTIMI,
        "optimi-radam": f"{_OPTIMI} eps decouple_wd",
        "optimi-ranger": f"{_OPTIMI} eps decouple_wd k alpha",
        "optimi-adan": f"{_OPTIMI} eps",  # its adam_wd never reaches the update (0.3.3)
        "optimi-adam": f"{_OPTIMI} eps decouple_wd",
        "optimi-sgd": "momentum weight_decay dampening decouple_wd decouple_lr",
        "prodigy": f"{_ADAM} beta3 d0 d_coef growth_rate bias_correction safeguard_warmup "
        "weight_decouple prodigy_steps",
        "adamw_schedulefree": f"{_ADAM} r weight_lr_power",
        "soap": f"{_ADAM} shampoo_beta precondition_frequency max_precondition_dim correct_bias "
        "normalize_gradient",
        "bnb-adagrad": "eps weight_decay",
        "bnb-adagrad8bit": "eps weight_decay",
        **{f"bnb-{kind}{how}": words
           for kind, words in {"adam": _ADAM, "adamw": _ADAM, "lion": "beta1 beta2 weight_decay",
                               "ademamix": f"{_ADAM} alpha t_alpha t_beta3"}.items()
           for how in ("", "-paged", "8bit", "8bit-paged")},
        **{f"ao-{kind}": f"{_ADAM} amsgrad"
           for kind in ("adamw8bit", "adamw4bit", "adamfp8", "adamwfp8")},
    }.items()
}  # fmt: skip

NO_KAHAN = "has no rounding to compensate: its weights are float32; write adamw_schedulefree"
SDNQ = "needs SDNQ, which sd3tune does not use; write bnb-adamw8bit or ao-adamw8bit"
INSTEAD: Mapping[str, str] = {
    "adafactor": "is torch-adafactor here",
    "adamw8bit": "is bnb-adamw8bit or ao-adamw8bit here",
    "adam": "is torch-adam here",
    "sgd": "is torch-sgd here",
    "lion": "is optimi-lion here",
    "stableadamw": "is optimi-stableadamw here",
    "dadaptation": "was followed by prodigy",
    "dadapt": "was followed by prodigy",
    "muon": "is for hidden matrices of large batches and is no choice for SD3; write soap",
    "adamw_schedulefree+aggressive": "says nothing that a learning rate does not; write "
    "adamw_schedulefree and raise learning_rate",
    "adamw_schedulefree+no_kahan": NO_KAHAN,
    "bnb-adagrad-paged": "does not exist in bitsandbytes; write bnb-adagrad",
    "bnb-adagrad8bit-paged": "does not exist in bitsandbytes; write bnb-adagrad8bit",
    "torch-sparseadam": "is for sparse gradients, which SD3 has none of; write torch-adam",
}


def known(name: str) -> str:
    """Raises ValueError with the name to write instead."""
    if name in OPTIONS:
        return name
    if name.startswith("sdnq-"):
        raise ValueError(SDNQ)
    if name in INSTEAD:
        raise ValueError(INSTEAD[name])
    close = get_close_matches(name, OPTIONS, n=1, cutoff=0.5)
    raise ValueError("is no optimizer" + (f": did you mean `{close[0]}`?" if close else ""))

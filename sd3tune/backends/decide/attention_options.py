"""The axes of attention: kernels that train, a kernel that only samples, and their inputs."""

from sd3tune.backends.decide.option import Option
from sd3tune.backends.decide.probes import AOTRITON, HIDDEN, hides_flash
from sd3tune.backends.decide.rules import (
    Request,
    except_on,
    fits,
    gfx_in,
    never_on,
    package,
    sm_at_least,
    sm_in,
    smoke,
    vendors,
)
from sd3tune.backends.observe.facts import Facts

SAGE_SM = (80, 86, 89, 90, 120, 121)  # exact strings in sageattention 2.2 core.py
# The first two, of SDPA, are closed and were in 2.8 and before 2.12; those of products are open.
# In SD3 the second attention of SD3.5 medium's blocks has views, diffusers' concatenation leaves
# the others whole. A copy costs less than the scores. Look again at torch 2.17.
VIEWS_ON_MPS = (
    "MPS has multiplied views wrongly without a word "
    "(pytorch/pytorch#163597, #181133, #193487, #197636)"
)


def half_dtype(f: Facts, r: Request) -> str | None:
    if r.mixed_precision != "no" or r.base_model_default_dtype in ("bf16", "fp16"):
        return None
    return "its kernels take fp16 and bf16 only, this run computes in fp32"


def flash_is_hidden(f: Facts, r: Request) -> str | None:
    if hides_flash(f):
        return None
    return "PyTorch hides no flash kernels for this chip"


TRAINING: tuple[Option, ...] = (
    Option(
        "diffusers",
        (smoke("attention_diffusers"), fits("diffusers")),
        "PyTorch's scaled_dot_product_attention, with the fastest of its kernels that trains here",
    ),
    Option(
        "native-flash",
        (
            never_on("mps", "MPS has no flash kernel with a backward"),
            sm_at_least(80, "flash attention has no kernel"),
            gfx_in(*AOTRITON),
            smoke("attention_native-flash"),
        ),
        "flash kernels only",
        auto=False,
    ),
    Option(
        "native-efficient",
        (
            vendors("cuda", "rocm"),
            gfx_in(*AOTRITON),
            smoke("attention_native-efficient"),
        ),
        "memory-efficient kernels only",
        auto=False,
    ),
    Option(
        "cudnn",
        (
            vendors("cuda"),
            sm_at_least(80, "cuDNN attention has no kernel"),
            smoke("attention_cudnn"),
        ),
        "cuDNN kernels only",
        auto=False,
    ),
    Option(
        "native-math",
        (smoke("attention_native-math"), fits("native-math")),
        "the definition, written out: slow, memory grows with the square of the tokens",
    ),
    Option(
        "sliced",
        (smoke("attention_sliced"),),
        "the definition, a slice of queries at a time: no score is kept, each is computed "
        "again for the gradient; untested on hardware",
    ),
)
SAMPLING: tuple[Option, ...] = (
    Option(
        "sageattention",
        (
            vendors("cuda"),
            sm_in(*SAGE_SM),
            except_on(package("sageattention", "2.1.1"), "rocm", "mps", "cpu"),
            half_dtype,
            lambda f, r: None if r.head_dim <= 128 else "its heads end at 128",
            smoke("attention_sageattention"),
        ),
        "8-bit attention for sampling only: it has no backward",
        level=lambda f: "forward_only",
    ),
    Option("as-training", (), "the same kernel as in training"),
)
HIDDEN_KERNELS: tuple[Option, ...] = (
    Option(
        "on",
        (flash_is_hidden, smoke(HIDDEN)),
        "PyTorch uses its flash kernels for this chip only with "
        "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1, which is set where they equal the definition; "
        "untested on hardware",
    ),
    Option("off", (), "PyTorch's attention kernels as they are"),
)
INPUTS: tuple[Option, ...] = (
    Option(
        "views",
        (never_on("mps", VIEWS_ON_MPS),),
        "query, key and value are views, without a copy",
    ),
    Option("contiguous", (), "query, key and value are copied into one piece first"),
)

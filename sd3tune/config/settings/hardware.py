"""Formats, kernels and devices. What is left out is chosen for the machine."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sd3tune.config.fields import (
    Attention,
    DynamoMode,
    Flag,
    Precision,
    QuantizeVia,
    Settings,
    Whole,
)
from sd3tune.config.names import supported

Autocast = Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(supported("mixed_precision"))]
SageUsage = Annotated[Literal["inference"], BeforeValidator(supported("sageattention_usage"))]
Compiler = Annotated[
    Literal["no", "inductor", "aot_eager"], BeforeValidator(supported("dynamo_backend"))
]


class HardwareSettings(Settings):
    """Formats, kernels and devices. What is left out is chosen for the machine."""

    mixed_precision: Autocast | None = None
    """Autocast of the forward pass. `no` on Apple."""
    base_model_default_dtype: Literal["bf16", "fp16", "fp32"] | None = None
    """Format of frozen weights that are not quantised."""
    base_model_precision: Precision | None = None
    """Quantisation of the frozen transformer. `int8-w8a8` and `fp8-w8a8` also round activations and
    gradients, and multiply in 8 bits; left out, they are
    taken in place of other 8-bit weights where a probe measures that they are faster on this card.
    Untested on hardware."""
    w8a8_check_interval: Whole = Field(200, ge=0)
    """Every so many steps, with base_model_precision=int8-w8a8 or fp8-w8a8, the error of one layer
    is measured with the activations and gradients of that step: about the time of one more step. A
    layer above the limit of its scheme is a warning. 0: never."""
    text_encoder_1_precision: Precision | None = None
    """Quantisation of CLIP-L while captions are encoded."""
    text_encoder_2_precision: Precision | None = None
    """Quantisation of CLIP-G while captions are encoded."""
    text_encoder_3_precision: Precision | None = None
    """Quantisation of T5-XXL while captions are encoded."""
    quantize_via: QuantizeVia | None = None
    """Where weights are quantised, one layer at a time: on the `accelerator`, or on the `cpu`."""
    cache_dir_quantised: Path | Literal["none"] | None = None
    """Where quantised transformers are kept, so that a restart reads them instead of quantising
    again. Left out: `cache/quantised` in output_dir when the CPU quantises (minutes for the 8B
    model), `none` when the accelerator does (seconds)."""
    blocks_to_swap: Whole | None = Field(None, ge=0)
    """Transformer blocks whose weights stay in host memory and are copied to the device when they
    are needed: less device memory, more time. Needs gradient_checkpointing. Left out: 0, or as many
    as the run needs to fit. Untested on hardware."""
    modulations: Literal["auto", "device", "streamed", "host"] = "auto"
    """Where the modulations of the blocks are computed. Their weights (AdaLN) are a third of SD3.5
    large, and see one vector of each image. `device`: in the blocks. `streamed`: the weights stay
    in host memory and are copied to the device once a step, layer by layer; the results are the
    same bits. `host`: the host computes them while the step before runs; the results are within
    rounding. `auto` takes the fastest way that fits. Not for adapters
    that train these layers. Untested on hardware."""
    vae_dtype: Literal["default", "fp32", "fp16", "bf16"] | None = None
    """Format of the autoencoder."""
    attention_mechanism: Attention | None = None
    """Attention kernel; `sageattention` is for validation pictures only. `sliced` stores no
    attention scores, for devices where PyTorch has no kernel that can be differentiated without
    them."""
    sageattention_usage: SageUsage = "inference"
    """SageAttention has no backward: `training` would leave query, key and value untrained."""
    dynamo_backend: Compiler | None = None
    """torch.compile of the transformer's blocks: one graph for all blocks of a kind and all sizes.
    Left out: `inductor` where the time that the run saves is twice what compiling takes, and `no`
    otherwise and on processors. Untested on hardware."""
    dynamo_mode: DynamoMode = "default"
    """How long dynamo_backend=inductor searches for fast kernels. `max-autotune-no-cudagraphs`
    compiles for minutes and may be faster; the other two use CUDA graphs, which are an error."""
    dynamo_fullgraph: Flag = False
    """With dynamo_backend: a block that cannot be compiled as one graph is an error."""
    dynamo_dynamic: Flag | None = None
    """With dynamo_backend: compile once for all sizes (true), or for each size anew (false). Left
    out: once for all batch sizes and image sizes, which compiles faster than true."""
    disable_tf32: Flag = False
    """Compute float32 products with all their bits, also where NVIDIA cards may shorten them to ten
    bits (TF32): slower. Untested on hardware."""
    deterministic: Flag = False
    """Bit-identical results on each run of the same machine; slower."""

"""How much memory a run needs, by arithmetic: no weight is loaded to find out.

Weights and optimizer state are counted exactly. Activations follow from the tensors that each
operator of a block saves (block_bytes.py, step_peak.py); they and the workspace are estimates and
are labelled so wherever they are shown. docs/reference/memory.md compares them with measurements.
"""

from dataclasses import dataclass, field

from sd3tune.backends.decide.limits import WORKSPACE_BYTES
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.plan import step_peak
from sd3tune.plan.block_keeping import Keep
from sd3tune.plan.step_peak import BYTES as BYTES
from sd3tune.sd3.variants import Model, Transformer
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.tables.schemes import SCHEMES

GIB = 2**30
# Shares of CLIP-L, CLIP-G and T5-XXL that quant.TEXT_ENCODER means; embeddings, projections and
# T5's `wo` stay as they are.
TEXT_SHARES = (0.69, 0.91, 0.76)
T5_OUTPUTS = 0.211  # share of T5's output layers in its parameters


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device at the peak of training, and while encoding text.

    gradients: those that exist at that moment. workspace: what the allocator does not see, or keeps
    beyond what is asked: contexts, libraries' workspaces, slack.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int  # estimate
    workspace: int  # estimate
    text_encoders: int  # of the earlier stage, dropped before training

    @property
    def training(self) -> int:
        """Bytes that training takes of the device."""
        return self.tensors + self.workspace

    @property
    def tensors(self) -> int:
        """Bytes of tensors at the peak of training. What torch reports as allocated is more by the
        workspaces of libraries (limits.LIBRARY_BYTES)."""
        return self.weights + self.adapter + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Load:
    """What memory depends on."""

    vendor: str
    base_dtype: str
    precision: str
    trainable_dtype: str
    optimizer: str
    trained: int  # values that are trained
    batch: int  # images per forward pass
    tokens: int  # image tokens of the largest bucket
    text_tokens: int
    interval: int  # every n-th block is checkpointed; 0: none
    swapped: int  # blocks whose frozen weights are in another memory
    inputs_on_host: bool  # those of checkpointed blocks
    text_dtype: str
    text_precisions: tuple[str, str, str]
    full: bool = False  # all weights are trained
    ema: bool = False  # an average is kept on the device
    processes: int = 1
    sharded: bool = False  # over the processes (FSDP)
    scores: bool = False  # attention that trains writes out the score of every pair of tokens
    slices: bool = False  # or those of a slice of the queries at a time
    modulations_off: bool = False  # the AdaLN weights are in host memory
    autocast: str | None = None  # format of products; None: that of the weights
    accumulation: int = 1  # forward passes of one step: the gradients of the first ones stay
    images: int = 0  # of all passes of a step; 0: accumulation times batch
    targets: tuple[str, ...] = ()  # what LoRA adapts, as in `peft_lora_target_modules`
    rank: int = 0  # of LoRA
    dropout: bool = False  # LoRA's, which keeps a mask
    dora: bool = False
    resident: int = 0  # images that stay on the device: those of the evaluation
    compiled: bool = False  # blocks, by torch.compile
    # What trains instead of LoRA; it has dictionaries, and so no hash.
    lycoris: Lycoris | None = field(default=None, hash=False)
    keep: tuple[Keep, ...] = ()  # of each block (block_keeping.py); none: as `interval` says

    @property
    def images_of_step(self) -> int:
        """Images that one device computes for one step."""
        return self.images or self.batch * self.accumulation


def estimate(model: Model, load: Load) -> MemoryEstimate:
    """Bytes by arithmetic; activations and workspace are estimates."""
    shape = model.transformer
    parts = load.processes if load.sharded else 1
    trained = load.trained // parts
    per_value = BYTES[load.trainable_dtype]
    copies = 2 if load.processes > 1 and parts == 1 else 1
    peak = step_peak.peak(shape, load, trained * per_value * copies)
    own = weights(shape, load)
    # Two gathered blocks beside the shards; or, with copies, DDP's buckets beside the gradients.
    gathered = 2 * own // shape.layers if parts > 1 else 0
    return MemoryEstimate(
        weights=own // parts + gathered,
        adapter=0 if load.full else trained * per_value,
        gradients=peak.gradients,
        optimizer=int(trained * (OPTIMIZERS[load.optimizer].state_bytes + 4 * load.ema)),
        activations=peak.activations,
        workspace=WORKSPACE_BYTES[load.vendor],
        text_encoders=encoder_bytes(model.text_encoders, load.text_dtype, load.text_precisions),
    )


def encoder_bytes(
    encoders: tuple[int, int, int], dtype: str, precisions: tuple[str, str, str]
) -> int:
    """Weights of the text encoders, of which these are the parameters. In fp16, transformers keeps
    T5's output layers in float32."""
    wide = int(encoders[2] * T5_OUTPUTS * (BYTES["fp32"] - BYTES[dtype])) if dtype == "fp16" else 0
    return wide + sum(
        stored(count, int(count * share), dtype, precision)
        for count, share, precision in zip(encoders, TEXT_SHARES, precisions, strict=True)
    )


def weights(shape: Transformer, load: Load) -> int:
    """Of swapped blocks, the largest two: one computes while the next one arrives. Of AdaLN weights
    in host memory, the largest layer. The table of positions is a buffer in the format of the
    weights; beside AdaLN weights in host memory, only the part of one size."""
    dtype = load.trainable_dtype if load.full else load.base_dtype

    def of(parameters: int, quantisable: int) -> int:
        return stored(parameters, quantisable, dtype, load.precision)

    def block(index: int) -> int:
        parameters, quantisable = shape.block(index)
        away = shape.modulating_in(index) if load.modulations_off else 0
        return of(parameters - away, quantisable)

    resident = shape.parameters + shape.positions**2 * shape.hidden
    if load.modulations_off:
        resident += (9 if shape.dual_layers else 6) * shape.hidden**2 - shape.modulating
        resident += (load.tokens - shape.positions**2) * shape.hidden
    swapped = sorted(block(i) for i in range(load.swapped))
    return of(resident, shape.quantisable) - sum(swapped) + sum(swapped[-2:])


def stored(parameters: int, quantisable: int, dtype: str, precision: str) -> int:
    """Bytes of weights of which `quantisable` values are kept in `precision`."""
    per_value = SCHEMES[precision].stored_bytes
    if per_value is None:
        return parameters * BYTES[dtype]
    return int((parameters - quantisable) * BYTES[dtype] + quantisable * per_value)


def gib(amount: int | float) -> str:
    """Bytes for people: "15.0 GiB", "42 MiB", "310 KiB"."""
    for unit, size in (("GiB", GIB), ("MiB", 2**20)):
        if amount >= size:
            return f"{amount / size:.1f} GiB" if unit == "GiB" else f"{amount / size:.0f} MiB"
    return f"{amount / 1024:.0f} KiB"

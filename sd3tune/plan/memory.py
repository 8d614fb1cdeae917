"""How much memory a run needs, by arithmetic: no weight is loaded to find out.

Weights, gradients and optimizer state are counted exactly. Activations follow two constants fitted
to saved-tensor measurements of the three models at 512 and 1024 px (docs/reference/memory.md); they
and the workspace are estimates and are labelled so wherever they are shown.
"""

from dataclasses import dataclass

from sd3tune.backends.decide.limits import SLICE_VALUES, WORKSPACE_BYTES
from sd3tune.sd3.variants import CLIP_TOKENS, Model, Transformer
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.tables.schemes import SCHEMES

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Shares of CLIP-L, CLIP-G and T5-XXL that quant.TEXT_ENCODER means; embeddings, projections and
# T5's `wo` stay as they are.
TEXT_SHARES = (0.69, 0.91, 0.76)
# Saved activations per token, layer and hidden unit, in values: all blocks kept, or one input each.
KEPT_EVERYTHING, KEPT_CHECKPOINTED = 22.0, 1.1
PASSING_SCORES = 2
SLICED_FLOATS = 10  # beside two slices of scores, per token and hidden unit: copies and gradients


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device while training, and while encoding text."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int  # estimate
    workspace: int  # estimate
    text_encoders: int  # of the earlier stage, dropped before training

    @property
    def training(self) -> int:
        """Bytes while training: all but the text encoders."""
        return (
            self.weights
            + self.adapter
            + self.gradients
            + self.optimizer
            + self.activations
            + self.workspace
        )


@dataclass(frozen=True)
class Load:
    """What memory depends on."""

    vendor: str
    base_dtype: str
    precision: str
    trainable_dtype: str
    optimizer: str
    trained: int  # values that are trained
    batch: int
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


def estimate(model: Model, load: Load) -> MemoryEstimate:
    """Bytes by arithmetic; activations and workspace are estimates."""
    shape = model.transformer
    parts = load.processes if load.sharded else 1
    trained = load.trained // parts
    per_value = BYTES[load.trainable_dtype]
    own = weights(shape, load)
    # Two gathered blocks beside the shards; or, with copies, DDP's buckets beside the gradients.
    gathered = 2 * own // shape.layers if parts > 1 else 0
    copies = 2 if load.processes > 1 and parts == 1 else 1
    return MemoryEstimate(
        weights=own // parts + gathered,
        adapter=0 if load.full else trained * per_value,
        gradients=trained * per_value * copies,
        optimizer=int(trained * (OPTIMIZERS[load.optimizer].state_bytes + 4 * load.ema)),
        activations=activations(model, load),
        workspace=WORKSPACE_BYTES[load.vendor],
        text_encoders=sum(
            stored(count, int(count * share), load.text_dtype, precision)
            for count, share, precision in zip(
                model.text_encoders, TEXT_SHARES, load.text_precisions, strict=True
            )
        ),
    )


def weights(shape: Transformer, load: Load) -> int:
    """Of swapped blocks, only the largest two: one computes while the next one arrives. Of AdaLN
    weights in host memory, the largest layer."""

    def of(parameters: int, quantisable: int) -> int:
        return stored(parameters, quantisable, load.base_dtype, load.precision)

    def block(index: int) -> int:
        parameters, quantisable = shape.block(index)
        away = shape.modulating_in(index) if load.modulations_off else 0
        return of(parameters - away, quantisable)

    away, visiting = 0, 0
    if load.modulations_off:
        away, visiting = shape.modulating, (9 if shape.dual_layers else 6) * shape.hidden**2
    swapped = sorted(block(i) for i in range(load.swapped))
    own = of(shape.parameters - away + visiting, shape.quantisable)
    return own - sum(swapped) + sum(swapped[-2:])


def stored(parameters: int, quantisable: int, dtype: str, precision: str) -> int:
    """Bytes of weights of which `quantisable` values are kept in `precision`."""
    per_value = SCHEMES[precision].stored_bytes
    if per_value is None:
        return parameters * BYTES[dtype]
    return int((parameters - quantisable) * BYTES[dtype] + quantisable * per_value)


def activations(model: Model, load: Load) -> int:
    """Saved for the backward pass. A checkpointed block keeps its input, and one of them at a time
    is recomputed."""
    shape = model.transformer
    values = load.batch * (load.tokens + CLIP_TOKENS + load.text_tokens) * shape.hidden
    forgetful = -(-shape.layers // load.interval) if load.interval else 0
    inputs = 0.0 if load.inputs_on_host else KEPT_CHECKPOINTED * forgetful
    kept = KEPT_EVERYTHING * (shape.layers - forgetful + min(forgetful, 1))
    saved = int(values * (inputs + kept) * BYTES[load.base_dtype])
    kept_scores = scores(shape, load) if load.scores else 0
    return saved + kept_scores + (slices(shape, load) if load.slices else 0)


def scores(shape: Transformer, load: Load) -> int:
    """Bytes of attention scores, in float32 for every format of the weights. Each attention keeps
    one matrix for the backward pass (a checkpointed block only while it is recomputed), and one
    attention at a time needs two more."""
    forgetful = -(-shape.layers // load.interval) if load.interval else 0
    blocks = shape.layers - forgetful + min(forgetful, 1)
    every = shape.scores(load.tokens + CLIP_TOKENS + load.text_tokens)
    images = shape.scores(load.tokens)  # of the second attention of some blocks
    kept = blocks * every + min(blocks, shape.dual_layers) * images
    return 4 * load.batch * (kept + PASSING_SCORES * every)


def slices(shape: Transformer, load: Load) -> int:
    """Bytes of the slices of sliced attention, in float32. One attention computes at a time, and no
    slice is kept for the backward pass."""
    count = load.tokens + CLIP_TOKENS + load.text_tokens
    passing = PASSING_SCORES * min(SLICE_VALUES, load.batch * shape.scores(count))
    return 4 * (passing + SLICED_FLOATS * load.batch * count * shape.hidden)


def gib(amount: int | float) -> str:
    """Bytes for people: "15.0 GiB", "42 MiB", "310 KiB"."""
    for unit, size in (("GiB", GIB), ("MiB", 2**20)):
        if amount >= size:
            return f"{amount / size:.1f} GiB" if unit == "GiB" else f"{amount / size:.0f} MiB"
    return f"{amount / 1024:.0f} KiB"

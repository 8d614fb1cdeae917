"""torch.compile of the transformer's blocks: one graph for all blocks of a kind and all sizes.

SD3 has up to three kinds of blocks: with a second attention (the first ones of SD3.5 medium), plain
ones, and the last, which gives no text. What makes one graph do for all blocks of a kind:

* one compiled function, called with the block: weights are inputs of its graph;
* batch size and image tokens are marked as sizes that vary, everything else is fixed, which
  compiles in half the time of `dynamic=True`;
* image and text of the first trained block ask for a gradient, as they do in every later one:
  otherwise it would be compiled by itself.

A batch of one image has its own graphs, because PyTorch compiles sizes 0 and 1 by themselves; so
have passes without gradients and without the adapter. docs/concepts/compile.md has the counts.

A block that keeps the outputs of attention is compiled together with its checkpoint: the compiler
keeps them, and computes again in the backward pass only what the gradients need. The checkpoint of
a block that keeps its inputs alone stays outside (train/checkpointing.py).
"""

import atexit
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sd3tune.filesystem.temporary import private_folder
from sd3tune.plan.arithmetic import CompileOptions
from sd3tune.plan.block_keeping import Keep
from sd3tune.report.progress import waiting
from sd3tune.report.quiet import quiet_logger
from sd3tune.sd3.kept_attention import keeping_outputs
from sd3tune.train import compiled_code

# Graphs of one forward method before PyTorch gives up compiling it, without an error: three kinds,
# twice for batches of one, three times for the passes named above, and for accumulated leftovers.
MOST_GRAPHS = 64
BLOCKS = "transformer_blocks."
BATCH, TOKENS = 0, 1  # dimensions of what a block takes

Forward = Callable[..., Any]


def compile_blocks(
    model: Any, backend: str | None, options: CompileOptions, keep: Sequence[Keep] = ()
) -> None:
    """Compiles the forward method of each block at its first call. To be called before what wraps
    that method: swapping, sharding and checkpointing stay outside. backend: of torch.compile; None:
    nothing is compiled. keep: what each block keeps; none: everything."""
    if backend is None:
        return
    if backend == "inductor":
        keep_code()
    from torch._dynamo import config as switches

    announce()
    switches.recompile_limit = MOST_GRAPHS
    switches.optimize_ddp = False  # it splits a block where DDP's gradient buckets end
    blocks = list(model.transformer_blocks)
    attention = [what == "attention" for what in keep] or [False] * len(blocks)
    kinds = [(type(b).forward, a) for b, a in zip(blocks, attention, strict=True)]
    compiled = {kind: one_graph(*kind, backend, options) for kind in set(kinds)}
    outside = trains(p for n, p in model.named_parameters() if not n.startswith(BLOCKS))
    for block, kind in zip(blocks, kinds, strict=True):
        trained = outside or trains(block.parameters())  # LyCORIS keeps its weights outside
        block.forward = partial(compiled[kind], block, trained)


def trains(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether one of them is trained."""
    return any(parameter.requires_grad for parameter in parameters)


def keeping_attention(forward: Forward) -> Forward:
    """`forward` of a block that is computed again in the backward pass, but for its attention."""
    quiet_logger("torch._higher_order_ops.wrap")  # it warns of in-place operators: blocks have none

    def checkpointed(block: Any, *inputs: Any) -> Any:
        return checkpoint(forward, block, *inputs, use_reentrant=False, context_fn=keeping_outputs)

    return checkpointed


def one_graph(forward: Forward, attention: bool, backend: str, options: CompileOptions) -> Forward:
    """`forward` of a block, compiled once for all blocks whose modules are alike. attention: such a
    block keeps the outputs of attention and its inputs."""
    mode = None if options.mode == "default" else options.mode  # other backends take none
    switches: dict[str, Any] = {"backend": backend, "mode": mode, "dynamic": options.dynamic}
    plain = torch.compile(forward, fullgraph=options.fullgraph, **switches)
    training = plain
    if attention:
        training = torch.compile(
            keeping_attention(forward), fullgraph=options.fullgraph, **switches
        )

    def call(
        block: Any,
        trained: bool,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        joint_attention_kwargs: Any = None,
    ) -> Any:
        """Image (B, N, D), text (B, T, D) and time (B, D), as JointTransformerBlock's forward."""
        if trained and torch.is_grad_enabled():
            for tensor in (hidden_states, encoder_hidden_states):
                tensor.requires_grad_()
        if options.dynamic is None:
            mark(hidden_states, BATCH, TOKENS)
            mark(encoder_hidden_states, BATCH)
            mark(temb, BATCH)
        run = training if torch.is_grad_enabled() else plain
        return run(block, hidden_states, encoder_hidden_states, temb, joint_attention_kwargs)

    return call


def mark(tensor: Tensor, *dimensions: int) -> None:
    """Declares sizes that vary from call to call. A size of 1 stays fixed."""
    torch._dynamo.maybe_mark_dynamic(tensor, dimensions)


class Announcement:
    """Says that a graph is compiled, for as long as it lasts: cold, it is seconds to minutes.

    PyTorch compiles the backward pass when it first runs, in a thread of autograd's on a device:
    the line is drawn where the forward pass was called.
    """

    def __init__(self) -> None:
        self._graphs = 0
        self._open: tuple[Context, ExitStack] | None = None
        self._context = copy_context()

    def begin(self, happening: Any) -> None:
        """PyTorch begins to compile. happening: what it tells its callbacks."""
        backward = "BACKWARD" in happening.callback_trigger.name
        if not backward:
            self._graphs += 1
            self._context = copy_context()
        part = "backward pass" if backward else "forward pass"
        shown: AbstractContextManager[None] = waiting(
            f"compiling the blocks: graph {self._graphs}, {part}"
        )
        stack = ExitStack()
        self._context.run(stack.enter_context, shown)
        self._open = self._context, stack

    def end(self, happening: Any) -> None:
        """PyTorch has compiled it."""
        if self._open is not None:
            context, stack = self._open
            self._open = None
            context.run(stack.close)


def announce() -> None:
    """Registers the announcement with PyTorch, which has no public function for it (2.13)."""
    from torch._dynamo.callback import callback_handler

    known = (getattr(callback, "__self__", None) for callback in callback_handler.start_callbacks)
    if not any(isinstance(owner, Announcement) for owner in known):
        announcement = Announcement()
        callback_handler.register_start_callback(announcement.begin)
        callback_handler.register_end_callback(announcement.end)


def keep_code() -> Path:
    """Lets PyTorch keep the compiled code for the next run, and returns the folder: the user's, or
    one that lasts as long as this process."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folder = compiled_code.opened(compiled_code.root(os.environ))
    if folder is None:
        held = ExitStack()
        atexit.register(held.close)
        folder = held.enter_context(private_folder("compiled"))
    return compiled_code.prepare(os.environ, folder, default_cache_dir())

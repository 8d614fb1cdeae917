"""The bare loop: what the same work costs without a trainer. diffusers, peft, torch.optim.AdamW.

The benchmarks import it; step.py and full_size.py say how they use it.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Batch = tuple[Tensor, Tensor, Tensor]  # latents, prompt_embeds, pooled
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


class Bare:
    """LoRA steps over batches that lie in memory.

    autocast: the format of products, with frozen weights in that format; None: as they are.
    compiled: torch.compile's backend, for each block by itself; None: as it is.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[Batch],
        *,
        rank: int = 8,
        dropout: float = 0.0,
        checkpointed: bool = False,
        compiled: str | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        from peft import LoraConfig

        model.requires_grad_(False)
        shape = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=dropout, target_modules=TARGETS)
        model.add_adapter(shape)
        if checkpointed:
            model.enable_gradient_checkpointing()
        self.model, self.batches, self.done = model.train(), batches, 0
        self.autocast = autocast
        self.trained = [p for p in model.parameters() if p.requires_grad]
        for p in self.trained:
            p.data = p.data.float()
        if compiled:
            torch._dynamo.config.recompile_limit = 64  # as ours
            for block in model.transformer_blocks:
                block.compile(backend=compiled)
        fused = batches[0][0].device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=fused or None)

    @classmethod
    def of(cls, source: Path, batches: Sequence[Any], **more: Any) -> "Bare":
        """With the transformer of a folder in float32, and batches of sd3tune."""
        from diffusers import SD3Transformer2DModel

        model = SD3Transformer2DModel.from_pretrained(source, subfolder="transformer")
        return cls(model, [(b.latents, b.prompt_embeds, b.pooled) for b in batches], **more)

    def step(self) -> None:
        """One step, which ends when the device has finished."""
        x, embeds, pooled = self.batches[self.done % len(self.batches)]
        self.done += 1
        eps, s = torch.randn_like(x), torch.sigmoid(torch.randn(len(x), device=x.device))
        level, dtype = s.view(-1, 1, 1, 1), self.autocast or x.dtype
        with torch.autocast(x.device.type, self.autocast) if self.autocast else nullcontext():
            v = self.model(
                hidden_states=((1 - level) * x + level * eps).to(dtype),
                timestep=1000 * s,
                encoder_hidden_states=embeds.to(dtype),
                pooled_projections=pooled.to(dtype),
                return_dict=False,
            )[0]
        loss = F.mse_loss(v.float(), eps - x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()

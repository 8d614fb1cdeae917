#!/usr/bin/env python3
"""Records what attention sees in the demo's painter: query, key, value and the gradient of the
output, of one training step on pictures that the painter drew itself.

    python scripts/record_activations.py [FILE]

The check of attention kernels feeds on this file (sd3tune/backends/kernels/activations.py): values
of a trained model have outliers, means that are not zero and keys that nobody looks at, which
random numbers have not. One picture of 128 px: 64 image tokens before 101 text tokens, 3 heads of
64. Plain diffusers computes it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import save_file
from torch import Tensor

from sd3tune.backends.kernels.activations import FILE

PAINTER = Path(__file__).parents[1] / "sd3tune" / "demo" / "painter"
PROMPT = "a red circle and a blue square"
SIDE, TEXT_TOKENS, LEVEL = 128, 24, 0.6  # noise level of Stable Diffusion 3's flow, 0 to 1
LAYERS = {  # name in the file -> module of the transformer
    "joint-first": "transformer_blocks.0.attn",
    "joint-middle": "transformer_blocks.1.attn",
    "image": "transformer_blocks.0.attn2",
}


def main(path: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pipe = StableDiffusion3Pipeline.from_pretrained(PAINTER)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        PROMPT, height=SIDE, width=SIDE, num_inference_steps=20, guidance_scale=2.0,
        max_sequence_length=TEXT_TOKENS, output_type="latent",
    ).images  # fmt: skip
    caption, _, pooled, _ = pipe.encode_prompt(
        PROMPT, PROMPT, PROMPT, do_classifier_free_guidance=False,
        max_sequence_length=TEXT_TOKENS,
    )  # fmt: skip
    recorded = attention_of_a_step(pipe.transformer, drawn, caption, pooled)
    save_file(recorded, path, {"model": "painter", "prompt": PROMPT, "torch": torch.__version__})
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def attention_of_a_step(
    model: Any, x: Tensor, caption: Tensor, pooled: Tensor
) -> dict[str, Tensor]:
    """`LAYER.q`, `.k`, `.v` and `.gradient` (tokens, heads, head_dim) in bfloat16; the gradient
    over its root mean square."""
    kept: dict[str, tuple[Tensor, ...]] = {}
    attend = torch.nn.functional.scaled_dot_product_attention
    running: list[str] = []

    def recording(q: Tensor, k: Tensor, v: Tensor, **words: Any) -> Tensor:
        out = attend(q, k, v, **words)
        out.retain_grad()
        kept[running[-1]] = (q, k, v, out)
        return out

    for name, module in LAYERS.items():
        part = model.get_submodule(module)
        part.register_forward_pre_hook(lambda *_, name=name: running.append(name))
    others = [m for n, m in model.named_modules() if n.endswith((".attn", ".attn2"))
              and n not in LAYERS.values()]  # fmt: skip
    for part in others:
        part.register_forward_pre_hook(lambda *_: running.append("another"))
    noise = torch.randn_like(x)
    noised = (1 - LEVEL) * x + LEVEL * noise
    patched: Any = torch.nn.functional
    patched.scaled_dot_product_attention = recording
    try:
        level = torch.tensor([1000 * LEVEL])
        answer = model(noised, caption, pooled, level, return_dict=False)[0]
        (answer - (noise - x)).square().mean().backward()
    finally:
        patched.scaled_dot_product_attention = attend
    found = {}
    for name in LAYERS:
        q, k, v, out = kept[name]
        assert out.grad is not None
        gradient = out.grad / out.grad.square().mean().sqrt()
        for key, value in zip(("q", "k", "v", "gradient"), (q, k, v, gradient), strict=True):
            found[f"{name}.{key}"] = value[0].transpose(0, 1).bfloat16().contiguous()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)

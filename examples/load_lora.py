"""Use a trained adapter with plain diffusers, on whatever device is here:

    python examples/load_lora.py MODEL ADAPTER ["a prompt"] [--size 1024] [--steps 28] …

MODEL is a diffusers folder or a repository, ADAPTER a .safetensors file or a folder that holds
pytorch_lora_weights.safetensors. Draws one picture without and one with the adapter, from the same
noise, and writes both side by side. Nothing of sd3tune is needed. `sd3tune sample` also quantises,
reads every dialect, and draws models that are larger than the memory.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

WORKSPACE_BYTES = 3 * 2**30  # beside the weights, at 1024 x 1024


def main() -> None:
    """Draws twice, and writes the comparison."""
    words = arguments()
    print("importing torch and diffusers", flush=True)  # seconds, on a slow disk a minute
    from diffusers import StableDiffusion3Pipeline
    from PIL import Image

    device, dtype = device_and_dtype()
    print(f"loading {words.model} for {device} in {str(dtype).removeprefix('torch.')}", flush=True)
    pipe = StableDiffusion3Pipeline.from_pretrained(words.model, dtype=dtype)
    pipe.set_progress_bar_config(desc="steps")
    pipe.load_lora_weights(words.adapter)
    if not pipe.get_active_adapters():  # diffusers only warns of a file of which it reads nothing
        sys.exit(f"error: diffusers applies nothing of {words.adapter}; "
                 "`sd3tune export ADAPTER --to diffusers` writes its dialect")  # fmt: skip
    place(pipe, device)

    print("drawing one picture without the adapter, and one with it", flush=True)
    pipe.disable_lora()
    without = draw(pipe, words)
    pipe.enable_lora()
    pipe.set_adapters(pipe.get_active_adapters(), [words.strength])
    with_adapter = draw(pipe, words)
    both = Image.new("RGB", (2 * without.width, without.height))
    both.paste(without, (0, 0))
    both.paste(with_adapter, (without.width, 0))
    both.save(words.out)
    change = difference(without, with_adapter)
    print(f"the adapter changes the picture by {change:.1f} of 255 on average: {words.out}")
    if change == 0:
        sys.exit("error: the adapter changed nothing")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("prompt", nargs="?", default="a tabby cat with green eyes")
    parser.add_argument("--size", type=int, help="of the square, in pixels; the model's own")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--tokens", type=int, default=256, help="of T5 for a prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("without-and-with.png"))
    return parser.parse_args()


def device_and_dtype() -> "tuple[str, torch.dtype]":
    """NVIDIA or AMD (both are `cuda` to PyTorch), Apple, or the CPU; and the number format that is
    fast and safe there."""
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "cuda", torch.bfloat16 if native else torch.float16  # T4 and V100: fp16
    if torch.backends.mps.is_available():
        return "mps", torch.bfloat16  # fp16 overflows in the VAE there
    return "cpu", torch.float32  # bf16 is emulated on most processors


def place(pipe: Any, device: str) -> None:
    """The whole model on the device where it fits; otherwise one part after the other, or, where a
    part is larger than the memory, one layer after the other."""
    import torch

    if device != "cuda":  # host and device share one memory
        pipe.to(device)
        return
    free, _ = torch.cuda.mem_get_info()
    parts = [m for m in pipe.components.values() if isinstance(m, torch.nn.Module)]
    sizes = [sum(p.numel() * p.element_size() for p in m.parameters()) for m in parts]
    if sum(sizes) + WORKSPACE_BYTES <= free:
        pipe.to(device)
    elif max(sizes) + WORKSPACE_BYTES <= free:
        print("the model does not fit the card: its parts visit it one after the other")
        pipe.enable_model_cpu_offload()
    else:
        print("a part of the model does not fit the card: its layers visit it, which is slow")
        pipe.enable_sequential_cpu_offload()


def draw(pipe: Any, words: argparse.Namespace) -> "Image":
    """One picture. The noise is drawn on the CPU: the same on every device."""
    import torch

    drawn: Image = pipe(
        words.prompt,
        height=words.size,
        width=words.size,
        num_inference_steps=words.steps,
        guidance_scale=words.guidance,
        max_sequence_length=words.tokens,
        generator=torch.Generator().manual_seed(words.seed),
    ).images[0]
    return drawn


def difference(one: "Image", other: "Image") -> float:
    """The mean of how much a colour differs, of 255."""
    import numpy as np

    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


if __name__ == "__main__":
    main()

"""Fine-tune Stable Diffusion 3 and 3.5 on NVIDIA, AMD and Apple hardware."""

__version__ = "0.1.0"

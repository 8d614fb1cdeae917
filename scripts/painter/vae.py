"""vae.py POOL OUT MINUTES: the 16-channel autoencoder, then a TAESD of the same latents. Where OUT
has them already, its decoders are trained further: what latents mean stays as it is.

Both see all concepts of the world and patches of other kinds, so that nothing stands in the way of
what fine-tuning teaches the transformer. Latents get SD3's scale and shift: about unit variance.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional as F

SCALE, SHIFT, NOISE = 1.5305, 0.0609, 0.1  # NOISE: deviation of the posterior, scaled
BATCH = 16


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=16, block_out_channels=(16, 32, 64, 96),
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=8, sample_size=64,
        scaling_factor=SCALE, shift_factor=SHIFT, use_quant_conv=False, use_post_quant_conv=False,
        force_upcast=True,
    )  # fmt: skip


class GroupNorm(nn.GroupNorm):
    """In float32: its backward pass in bfloat16 is slow on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)


def images(pool, rng: np.random.Generator, batch: int, side: int = 64) -> Tensor:
    """Pictures of the world in [-1, 1], turned and recoloured at random. side: of the part that is
    cut out; a part costs less, and what an autoencoder learns is local."""
    chosen = rng.integers(len(pool["pixels"]), size=batch)
    x = torch.from_numpy(pool["pixels"][chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
    half = batch // 2
    x[:half] = torch.rot90(x[:half], int(rng.integers(4)), (2, 3))
    x[: half // 2] = x[: half // 2][:, rng.permutation(3)]
    if side < 64:
        left, top = rng.integers(8, 56 - side, endpoint=True, size=2)
        x = x[..., top : top + side, left : left + side]
    return x.contiguous(memory_format=torch.channels_last)


def edges(x: Tensor) -> Tensor:
    return torch.cat([(x[..., 1:] - x[..., :-1]).flatten(1),
                      (x[..., 1:, :] - x[..., :-1, :]).flatten(1)], 1)  # fmt: skip


def distance(a: Tensor, b: Tensor) -> Tensor:
    return F.l1_loss(a, b) + 2 * F.mse_loss(a, b) + F.l1_loss(edges(a), edges(b))


def train(vae: AutoencoderKL, pool, minutes: float, *, encoder: bool, rate: float) -> None:
    rng = np.random.default_rng(int(encoder))
    vae.encoder.requires_grad_(encoder)
    vae.to(memory_format=torch.channels_last)
    for module in vae.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = GroupNorm
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    started, step = time.time(), 0
    while (share := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / 100) * (1 - share) ** 0.7
        x = images(pool, rng, BATCH, 32 if encoder and share < 0.75 else 64)
        with torch.autocast("cpu", torch.bfloat16):
            z = vae.encoder(x)[:, :16].float() if encoder else encoded(vae, x)
            unit = (z - SHIFT) * SCALE
            noisy = unit + NOISE * torch.rand(len(x), 1, 1, 1) * 2 * torch.randn_like(unit)
            shown = vae.decoder(noisy / SCALE + SHIFT).float()
        loss = distance(shown, x)
        # Channel by channel mean 0 and deviation 1, nothing far out: what diffusion wants.
        spread = unit.mean((0, 2, 3)).square().mean() + (unit.std((0, 2, 3)) - 1).square().mean()
        far = F.relu(unit.abs() - 3).square().mean()
        optimizer.zero_grad()
        (loss + 0.1 * spread + far).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            psnr = -10 * torch.log10(F.mse_loss(shown, x) / 4)
            print(f"vae {step} loss {loss.item():.4f} psnr {psnr.item():.1f} "
                  f"spread {spread.item():.3f} {share:.0%}", flush=True)  # fmt: skip


def encoded(vae: AutoencoderKL, x: Tensor) -> Tensor:
    with torch.no_grad():
        return vae.encoder(x)[:, :16].float()


@torch.no_grad()
def normalised(vae: AutoencoderKL, pool) -> None:
    """Each scaled channel to mean 0 and deviation 1, exactly; a narrow posterior."""
    rng, out = np.random.default_rng(5), vae.encoder.conv_out
    z = torch.cat([vae.encoder(images(pool, rng, 64))[:, :16] for _ in range(8)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    factor = 1 / (SCALE * std)
    out.weight[:16] *= factor[:, None, None, None]
    out.bias[:16] = factor * (out.bias[:16] - mean) + SHIFT
    out.weight[16:] = 0
    out.bias[16:] = 2 * float(np.log(NOISE / SCALE))
    first = vae.decoder.conv_in  # takes the change back but for the edge, which is trained again
    first.bias += (first.weight * (mean - SHIFT / factor)[:, None, None]).sum((1, 2, 3))
    first.weight /= factor[:, None, None]


def tiny_autoencoder() -> AutoencoderTiny:
    torch.manual_seed(3)
    width = 24
    return AutoencoderTiny(
        latent_channels=16, encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4, num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1), scaling_factor=1.0, shift_factor=0.0,
        force_upcast=False,
    )  # fmt: skip


def train_tiny(vae: AutoencoderKL, tiny: AutoencoderTiny, pool, minutes: float) -> None:
    rate, rng = 2e-3, np.random.default_rng(9)
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=rate, betas=(0.9, 0.99))
    started, step = time.time(), 0
    while (share := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / 50) * (1 - share) ** 0.7
        x = images(pool, rng, BATCH)
        unit = (encoded(vae, x) - SHIFT) * SCALE
        # Latents as the transformer has them: TAESD's convention.
        shown = tiny.decoder(unit + 0.2 * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(unit))
        back = tiny.encoder(x)
        loss = distance(shown, x) + F.mse_loss(back, unit)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tiny.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            psnr = -10 * torch.log10(F.mse_loss(shown, x) / 4)
            apart = F.mse_loss(back, unit).item()
            print(f"tiny {step} loss {loss.item():.4f} psnr {psnr.item():.1f} "
                  f"latents {apart:.3f} {share:.0%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    data, target, minutes = dict(np.load(sys.argv[1])), Path(sys.argv[2]), float(sys.argv[3])
    torch.manual_seed(0)
    if (target / "vae").exists():
        model = AutoencoderKL.from_pretrained(target / "vae").float()
        tiny = AutoencoderTiny.from_pretrained(target / "tiny_vae").float()
        train(model, data, minutes * 0.6, encoder=False, rate=1e-3)
        train_tiny(model, tiny, data, minutes * 0.4)
    else:
        model, tiny = autoencoder(), tiny_autoencoder()
        train(model, data, minutes * 0.65, encoder=True, rate=2e-3)
        normalised(model, data)
        train(model, data, minutes * 0.15, encoder=False, rate=5e-4)
        train_tiny(model, tiny, data, minutes * 0.2)
    model.to(torch.float16).save_pretrained(target / "vae")
    tiny.to(torch.float16).save_pretrained(target / "tiny_vae")

"""diffusers' transformers of the published sizes, without memory for their weights."""

import torch
from diffusers import SD3Transformer2DModel

from sd3tune.sd3.variants import Transformer


def built(shape: Transformer) -> SD3Transformer2DModel:
    with torch.device("meta"):
        return SD3Transformer2DModel(
            num_layers=shape.layers,
            num_attention_heads=shape.heads,
            attention_head_dim=shape.head_dim,
            dual_attention_layers=tuple(range(shape.dual_layers)),
            qk_norm="rms_norm" if shape.qk_norm else None,
            joint_attention_dim=shape.joint_dim,
            caption_projection_dim=shape.hidden,
            pooled_projection_dim=shape.pooled_dim,
            pos_embed_max_size=shape.positions,
            out_channels=shape.channels,
        )

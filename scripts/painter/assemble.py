"""assemble.py TRAINED PARTS OUT: the painter as the package ships it.

TRAINED: the folder `pipeline` of the training's result, or one of its checkpoints. PARTS: the
folder with the other parts. Weights are stored in halves; what loads them takes float32, which the
configurations of the encoders have to say (diffusers' own parts do so by default).
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "clip")


def transformer(trained: Path, parts: Path) -> SD3Transformer2DModel:
    """The averaged weights."""
    if (trained / "transformer").is_dir():
        return SD3Transformer2DModel.from_pretrained(trained / "transformer")
    model = SD3Transformer2DModel.from_pretrained(parts / "transformer")
    averaged = load_file(trained / "ema.safetensors")
    missing = model.load_state_dict(averaged, strict=False).missing_keys
    assert missing == ["pos_embed.pos_embed"], missing
    return model


def main(trained: Path, parts: Path, out: Path) -> None:
    shutil.copytree(parts, out, ignore=shutil.ignore_patterns("transformer", ".*"))
    transformer(trained, parts).to(torch.bfloat16).save_pretrained(out / "transformer")
    for folder in ENCODERS:
        path = out / folder / "config.json"
        config = json.loads(path.read_text())
        for part in (config, config.get("text_config"), config.get("vision_config")):
            if part is not None:
                part["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for file in out.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    size = sum(file.stat().st_size for file in out.rglob("*.safetensors"))
    print(f"{size / 1e6:.2f} MB of weights in {out}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))

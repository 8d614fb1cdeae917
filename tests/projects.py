"""A configuration as a user writes it, with one dataset of one picture."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

CONFIG: dict[str, Any] = {
    "model_type": "lora",
    "model_family": "sd3",
    "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-medium",
    "output_dir": "output",
    "max_train_steps": 10,
    "train_batch_size": 1,
}
IMAGES: dict[str, Any] = {"id": "photos", "type": "local", "instance_data_dir": "photos"}
TEXT: dict[str, Any] = {"id": "text", "dataset_type": "text_embeds", "default": True}


class Project:
    """A folder with a valid configuration, ready to be spoilt."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "config").mkdir()
        (root / "photos").mkdir()
        Image.new("RGB", (640, 480)).save(root / "photos" / "a_red_wall.png")
        self.config(**{})
        self.datasets(IMAGES, TEXT)

    def config(self, **changes: Any) -> None:
        kept = {k: v for k, v in (CONFIG | changes).items() if v is not ...}
        self.write("config/config.json", json.dumps(kept, indent=1))

    def datasets(self, *entries: Any) -> None:
        self.write("config/multidatabackend.json", json.dumps(list(entries), indent=1))

    def image(self, **changes: Any) -> None:
        self.datasets({k: v for k, v in (IMAGES | changes).items() if v is not ...}, TEXT)

    def write(self, name: str, text: str | bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    def empty_photos(self) -> None:
        (self.root / "photos" / "a_red_wall.png").unlink()

    def files(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(self.root.rglob("*")) if p.is_file()}

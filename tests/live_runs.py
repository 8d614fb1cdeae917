"""Folders of runs as `sd3tune train` leaves them, and the page's server on the loopback."""

import http.client
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter
from PIL.PngImagePlugin import PngInfo

from sd3tune.live.run_list import RunList
from sd3tune.live.serving import Address, Opened, opened

TOKEN = "a-token-of-the-tests"
DECISIONS = {
    "device": {"value": "cpu", "source": "auto", "reason": "observed here", "rejected": []},
    "model": {"value": "sd3.5-medium (tiny)", "source": "user", "reason": "3 blocks of width 192",
              "rejected": [], "file": "config/config.json", "key": "pretrained_model_name_or_path"},
    "mixed_precision": {"value": "no", "source": "auto", "reason": "no autocast", "rejected": [
        {"name": "bf16", "reasons": ["the CPU is the reference: float32 unless asked"]}]},
    "learning_rate": {"value": 0.002, "source": "user", "reason": "set in the configuration",
                      "rejected": [], "file": "config/config.json", "key": "learning_rate"},
    "max_train_steps": {"value": 300, "source": "user", "reason": "set", "rejected": []},
}  # fmt: skip
SETTINGS = {"checkpoint_step_interval": 100, "validation_step_interval": 50}


def rows(first: int, last: int) -> Iterator[dict[str, Any]]:
    """Rows of metrics.jsonl for the steps from `first` to `last`."""
    for step in range(first, last + 1):
        noise = math.sin(step * 12.9898) * 43758.5453 % 1 - 0.5
        loss = 0.35 + 1.2 * math.exp(-step / 60) + 0.25 * noise
        yield {
            "step": step, "loss": loss, "learning_rate": 2e-3 * min(1, step / 20),
            "grad_norm": 0.1 + abs(noise) * 0.05, "seconds": 0.12 + 0.02 * abs(noise),
            "images": 4, "tokens": 256, "loss_by_level": [0.2 + 0.05 * i for i in range(10)],
        }  # fmt: skip


def append(path: Path, objects: Sequence[Mapping[str, Any]] | Iterator[dict[str, Any]]) -> None:
    """Adds a line for each object."""
    with path.open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in objects)


def started(
    step: int = 0, steps: int = 300, name: str = "tiny-cats", **more: Any
) -> dict[str, Any]:
    """The first event of a run."""
    return {
        "time": 1.0, "event": "run.started", "version": 1, "step": step, "steps": steps,
        "name": name, "output_dir": "output", "settings": SETTINGS, "run": "r1",
        "plan": {"decisions": DECISIONS, "facts": {"vendor": "cpu"}, "warnings": [],
                 "memory": {"training_bytes": 347013888, "available_bytes": 25276063744}},
    } | more  # fmt: skip


def picture(path: Path, prompt: str, seed: int = 7, blur: float = 0, hue: int = 200) -> None:
    """A PNG with its facts inside, as sd3tune/sample/picture_metadata.py writes them."""
    image = Image.new("RGB", (128, 128), f"hsl({hue}, 45%, 82%)")
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 26, 98, 94), fill=f"hsl({(hue + 150) % 360}, 70%, 50%)")
    draw.rectangle((20, 100, 108, 112), fill=f"hsl({(hue + 40) % 360}, 55%, 40%)")
    info = PngInfo()
    info.add_text(
        "sd3tune", json.dumps({"prompt": prompt, "seed": seed, "steps": 8, "guidance_scale": 3.0})
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    image.filter(ImageFilter.GaussianBlur(blur)).save(path, pnginfo=info)


def checkpoint(folder: Path, step: int, content: bytes = b"weights") -> Path:
    """A complete checkpoint."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trained.safetensors").write_bytes(content)
    (path / "plan.json").write_text(json.dumps({"decisions": DECISIONS}))
    (path / "manifest.json").write_text("{}")
    return path


def run_folder(folder: Path, steps: int = 120) -> Path:
    """A run with curves, pictures at three moments, evaluations, a checkpoint and a warning."""
    folder.mkdir(parents=True, exist_ok=True)
    append(folder / "metrics.jsonl", rows(1, steps))
    prompts = {"cat": "a red circle above a plank", "sun": "a yellow circle above a purple plank"}
    for i, (name, prompt) in enumerate(prompts.items()):
        picture(
            folder / f"benchmarks/base_model/{name}_0_128x128.png",
            prompt,
            7,
            9,
            200 + 60 * i,
        )
        for step, blur in ((50, 4), (100, 0)):
            path = folder / f"validation_images/step_{step}_{name}_0_128x128.png"
            picture(path, prompt, 7, blur, 200 + 60 * i)
    checkpoint(folder, 100)

    def happened(time: float, event: str, step: int, **more: Any) -> dict[str, Any]:
        return {"time": time, "event": event, "step": step, **more}

    def evaluated(time: float, step: int, loss: float) -> dict[str, Any]:
        return happened(time, "evaluation", step, dataset="held-out", loss=loss, by_level={})

    spike = "step 20: loss 2.1 is a spike"
    append(folder / "events.jsonl", [
        started(),
        evaluated(2.0, 0, 1.21),
        happened(3.0, "message", 20, level="warning", text=spike),
        evaluated(4.0, 50, 0.82),
        evaluated(5.0, 100, 0.55),
        happened(6.0, "checkpoint", 100, path="output/checkpoint-100", kind="regular"),
    ])  # fmt: skip
    return folder


@dataclass
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A page's server that runs."""

    server: Opened
    port: int

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(
        self, path: str, method: str = "GET", *, body: bytes | None = None, **headers: str
    ) -> Answer:
        """One request; headers: `x_api_key` for X-API-Key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        answered = {name.lower(): value for name, value in answer.getheaders()}
        found = Answer(answer.status, answered, answer.read())
        connection.close()
        return found

    def cookie(self) -> str:
        """What a browser with the token sends."""
        entered = self.ask(
            "/enter", "POST", origin=f"http://{self.host}", authorization=f"Bearer {TOKEN}"
        )
        return entered.headers["set-cookie"].partition(";")[0]


@contextmanager
def served(
    *folders: Path, receive: Path | None = None, address: Address | None = None
) -> Iterator[Served]:
    """The page of some runs, answering in a thread."""
    address = address or Address(port=0, token=TOKEN)
    with opened(RunList(list(folders)), address, receive) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield Served(server, server.port)
        finally:
            server.end()
            thread.join()

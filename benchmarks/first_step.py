"""How long the real command takes until its first step at full size, and what of it is reading.

    python benchmarks/first_step.py FOLDER [--model sd3.5-medium] [--json FILE]

FOLDER: of random_models.py. `sd3tune train` is started twice and killed after its first step: cold,
with empty caches of images, captions and answers of probes, and warm. `reading` is what remains
where nothing is done but to read the transformer's weights onto the device, without imports. Wanted
on a card: warm at most 12 s more than reading. `ratio` is warm without reading over that.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import startup
from random_models import DATASETS, PIXELS, accelerator

WANTED_SECONDS = 12.0


def first_step(folder: Path, model: str, root: Path, config: Path) -> dict[str, Any]:
    """Seconds from the start of the process to the end of the first step."""
    output = root / "output"
    shutil.rmtree(output, ignore_errors=True)
    rows = output / "metrics.jsonl"

    def count() -> int:
        return rows.read_bytes().count(b"\n") if rows.exists() else 0

    words = (sys.executable, "-m", "sd3tune", "train", str(config),
             f"pretrained_model_name_or_path={folder / 'models' / model}",
             f"resolution={(folder / PIXELS).read_text()}", f"output_dir={output}",
             f"data_backend_config={config.with_name('multidatabackend.json')}",
             "max_train_steps=100", "dynamo_backend=no")  # fmt: skip
    return startup.start(words, folder, 1, count)


def reading(source: Path) -> float:
    """Seconds to read the weights onto the device, files in memory as they are after a run."""
    import torch
    from diffusers import SD3Transformer2DModel

    device = accelerator()
    torch.zeros(1, device=device)  # the context is there
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        SD3Transformer2DModel.from_pretrained(source, subfolder="transformer",
                                              torch_dtype=torch.bfloat16).to(device)  # fmt: skip
        seconds.append(time.perf_counter() - started)
    return seconds[-1]  # the first one also imports


def main() -> None:
    made = machine.parser(__doc__)
    made.add_argument("folder", type=Path, help="of random_models.py")
    made.add_argument("--model", default="sd3.5-medium")
    given = made.parse_args()
    folder = Path(given.folder).absolute()
    path = None if given.json is None else given.json.absolute()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        config = root / "config.json"
        shutil.copy(folder / "config" / "config.json", config)
        datasets = [{k: str(root / v) if k.startswith("cache_dir") else v for k, v in d.items()}
                    for d in DATASETS]  # fmt: skip
        config.with_name("multidatabackend.json").write_text(json.dumps(datasets))
        result: dict[str, Any] = {"model": given.model}
        for kind in ("cold", "warm"):
            result[kind] = first_step(folder, given.model, root, config)
            print(f"{kind}: {result[kind]['seconds']:.1f} s", flush=True)
            machine.write("first_step", result, path)
    result["reading"] = reading(folder / "models" / given.model)
    result["warm_beside_reading"] = result["warm"]["seconds"] - result["reading"]
    result["ratio"] = result["warm_beside_reading"] / WANTED_SECONDS
    machine.report("first_step", result, path)


if __name__ == "__main__":
    main()

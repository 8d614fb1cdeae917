"""The example files train: copied as the quickstart says, on a tiny model and its photographs."""

import shutil
from pathlib import Path

import pytest

from sd3tune.cli.arguments import config_of
from sd3tune.config.example_files import write_examples
from sd3tune.config.files.prompts import load_prompts
from sd3tune.train.run import train
from tests.this_machine import prepared_here

SMALL = (  # the tiny model has positions for 768 pixels, and a test has seconds
    "resolution=128", "validation_resolution=128x128", "max_train_steps=2", "lr_warmup_steps=0",
    "validation_num_inference_steps=2", "validation_step_interval=2", "train_batch_size=1",
    "gradient_accumulation_steps=1", "tokenizer_max_length=77",
)  # fmt: skip


@pytest.mark.slow
def test_the_example_file_trains_a_tiny_model(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_examples(tmp_path)
    for name in ("config.json", "multidatabackend.json"):
        shutil.copy(f"config/{name}.example", f"config/{name}")
    shutil.copytree(demo / "photos" / "square", "datasets/pseudo-camera-10k")
    model = f"pretrained_model_name_or_path={demo / 'models' / 'sd3.5-medium'}"
    path, words = config_of((model, *SMALL))
    assert path == Path("config/config.json")
    ready = prepared_here(path, *words)
    outcome = train(ready, load_prompts(ready.plan.config))
    assert outcome.steps == 2
    assert (tmp_path / "output" / "pytorch_lora_weights.safetensors").is_file()

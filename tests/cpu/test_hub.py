"""A model from the hub's cache, offline: the layout huggingface_hub writes."""

import shutil
from pathlib import Path

import pytest

from tests.commands import sd3tune


@pytest.mark.slow
def test_a_repository_in_the_cache_trains_without_a_network(demo: Path, tmp_path: Path) -> None:
    commit = "a" * 40
    repository = tmp_path / "hub" / "models--somebody--tiny"
    shutil.copytree(demo / "models" / "sd3-medium", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    done = sd3tune("train", str(demo / "config" / "config.json"),
               "pretrained_model_name_or_path=somebody/tiny", f"output_dir={tmp_path / 'out'}",
               "max_train_steps=11", "validation_disable=true",
               HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists()


@pytest.mark.slow
def test_a_download_that_is_not_whole_is_refused_before_it_is_loaded(
    demo: Path, tmp_path: Path
) -> None:
    """A download that was cut off, or a repository without a part: transformers would invent it."""
    commit = "a" * 40
    repository = tmp_path / "hub" / "models--somebody--tiny"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(demo / "models" / "sd3-medium", snapshot)
    shutil.rmtree(snapshot / "tokenizer_3")
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    done = sd3tune("train", str(demo / "config" / "config.json"), "revision=v2",
               "pretrained_model_name_or_path=somebody/tiny", f"output_dir={tmp_path / 'out'}",
               HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "tokenizer_3/tokenizer_config.json` is missing" in done.stderr
    assert "loading  text encoders" not in done.stderr

"""The CLIP score: its value beside torchmetrics' and beside a cosine in float64, its figures, and
models that are not CLIP."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPModel, CLIPProcessor

from sd3tune import preflight
from sd3tune.config.config import Config
from sd3tune.errors import ModelError
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.report.events import Event, Scored
from sd3tune.report.stream import Stream
from sd3tune.sample.clip_score import clip_scores, cosine_scores
from sd3tune.sample.pipeline import Picture
from sd3tune.train.scoring import scorers, summary
from sd3tune.train.validation import Validated
from tests.cpu import clips
from tests.cpu.conftest import Train
from tests.plans import plan

CPU = torch.device("cpu")
PROMPTS = ["a tabby cat", "a rocket lifting off at night", "a wall of red bricks"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write(tmp_path_factory.mktemp("clip") / "clip")


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    dice = np.random.default_rng(seed)
    return Image.fromarray(dice.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


class AsBefore:
    """The model as torchmetrics calls it: it expects tensors, as transformers 4 returned them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config, self.device = model.config, model.device

    def to(self, device: Any) -> "AsBefore":
        return self

    def get_image_features(self, pixels: Any) -> Any:
        return self.model.get_image_features(pixels).pooler_output

    def get_text_features(self, ids: Any, mask: Any) -> Any:
        return self.model.get_text_features(ids, mask).pooler_output


def test_each_picture_has_the_score_of_torchmetrics_and_of_a_cosine_in_float64(clip: Path) -> None:
    images = [picture(0), picture(1, (96, 64)), picture(2)]
    scores = clip_scores(str(clip), list(zip(images, PROMPTS, strict=True)), CPU, "fp32")
    assert len(set(scores)) == 3 and all(0 <= s <= 100 for s in scores)
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    for image, prompt, score in zip(images, PROMPTS, scores, strict=True):
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        theirs = clip_score(tensor, prompt, lambda: (AsBefore(model), processor))
        assert score == pytest.approx(theirs.item(), abs=1e-4)
        inputs = processor(text=[prompt], images=[image], return_tensors="pt", truncation=True)
        with torch.no_grad():
            out = model(**inputs)
        a, b = (e[0].double().numpy() for e in (out.image_embeds, out.text_embeds))
        cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert score == pytest.approx(max(0.0, 100 * cosine), abs=1e-3)


def test_a_prompt_is_cut_where_clip_ends(clip: Path) -> None:
    one, other = ("a tabby cat " * 40, "a tabby cat " * 40 + "a rocket")
    first, second = clip_scores(str(clip), [(picture(1), one), (picture(1), other)], CPU, "fp32")
    assert first == second > 0


def test_a_score_is_between_0_and_100() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    b = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [4.0, 3.0]])
    assert cosine_scores(a, b) == pytest.approx([100, 0, 96])


def test_every_picture_of_every_prompt_counts() -> None:
    figures = summary(["cat", "cat", "dog"], [10.0, 20.0, 30.0])
    assert figures == {
        "clip/min": 10.0,
        "clip/max": 30.0,
        "clip/mean": 20.0,
        "clip/std": pytest.approx((200 / 3) ** 0.5),
        "clip/prompt/cat": 15.0,
        "clip/prompt/dog": 30.0,
    }
    assert summary(["cat"], [10.0], "ema")["clip/ema/std"] == 0.0


@pytest.mark.slow
def test_a_validation_becomes_an_event_and_a_failure_a_warning(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    stream = Stream([SimpleNamespace(name="list", receive=events.append, close=lambda: None)])
    assert scorers(plan("rtx4090"), ALONE_ON_CPU, stream) == ()
    settings: dict[str, Any] = {"evaluation_type": "clip"}
    named = settings | {"pretrained_evaluation_model_name_or_path": str(clip)}
    (observe,) = scorers(plan("rtx4090", **named), ALONE_ON_CPU, stream)
    embeds = torch.empty(0), torch.empty(0)
    drawn = [(Picture("cat", "a tabby cat", embeds, (64, 64), i), picture(i)) for i in range(10)]
    observe(Validated(7, "during", "", drawn))
    observe(Validated(9, "base", "base", drawn))
    scored, base = events
    assert isinstance(scored, Scored) and scored.step == 7
    assert scored.scores["clip/min"] < scored.scores["clip/mean"] < scored.scores["clip/max"]
    assert isinstance(base, Scored) and base == Scored(0, scored.scores)
    (fails,) = scorers(plan("rtx4090", **settings), ALONE_ON_CPU, stream)
    fails(Validated(8, "end", "", drawn))  # offline
    assert len(events) == 2
    assert "the CLIP score at step 8 failed, and the run goes on" in caplog.text


@pytest.mark.slow
def test_a_run_scores_its_pictures_and_trains_as_one_without(
    clip: Path, run: Train, tmp_path: Path
) -> None:
    words = ("max_train_steps=1", "lr_warmup_steps=0", "validation_disable=false",
             "validation_num_inference_steps=1", "validation_resolution=64x64",
             "user_prompt_library=null", "validation_prompt=a tabby cat")  # fmt: skip
    scored, plain = tmp_path / "scored", tmp_path / "plain"
    run(*words, "evaluation_type=clip", f"output_dir={scored}",
        f"pretrained_evaluation_model_name_or_path={clip}")  # fmt: skip
    run(*words, "validation_disable=true", f"output_dir={plain}")
    events = [json.loads(line) for line in (scored / "events.jsonl").read_text().splitlines()]
    steps = [e["step"] for e in events if e["event"] == "scores"]
    assert steps == [0, 1]
    first, second = ((o / "checkpoint-1" / "trained.safetensors").read_bytes()
                     for o in (scored, plain))  # fmt: skip
    assert first == second


@pytest.mark.parametrize("spoil, words", [
    ("kind", "is a model of type siglip, not CLIP"), ("config", "holds no config.json"),
    ("pickle", "pickle"), ("tokenizer", "has no tokenizer.json or vocab.json"),
    ("path", "there is no such folder"),
])  # fmt: skip
def test_a_folder_that_is_not_a_clip_model_is_refused_before_training(
    spoil: str, words: str, clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clip"
    if spoil != "path":
        shutil.copytree(clip, folder)
    if spoil == "kind":
        (folder / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    elif spoil == "config":
        (folder / "config.json").unlink()
    elif spoil == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif spoil == "tokenizer":
        (folder / "tokenizer.json").unlink()
    settings: dict[str, Any] = {"output_dir": tmp_path / "output", "data_backend_config": "d",
                                "max_train_steps": 1, "evaluation_type": "clip"}  # fmt: skip
    settings["pretrained_evaluation_model_name_or_path"] = str(folder)
    with pytest.raises(ModelError, match=words):
        preflight.refuse_missing_files(Config(**settings))


def test_a_repository_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pretrained_evaluation_model_name_or_path=no/such"):
        clip_scores("no/such", [(picture(0), "x")], CPU, "fp32")

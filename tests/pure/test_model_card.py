"""The model card: its front matter, what it says of a run, and that text of other people in it
stays text."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd3tune.backends.decide import chips
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.escaping import one_line
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.publish import card, markdown, publication
from sd3tune.publish.card import Ended
from sd3tune.publish.card_pictures import GalleryPicture, gallery
from sd3tune.sd3.models import find
from tests.plans import LARGE, MEDIUM, samples

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
DATASET = {"id": "d", "instance_data_dir": "/home/me/secret-photos", "resolution": 1024,
           "resolution_type": "pixel_area", "cache_dir_vae": "/home/me/cache"}  # fmt: skip
HOSTILE = (
    "</details><script>alert(1)</script> [x](javascript:alert) ![y](http://e.il/p.png)\n---\n"
    "# head\n| a | b |\n- [ ] `code` ``` www.e.il https://e.il me@e.il {{ x }} \u202e *b* _i_ ~s~"
)


def planned(model: str = MEDIUM, dataset: dict[str, Any] | None = None, **settings: Any) -> Plan:
    values = {"output_dir": "/home/me/runs/cats", "data_backend_config": "/home/me/d.json",
              "max_train_steps": 10, "pretrained_model_name_or_path": model}  # fmt: skip
    own = ImageDataset.model_validate(DATASET | (dataset or {}))
    facts = chips.facts(chips.chip("h100-sxm"))
    return resolve(RunInputs(Config(**values | settings), facts, find(model), samples(), [own]))


def page(plan: Plan, *pictures: GalleryPicture, **ended: Any) -> tuple[dict[str, Any], str]:
    """Front matter and body."""
    values: dict[str, Any] = {"step": 10, "loss_before": 0.5, "loss_after": 0.25} | ended
    text = card.card(plan, Ended(pictures=pictures, **values))
    assert text.startswith("---\n")
    head, _, body = text[4:].partition("\n---\n")
    return yaml.safe_load(head), body


def drawn(prompt: str) -> GalleryPicture:
    return GalleryPicture("validation_images/a.png", None, {"prompt": prompt, "seed": 7})


def test_the_front_matter_is_what_hubs_read() -> None:
    fixed = {"instance_prompt": "zwx cat", "caption_strategy": "instanceprompt"}
    front, body = page(planned(dataset=fixed), drawn("a zwx cat"))
    assert front["license"] == "other" and front["license_name"] == "stabilityai-ai-community"
    assert front["license_link"] == f"https://huggingface.co/{MEDIUM}/blob/main/LICENSE.md"
    assert front["base_model"] == MEDIUM and front["base_model_relation"] == "adapter"
    assert front["library_name"] == "diffusers" and front["pipeline_tag"] == "text-to-image"
    assert {"sd3", "sd3.5", "lora", "template:sd-lora"} <= set(front["tags"])
    assert front["instance_prompt"] == "zwx cat"
    assert front["widget"] == [{"text": "a zwx cat", "output": {"url": "validation_images/a.png"}}]
    assert "## Trigger words" in body and "- zwx cat" in body and "Powered by Stability AI" in body


def test_full_training_is_a_finetune_and_its_code_loads_the_pipeline() -> None:
    front, body = page(planned(LARGE, model_type="full"))
    assert front["base_model_relation"] == "finetune" and "lora" not in front["tags"]
    assert 'weights = "pipeline"' in body and "load_lora_weights" not in body


@pytest.mark.parametrize("safe", [False, True])
def test_a_model_is_for_all_audiences_only_where_its_author_says_so(safe: bool) -> None:
    """model_card_safe_for_work."""
    front, body = page(planned(model_card_safe_for_work=safe))
    assert ("not-for-all-audiences" in front["tags"]) is not safe
    assert ("author states that this model is safe" in body) is safe


def test_the_note_of_the_author_is_shown_as_text() -> None:
    _, body = page(planned(model_card_note="For <b>friends</b>.\n\n# Not a heading"))
    shown = RENDERER.render(body)
    assert "<p>For &lt;b&gt;friends&lt;/b&gt;.</p>" in shown and "<p># Not a heading</p>" in shown


def test_what_matters_of_the_run_is_there_and_no_path_of_this_machine() -> None:
    plan = planned(learning_rate=2e-4, lora_rank=8, use_ema=True,
                   base_model_precision="int8-quanto", dataset={"repeats": 2},
                   init_lora=Path("/home/me/x.safetensors"))  # fmt: skip
    _, body = page(plan, last="last/pytorch_lora_weights.safetensors")
    for words in ("0.5000 before training, 0.2500 after (-50.0%)", "0.0002", "| rank, alpha | 8, 8",
                  "int8-quanto", "moving average", "last/pytorch_lora_weights.safetensors",
                  "| d | 20 | 2 | none | 1024x1024 |", "NVIDIA H100", "diffusers"):  # fmt: skip
        assert words in body, words
    assert "/home" not in body and "secret-photos" not in body
    assert "/home" not in json.dumps(dict(plan.publishing.settings))
    assert (
        plan.publishing.settings["lora_rank"] == 8 and "init_lora" not in plan.publishing.settings
    )


def test_hostile_prompts_and_names_stay_text_in_every_part_of_a_card() -> None:
    hostile = {"id": HOSTILE, "instance_prompt": HOSTILE, "caption_strategy": "instanceprompt"}
    plan = planned(dataset=hostile, model_card_note=HOSTILE)
    harmless, _ = page(planned(), drawn("a"))
    front, body = page(plan, drawn(HOSTILE))
    assert front.keys() - {"instance_prompt"} == harmless.keys()
    assert front["widget"][0]["text"].startswith("</details><script>")
    shown = RENDERER.render(body)
    assert not re.search(
        r"<script|href=\"(?!https://huggingface)|src=\"(?!validation_images/)", shown
    )
    headings = [line for line in RENDERER.render(page(planned(), drawn("a"))[1]).split("\n")
                if line.startswith("<h")]  # fmt: skip
    found = [line for line in shown.split("\n") if line.startswith("<h")]
    assert found == [*headings[:1], "<h2>Trigger words</h2>", *headings[1:]]
    assert "\u202e" not in shown


@given(st.text(max_size=80))
def test_any_text_is_read_as_it_was_written(words: str) -> None:
    shown = RENDERER.render(markdown.text(words))
    body = re.fullmatch(r"(?s)(?:<p>(.*)</p>\n)?", shown)
    assert body is not None and not re.search("<", body[1] or "")
    visible = " ".join(one_line(" ".join(words.split())).split())
    assert html.unescape(body[1] or "") == visible


@given(st.text(max_size=60))
def test_the_json_of_a_picture_is_the_pictures_own(words: str) -> None:
    facts = {"prompt": words, "seed": 3}
    block = markdown.json_block(facts)
    fence, content, end = re.fullmatch(r"(?s)(`+)json\n(.*)\n(`+)", block).groups()  # type: ignore[union-attr]
    assert fence == end and json.loads(content) == facts and "<" not in content


def test_pictures_of_the_base_model_stand_beside_those_of_the_end(tmp_path: Path) -> None:
    about = PngInfo()
    about.add_text("sd3tune", json.dumps({"prompt": "a cat", "seed": 9}))
    folders = {
        "validation_images": "step_4_a b_0_64x64.png",
        "benchmarks/base_model": "a b_0_64x64.png",
    }
    for folder, name in folders.items():
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / name, pnginfo=about)
    end = tmp_path / "validation_images" / folders["validation_images"]
    (picture,) = gallery(tmp_path, [end, tmp_path / "gone.png", Path("/etc/passwd")], 4)
    assert picture.file == "validation_images/step_4_a%20b_0_64x64.png"
    assert picture.before == "benchmarks/base_model/a%20b_0_64x64.png"
    assert picture.metadata == {"prompt": "a cat", "seed": 9}
    _, body = page(planned(), picture)
    assert f"| ![before: a cat]({picture.before}) | ![a cat]({picture.file}) |" in body


def test_a_card_that_its_author_took_over_is_kept(tmp_path: Path) -> None:
    plan = planned(output_dir=tmp_path)
    ended = Ended(10, 0.5, 0.4)
    page = publication.write_card(plan, ended)
    assert page == tmp_path / card.FILE and page is not None
    assert publication.write_card(plan, ended) == page
    page.write_text("# mine")
    assert publication.write_card(plan, ended) is None and page.read_text() == "# mine"
    kept = json.loads((tmp_path / card.SETTINGS).read_text())
    assert kept["settings"]["max_train_steps"] == 10 and str(tmp_path) not in json.dumps(kept)

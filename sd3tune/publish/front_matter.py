"""The YAML at the head of a model card, as hubs read it."""

from collections.abc import Sequence
from typing import Any

from sd3tune.escaping import one_line
from sd3tune.plan.plan import Plan
from sd3tune.publish.card_pictures import GalleryPicture
from sd3tune.publish.licence import licence

NOT_FOR_ALL = "not-for-all-audiences"  # the hub shows a warning before such a card
OPEN = "---\n"


def front_matter(plan: Plan, pictures: Sequence[GalleryPicture]) -> str:
    """Between two lines of dashes. Text of other people is one line of a quoted scalar."""
    import yaml

    base, words = plan.publishing.base, plan.result.trigger_words
    facts: dict[str, Any] = {**licence(plan).front}
    if not base.local:
        facts["base_model"] = base.transformer or base.name
        facts["base_model_relation"] = "finetune" if plan.trained.lora is None and (
            plan.trained.lycoris is None
        ) else "adapter"  # fmt: skip
    facts["library_name"] = "diffusers"
    facts["pipeline_tag"] = "text-to-image"
    facts["tags"] = tags(plan)
    if words:
        facts["instance_prompt"] = _line(", ".join(words))
    if pictures:
        facts["widget"] = [
            {"text": _line(picture.prompt) or "-", "output": {"url": picture.file}}
            for picture in pictures
        ]
    written = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=float("inf"))
    return f"{OPEN}{written}{OPEN}"


def tags(plan: Plan) -> list[str]:
    """By which people look for a model of this kind."""
    kind = plan.trained.kind.value
    family = plan.model.name.removesuffix(" (tiny)")
    own = ["text-to-image", "image-generation", "stable-diffusion", "sd3", family, "sd3tune"]
    if kind == "full":
        own.append("full")
    else:
        own += ["lora", "template:sd-lora"] if kind == "lora" else ["lycoris"]
    if family.startswith("sd3.5"):
        own.append("sd3.5")
    return [*own, "safe-for-work" if plan.publishing.safe_for_work else NOT_FOR_ALL]


def _line(words: str) -> str:
    return " ".join(one_line(" ".join(words.split())).split())

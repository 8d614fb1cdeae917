"""The licence of a result, which follows from its base model."""

from dataclasses import dataclass
from urllib.parse import quote

from sd3tune.plan.plan import Plan
from sd3tune.tables.architectures import ARCHITECTURES, of_repository

# As the cards of stabilityai's models name it; of the agreement of July 2024, section IV, is what a
# derivative has to state.
STABILITY = "stabilityai-ai-community"
NOTICE = (
    "This Stability AI Model is licensed under the Stability AI Community License, Copyright © "
    "Stability AI Ltd. All Rights Reserved. Powered by Stability AI."
)


@dataclass(frozen=True)
class Licence:
    """front: keys of the front matter. sentence: for the card, Markdown."""

    front: dict[str, str]
    sentence: str


def licence(plan: Plan) -> Licence:
    """Of a released model and of models of its shape: Stability AI's. Of the demo's model: the
    licence of sd3tune. Of another repository: that of its card, which the reader has to look up."""
    base = plan.publishing.base
    if plan.model.name.endswith("(tiny)") and base.local:
        return Licence(
            {"license": "apache-2.0"}, "The base is a demo model of sd3tune: Apache License 2.0."
        )
    if of_repository(base.name) is None and not base.local:
        page = f"https://huggingface.co/{quote(base.name)}"
        return Licence(
            {"license": "other", "license_name": "as-the-base-model", "license_link": page},
            f"The licence of [the base model]({page}) applies.",
        )
    row = of_repository(base.name) or ARCHITECTURES[plan.model.name.removesuffix(" (tiny)")]
    link = f"https://huggingface.co/{row.repository}/blob/main/LICENSE.md"
    return Licence(
        {"license": "other", "license_name": STABILITY, "license_link": link},
        f"[Stability AI Community License]({link}). {NOTICE}",
    )

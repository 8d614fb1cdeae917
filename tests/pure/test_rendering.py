"""Networks that ComfyUI renders wrongly are announced before they are trained."""

from typing import Any

import pytest

from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.plan.rendering import of_rendering
from sd3tune.sd3.models import find
from tests.plans import MEDIUM, plan

WRONG: list[tuple[dict[str, Any], str, bool]] = [
    ({"algo": "locon", "dora_wd": True}, "dora_wd=true", True),
    ({"algo": "lokr", "factor": 4, "dora_wd": True}, "dora_wd=true", True),
    ({"algo": "diag-oft", "constraint": 0.01}, "(constraint)", False),
    ({"algo": "boft", "linear_dim": 8, "constraint": 0.01}, "(constraint)", False),
    ({"algo": "diag-oft", "rescaled": True}, "rescaled=true", True),
    ({"algo": "glora", "apply_preset": {"target_module": ["Linear"]}}, "another order", True),
    ({"algo": "locon", "apply_preset": {"target_module": ["Attention"], "name_algo_map": {
        ".*norm_out.linear": {"algo": "diag-oft"}}}}, "ComfyUI renders 1 of", True),
]  # fmt: skip
RIGHT: list[dict[str, Any]] = [
    {"algo": "locon", "dora_wd": True, "wd_on_output": False},
    {"algo": "lokr", "factor": 4, "dora_wd": True, "wd_on_output": False},
    {"algo": "boft", "linear_dim": 8, "rescaled": True},
    {"algo": "diag-oft"},
    {"algo": "glora"},
    {"algo": "loha", "apply_preset": {"target_module": ["Linear"]}},
]


@pytest.mark.parametrize("content, words, base", WRONG)
def test_a_network_that_comfyui_renders_wrongly_is_announced(
    content: dict[str, Any], words: str, base: bool
) -> None:
    (warning,) = of_rendering(find(MEDIUM), Lycoris.model_validate(content))
    assert words in warning and "sd3tune export --to comfyui" in warning
    assert ("--model" in warning) == base


@pytest.mark.parametrize("content", RIGHT)
def test_a_network_that_comfyui_renders_right_is_not(content: dict[str, Any]) -> None:
    assert not list(of_rendering(find(MEDIUM), Lycoris.model_validate(content)))


def test_dora_is_announced_where_the_file_has_magnitudes() -> None:
    def warned(**settings: Any) -> bool:
        return any("use_dora" in w for w in plan("h100-sxm", **settings).warnings)

    assert warned(use_dora=True) and not warned(use_dora=True, lora_format="comfyui")
    assert not warned()

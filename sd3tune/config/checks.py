"""Values as people write them to values of the right type, and rules that join two settings.

Raises ValueError with one sentence; report.py adds file, key and value.
"""

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sd3tune.config import flow
from sd3tune.config.optimizer_options import check as check_optimizer_options

if TYPE_CHECKING:
    from sd3tune.config.config import Config

TRUE, FALSE = ("true", "yes", "y", "on", "1"), ("false", "no", "n", "off", "0")


def flag(value: Any) -> Any:
    """true and false, also in quotes: "False" is false, whatever a truth test would say."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in TRUE:
        return True
    if isinstance(value, str) and value.strip().lower() in FALSE:
        return False
    if value in (0, 1) and isinstance(value, int):
        return bool(value)
    raise ValueError("must be true or false")


def whole(value: Any) -> Any:
    """Whole numbers, also as "4" or 4.0; true is not 1."""
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


def number(value: Any) -> Any:
    """true is not 1.0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def layers(value: Any) -> Any:
    """[7, 8, 9], "[7,8,9]", "7,8,9" or 7."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = [v for v in value.strip("[] ").split(",") if v.strip()]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    try:
        found = tuple(int(str(v)) for v in value)
    except (TypeError, ValueError):
        raise ValueError("must be block numbers such as [7, 8, 9]") from None
    if any(n < 0 for n in found) or len(set(found)) != len(found):
        raise ValueError("must be block numbers from 0, each once")
    return found or None


def words(value: Any) -> Any:
    """A list of words, the same as a JSON string, or words between commas."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [w.strip() for w in value.split(",")]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) and v for v in value):
        raise ValueError('must be names such as ["to_q", "to_k"]')
    if not value:
        raise ValueError("is an empty list: nothing would be trained")
    return tuple(value)


def names(value: Any) -> Any:
    """One name or a list of them."""
    value = [value] if isinstance(value, str) else value
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(v, str) and v for v in value)
    ):
        raise ValueError("must be a name or a list of names")
    return tuple(value)


def filters(value: Any) -> Any:
    """A path, or a list of texts."""
    if isinstance(value, list | tuple) and not all(isinstance(v, str) and v for v in value):
        raise ValueError("must be a file, or a list of texts")
    return tuple(value) if isinstance(value, list) else value


def address(value: str | None) -> str | None:
    """http(s)://HOST:PORT/PATH: neither user info nor a query, which would be shown and sent."""
    if not value:
        return None
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be an address such as https://s3.example.com:9000")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be an address without user name and query: keys go into "
                         "aws_access_key_id and aws_secret_access_key")  # fmt: skip
    return value


def one_id(value: Any) -> Any:
    """An id, or a list of one."""
    if isinstance(value, list) and len(value) > 1:
        raise ValueError("must be one id: an image has one mask")
    return value[0] if isinstance(value, list) and value else value or None


STAGES = ("vae", "aspect", "metadata", "text")


def stages(value: Any) -> Any:
    """Words between commas, or a list."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(p, str) for p in parts):
        raise ValueError(f"must be words out of {', '.join(STAGES)}")
    found = tuple(p.strip() for p in parts if p.strip())
    if unknown := next((p for p in found if p not in STAGES), None):
        raise ValueError(f"has `{unknown}`: it takes words out of {', '.join(STAGES)}")
    return found


def aspects(value: Any) -> Any:
    """[0.75, 1.0] or [{"aspect": 0.75, "weight": 0.4}, …] to ((aspect, weight), …)."""
    if value is None:
        return ()
    wrong = 'must be aspects such as [0.75, 1.0], or [{"aspect": 1.0, "weight": 0.7}, …]'
    if not isinstance(value, list | tuple):
        raise ValueError(wrong)
    weighted = [isinstance(v, dict) for v in value]
    if any(weighted) and not all(weighted):
        raise ValueError("mixes plain and weighted aspects")
    found = []
    for item in value:
        if isinstance(item, dict):
            if set(item) != {"aspect", "weight"}:
                raise ValueError(wrong)
            pair = item["aspect"], item["weight"]
        else:
            pair = item, 1 / len(value)
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in pair):
            raise ValueError(wrong)
        if not 0 < pair[0] < 100 or not 0 <= pair[1] <= 1:
            raise ValueError(f"has aspect {pair[0]:g} with weight {pair[1]:g}")
        found.append((float(pair[0]), float(pair[1])))
    total = sum(weight for _, weight in found)
    if found and abs(total - 1) > 1e-6:
        raise ValueError(f"has weights that sum to {total:g}, not 1")
    if len({aspect for aspect, _ in found}) != len(found):
        raise ValueError("names an aspect twice")
    return tuple(found)


def sizes(value: Any) -> Any:
    """ "1024x1024,1280x768", "1024", 1024, or a list of such, to ((width, height), …)."""
    if isinstance(value, tuple) and all(isinstance(v, tuple) for v in value):
        return value
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(one_size(str(part)) for part in parts if str(part).strip())


def one_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)(?:\.0)?(?:\s*[xX]\s*(\d+))?\s*", text)
    if match is None:
        raise ValueError(f"`{text.strip()}` is not a size: write 1024x1024 or 1280x768")
    width = int(match.group(1))
    height = int(match.group(2) or width)
    usable = tuple(max(64, round(n / 16) * 16) for n in (width, height))
    if (width, height) != usable:
        raise ValueError(
            f"`{text.strip()}`: sides are multiples of 16 from 64 on; nearest is "
            f"{usable[0]}x{usable[1]}"
        )
    return width, height


def schedule(value: Any) -> Any:
    if value == "sine":
        raise ValueError(
            "is nobody's standard: programs that have it disagree; write cosine_with_restarts"
        )
    return value


def options(text: str) -> str:
    """optimizer_config, refused here so that the complaint names it."""
    names = [part.partition("=")[0].strip() for part in text.split(",")]
    if len(set(names)) != len(names):
        raise ValueError("sets an option twice")
    for name, value in optimizer_options(text).items():
        if not isinstance(value, int | float):
            raise ValueError(f"`{name}` must be a number, true or false")
    return text


def optimizer_options(text: str) -> dict[str, Any]:
    """ "eps=1e-6,amsgrad=true" to {"eps": 1e-6, "amsgrad": True}."""
    found: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"`{part}` is not name=value")
        try:
            found[name.strip()] = json.loads(value.strip().lower())
        except ValueError:
            raise ValueError(f"`{part}`: the value must be a number, true or false") from None
    return found


def cross(c: "Config") -> None:
    """Settings that contradict each other."""
    if c.max_train_steps and c.num_train_epochs:
        raise ValueError(
            f"max_train_steps={c.max_train_steps} and num_train_epochs={c.num_train_epochs} are "
            "both set; set one of them"
        )
    if not c.max_train_steps and not c.num_train_epochs:
        raise ValueError("neither max_train_steps nor num_train_epochs is set; set one of them")
    if c.max_train_steps and c.lr_warmup_steps >= c.max_train_steps:
        raise ValueError(
            f"lr_warmup_steps={c.lr_warmup_steps} must be below max_train_steps={c.max_train_steps}"
        )
    if c.lr_end > c.learning_rate:
        raise ValueError(f"lr_end={c.lr_end:g} must not be above learning_rate={c.learning_rate:g}")
    if c.validation_guidance_skip_layers:
        start, stop = (
            c.validation_guidance_skip_layers_start,
            c.validation_guidance_skip_layers_stop,
        )
        if start >= stop:
            raise ValueError(
                f"validation_guidance_skip_layers_start={start} must be below "
                f"validation_guidance_skip_layers_stop={stop}"
            )
    flow.contradictions(c)
    _adapter(c)
    if c.resolution_type == "area" and (c.maximum_image_size or 0) > 5:
        raise ValueError(
            f"maximum_image_size={c.maximum_image_size:g} would be megapixels with "
            "resolution_type=area; use resolution_type=pixel_area for pixels, or set it in a "
            "dataset"
        )
    if c.lr_scale_sqrt and not c.lr_scale:
        raise ValueError("lr_scale_sqrt=true without lr_scale=true scales nothing; set lr_scale")
    check_optimizer_options(c)
    _blocks(c)


def _adapter(c: "Config") -> None:
    """Settings of something else than what is trained."""
    if c.model_type == "full" and c.lora_type == "lycoris":
        raise ValueError(
            "model_type=full trains the weights themselves, lora_type=lycoris an adapter; "
            "leave one of them out"
        )
    if c.lycoris_config is not None and c.lora_type != "lycoris":
        raise ValueError("lycoris_config belongs to lora_type=lycoris; set that, or leave it out")
    if c.model_type == "full" or c.lora_type == "lycoris":
        kind = "model_type=full" if c.model_type == "full" else "lora_type=lycoris"
        for name in ("use_dora", "use_rslora", "lora_init_type", "peft_lora_target_modules"):
            if getattr(c, name) != type(c).model_fields[name].default:
                raise ValueError(
                    f"{name} belongs to lora_type=standard, this is {kind}; leave it out"
                )
    if c.init_lora is not None and c.model_type == "full":
        raise ValueError("init_lora begins an adapter, and model_type=full has none; leave it out")
    if c.init_lora is not None and c.lora_init_type != "default":
        raise ValueError(
            f"init_lora and lora_init_type={c.lora_init_type} both say how the adapter begins; "
            "leave one of them out"
        )
    if c.lora_type == "lycoris" and c.lora_format != "diffusers":
        raise ValueError(
            f"lora_format={c.lora_format} belongs to lora_type=standard: LyCORIS files have one "
            "form; leave it out"
        )
    if c.fsdp_enable and c.use_dora and c.lora_format != "diffusers":
        raise ValueError(
            f"lora_format={c.lora_format} of DoRA needs the weights in one place, and fsdp_enable "
            "splits them; leave lora_format out, and run `sd3tune export` afterwards"
        )
    if c.use_dora and c.lora_init_type in ("pissa", "olora"):
        raise ValueError(
            f"use_dora and lora_init_type={c.lora_init_type} both change what the weights are; "
            "leave one of them out"
        )
    if c.num_machines > 1 and c.machine_rank >= c.num_machines:
        raise ValueError(
            f"machine_rank={c.machine_rank} must be below num_machines={c.num_machines}"
        )


def _blocks(c: "Config") -> None:
    """What can be asked of the transformer's blocks together."""
    interval, swapped = c.gradient_checkpointing_interval, c.blocks_to_swap
    if not c.gradient_checkpointing:
        for name in ("gradient_checkpointing_interval", "gradient_checkpointing_backend"):
            if (value := getattr(c, name)) not in (None, 1, "torch"):
                raise ValueError(
                    f"{name}={value} goes with gradient_checkpointing=true, which is false"
                )
    if not swapped:
        return
    if not c.gradient_checkpointing or interval > 1:
        raise ValueError(
            f"blocks_to_swap={swapped} needs every block checkpointed: otherwise what was copied "
            "stays; set gradient_checkpointing=true and gradient_checkpointing_interval=1"
        )
    if c.model_type != "lora":
        raise ValueError(
            f"blocks_to_swap={swapped} goes with model_type=lora: only frozen weights can stay "
            "behind; remove one of the two"
        )
    if c.fsdp_enable:
        raise ValueError(
            f"blocks_to_swap={swapped} and fsdp_enable=true are both set: FSDP moves each block's "
            "weights itself; remove one of the two"
        )
    if c.dynamo_backend not in (None, "no"):
        raise ValueError(
            f"blocks_to_swap={swapped} and dynamo_backend={c.dynamo_backend} are both set: a "
            "compiled block would be compiled again at every visit; remove one of the two"
        )

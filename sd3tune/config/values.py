"""Values as people write them to values of the right type: pure functions of one value.

Each raises ValueError with one sentence that follows the setting and its value; config/problems.py
adds file, key and value in front of it.
"""

import json
import math
import re
from typing import Any
from urllib.parse import urlsplit

FILE_STEM = re.compile(r"[^\W_](?:[\w .+-]*[\w+-])?")
LONGEST_STEM = 100  # bytes
LABEL = re.compile(r"[\w .+-]+")
RESERVED_STEMS = (
    {"trained", "ema", "optimizer", "con", "prn", "aux", "nul"}
    | {f"{device}{n}" for device in ("com", "lpt") for n in range(1, 10)}
)  # fmt: skip
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


def file_stem(value: str) -> str:
    """A name for a file of ours, also with its ending: not a path, not hidden, and one that every
    system takes."""
    stem = value.strip().removesuffix(".safetensors")
    if "/" in stem or "\\" in stem:
        raise ValueError("must be a file name, not a path")
    if not FILE_STEM.fullmatch(stem) or len(stem.encode()) > LONGEST_STEM:
        raise ValueError(
            "must be a file name of letters, digits, blanks, dots, dashes and underscores that "
            "begins with a letter or digit and does not end with a dot, of at most "
            f"{LONGEST_STEM} bytes"
        )
    if stem.split(".")[0].casefold() in RESERVED_STEMS:
        raise ValueError("is a name that a checkpoint or an operating system keeps for itself")
    return stem


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


def resolution(value: Any) -> Any:
    """One number. Raises ValueError for a width and a height, with the edge of the square that has
    the same area."""
    parts = re.split(r"[,xX]", value.strip("[]() ")) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) == 1:
        return number(parts[0] if isinstance(parts, list | tuple) else parts)
    try:
        sides = [float(side) for side in parts]
    except (TypeError, ValueError):
        raise ValueError("must be a number") from None
    if len(sides) == 2 and all(0 < side < 1e6 for side in sides):
        edge = math.sqrt(sides[0] * sides[1])
        raise ValueError(f"is a width and a height, and images keep their aspect; use {edge:.0f}")
    raise ValueError("must be a number; several resolutions are several datasets")


def tracker_names(value: Any) -> Any:
    """["wandb"], "wandb", "wandb,tensorboard", "[wandb, tensorboard]", each once; none is ()."""
    if isinstance(value, str):
        value = [part.strip(" \"'") for part in value.strip("[]() ").split(",")]
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ValueError("must be a name or a list of names")
    names = list(dict.fromkeys(name.strip() for name in value if name.strip()))
    for alone in ("none", "all"):
        if alone in names and len(names) > 1:
            raise ValueError(f"names `{alone}` beside others: write one or the other")
    return () if names == ["none"] else tuple(names)


def tracker_label(value: str) -> str:
    """A name that every tracker takes, also as the name of a folder."""
    label = value.strip()
    if not LABEL.fullmatch(label) or label.strip(".") == "" or len(label.encode()) > LONGEST_STEM:
        raise ValueError(
            "must be a name of letters, digits, blanks, dots, dashes and underscores, of at most "
            f"{LONGEST_STEM} bytes"
        )
    return label


def layers(value: Any) -> Any:
    """[7, 8, 9], "[7,8,9]", "7,8,9" or 7."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = [v for v in value.strip("[] ").split(",") if v.strip()]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    try:
        numbers = tuple(int(str(v)) for v in value)
    except (TypeError, ValueError):
        raise ValueError("must be block numbers such as [7, 8, 9]") from None
    if any(n < 0 for n in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError("must be block numbers from 0, each once")
    return numbers or None


def module_names(value: Any) -> Any:
    """A list of names, the same as a JSON string, or names between commas."""
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


def webhook_address(value: Any) -> Any:
    """http(s)://HOST:PORT/PATH?QUERY. Raises ValueError without showing it: it is a secret."""
    if not isinstance(value, str):
        return value
    try:
        parts = urlsplit(value)
        host = (parts.hostname or "").encode("ascii" if ":" in parts.netloc else "idna")
        usable = parts.scheme in ("http", "https") and host and parts.port != 0
    except (ValueError, UnicodeError):
        usable = False
    if not usable or not value.isprintable() or " " in value:
        raise ValueError("must be an address such as https://example.com/hook")
    if "@" in parts.netloc:
        raise ValueError("must be an address without user name: a key goes into auth_token")
    return value


def header_token(value: Any) -> Any:
    """A token that a header can hold: printable ASCII without blanks around it."""
    usable = isinstance(value, str) and value.isascii() and value.isprintable()
    if isinstance(value, str) and not (usable and value == value.strip()):
        raise ValueError("must be printable ASCII, without blanks at its ends")
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
    named = tuple(p.strip() for p in parts if p.strip())
    if unknown := next((p for p in named if p not in STAGES), None):
        raise ValueError(f"has `{unknown}`: it takes words out of {', '.join(STAGES)}")
    return named


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
    aspects = []
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
            raise ValueError(
                f"has aspect {pair[0]:g} with weight {pair[1]:g}: aspects lie between 0 and 100, "
                "weights between 0 and 1"
            )
        aspects.append((float(pair[0]), float(pair[1])))
    total = sum(weight for _, weight in aspects)
    if aspects and abs(total - 1) > 1e-6:
        raise ValueError(f"has weights that sum to {total:g}, not 1")
    if len({aspect for aspect, _ in aspects}) != len(aspects):
        raise ValueError("has an aspect twice")
    return tuple(aspects)


def sizes(value: Any) -> Any:
    """ "1024x1024,1280x768", "1024", 1024, or a list of such, to ((width, height), …)."""
    if isinstance(value, tuple) and all(isinstance(v, tuple) for v in value):
        return value
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(one_size(str(part)) for part in parts if str(part).strip())


def one_size(text: str) -> tuple[int, int]:
    """ "1280x768", or "1024" for a square, to (width, height) in pixels."""
    match = re.fullmatch(r"\s*(\d+)(?:\.0)?(?:\s*[xX]\s*(\d+))?\s*", text)
    if match is None:
        raise ValueError(f"has `{text.strip()}`, which is not a size; use 1024x1024")
    width = int(match.group(1))
    height = int(match.group(2) or width)
    usable = tuple(max(64, round(n / 16) * 16) for n in (width, height))
    if (width, height) != usable:
        raise ValueError(
            "has a size whose sides are not multiples of 16 from 64 on; use "
            f"{usable[0]}x{usable[1]}"
        )
    return width, height


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
    options: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"`{part}` is not name=value")
        try:
            options[name.strip()] = json.loads(value.strip().lower())
        except ValueError:
            raise ValueError(f"`{part}`: the value must be a number, true or false") from None
    return options


def timesteps(value: Any) -> Any:
    """[250, 500, 750] or "250,500,750" as noise levels; if none is above 1, they are levels."""
    levels = _numbers(value, "timesteps such as [250, 500, 750], or noise levels up to 1")
    if any(not 0 < n <= 1000 for n in levels):
        raise ValueError("must lie above 0 and at most at 1000")
    return levels if all(n <= 1 for n in levels) else tuple(n / 1000 for n in levels)


def weights(value: Any) -> Any:
    """[1, 2, 1] or "1,2,1": two or more, all above 0."""
    weights = _numbers(value, "weights such as [1, 2, 1]")
    if len(weights) == 1 or any(n <= 0 for n in weights):
        raise ValueError("must be two or more weights above 0")
    return weights


def _numbers(value: Any, wanted: str) -> tuple[float, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(f"[{value.strip().strip('[]')}]")
        except ValueError:
            raise ValueError(f"must be {wanted}") from None
    value = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in value):
        raise ValueError(f"must be {wanted}")
    return tuple(float(n) for n in value)

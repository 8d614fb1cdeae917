"""Checks a model folder before a library builds anything from it: regular files only, JSON whose
numbers an SD3 model can have, weights in safetensors only, classes of two libraries only.

A model folder is untrusted: its config.json can request a hundred thousand layers, its index of
shards can name a file outside the folder, and its model_index.json can name a module to import.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sd3tune.errors import ModelError
from sd3tune.filesystem import opening, safetensors_header

AGAIN = "download the model again"
INDEX = "model_index.json"
CONFIGS = ("config.json", "scheduler_config.json")
LIBRARIES = ("diffusers", "transformers")  # a model_index.json may name classes of these
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".msgpack", ".h5")
READ = (".json", ".safetensors", ".txt", ".model")
# Names of numbers -> the largest one. The released models have 48, 64, 64 and 49408 at most.
LIMITS = {"layers": 256, "heads": 256, "layers_per_block": 32}
LARGEST, LONGEST_LIST = 10_000_000, 64
NAME = re.compile(r"\w+")
# Part -> pattern of its blocks' names, and the key with their number. Libraries fill missing blocks
# with noise.
BLOCKS = {"transformer": (r"transformer_blocks\.(\d{1,9})\.", "num_layers"),
          "text_encoder": (r"text_model\.encoder\.layers\.(\d{1,9})\.", "num_hidden_layers"),
          "text_encoder_2": (r"text_model\.encoder\.layers\.(\d{1,9})\.", "num_hidden_layers"),
          "text_encoder_3": (r"encoder\.block\.(\d{1,9})\.", "num_layers")}  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    """The content of a config.json, after checking its numbers. Raises ModelError."""
    config = json_object(path)
    for name, value in _values(config):
        _check(path, name, value)
    return config


def check_folder(folder: Path) -> None:
    """Checks every file of a diffusers folder, whichever parts it holds. Raises ModelError."""
    if (folder / INDEX).exists():
        parts_of(folder / INDEX)
    for part in sorted(p for p in folder.iterdir() if p.is_dir()):
        check_part(part, part.name)


def check_part(folder: Path, part: str) -> None:
    """Checks one part, such as `transformer`; the folder may have any name. Raises ModelError."""
    if not folder.is_dir():
        return
    files = sorted(p for p in folder.rglob("*") if p.suffix or not p.is_dir())
    weights = [p for p in files if p.suffix == ".safetensors"]
    for path in files:
        _check_file(path, weights)
    headers = [safetensors_header.read(p) for p in weights]
    if part in BLOCKS and (folder / "config.json").exists():
        _check_blocks(folder / "config.json", *BLOCKS[part], headers)


def parts_of(index: Path) -> dict[str, tuple[str, str]]:
    """Part -> (library, class), from a model_index.json. Raises ModelError."""
    found = {}
    for name, entry in json_object(index).items():
        if not isinstance(entry, list) or entry == [None, None] or name.startswith("_"):
            continue
        known = len(entry) == 2 and entry[0] in LIBRARIES and isinstance(entry[1], str)
        if not known or not NAME.fullmatch(name) or not NAME.fullmatch(entry[1]):
            raise ModelError(
                f"`{index}`: part `{name}` is {entry}, which is not a class of diffusers or "
                "transformers",
                hint="use the model as its makers published it: sd3tune runs no code of a model",
            )
        found[name] = (entry[0], entry[1])
    return found


def _check_file(path: Path, weights: Sequence[Path]) -> None:
    if path.is_dir() and path.suffix not in READ:  # a folder may have a dot, as `v1.0`
        return
    try:
        opening.size(path)
    except OSError as e:
        raise ModelError(f"`{path}` cannot be read: {e.strerror or e}", hint=AGAIN) from None
    if path.suffix in PICKLES and not weights:
        raise ModelError(
            f"`{path}` is a pickle, which can run code, and its folder has no safetensors file",
            hint="convert it to safetensors, or use a repository that has safetensors files",
        )
    if path.name in CONFIGS:
        read(path)
    elif path.name.endswith(".safetensors.index.json"):
        _check_shards(path)
    elif path.suffix == ".json" and not path.name.endswith(".index.json"):
        _json(path, (dict, list))


def _check_blocks(
    path: Path, pattern: str, key: str, headers: Sequence[safetensors_header.Header]
) -> None:
    names = (re.match(pattern, name) for h in headers for name in h.tensors)
    held = {int(match[1]) for match in names if match}
    said = read(path).get(key)
    if held and isinstance(said, int) and held != set(range(said)):
        raise ModelError(
            f"`{path}`: {key}={said}, but the weights beside it have {len(held)} blocks",
            hint=AGAIN,
        )


def _check_shards(index: Path) -> None:
    files = json_object(index).get("weight_map")
    if not isinstance(files, dict):
        raise ModelError(f"`{index}` has no weight_map", hint=AGAIN)
    for name in {str(name) for name in files.values()}:
        inside = Path(name).name == name and name not in (".", "..")
        if not inside or not name.endswith(".safetensors"):
            words = f"`{index}` names `{name}`, which is not a safetensors file beside it"
            raise ModelError(words, hint=AGAIN)
        if not opening.is_regular(index.parent / name):
            raise ModelError(f"`{index}` names `{name}`, which is missing", hint=AGAIN)


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model. Raises ModelError."""
    data: dict[str, Any] = _json(path, dict)
    return data


def _json(path: Path, kind: type | tuple[type, ...]) -> Any:
    try:
        data = opening.json_of(path)
    except OSError as e:
        raise ModelError(f"`{path}` cannot be read: {e.strerror or e}", hint=AGAIN) from None
    except ValueError as e:
        _refuse_stranger(path)
        raise ModelError(f"`{path}` is not JSON: {e}", hint=AGAIN) from None
    if not isinstance(data, kind):
        words = f"`{path}` holds a {type(data).__name__}, not a JSON object"
        raise ModelError(words, hint=AGAIN)
    return data


def _refuse_stranger(path: Path) -> None:
    """Raises ModelError for a file whose first bytes are another format's, as a git-lfs pointer."""
    with opening.opened(path) as f:
        first = f.read(32)
    for begin, (what, advice) in safetensors_header.STRANGERS.items():
        if first.startswith(begin):
            raise ModelError(f"`{path}` is {what}", hint=advice)


def _values(config: Any) -> Iterator[tuple[str, Any]]:
    """Every value in nested JSON, with the last key on the way to it."""
    left = [("", config)]
    while left:
        name, value = left.pop()
        yield name, value
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(name, inner) for inner in value]


def _check(path: Path, name: str, value: Any) -> None:
    if isinstance(value, list) and len(value) > LONGEST_LIST:
        _refuse(path, name, f"a list of {len(value):,}", f"{LONGEST_LIST} entries")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    ending = next((e for e in LIMITS if name == e or name.endswith(f"_{e}")), None)
    limit = LARGEST if ending is None else LIMITS[ending]
    if not abs(value) <= limit or (ending is not None and value < 0):  # NaN neither
        _refuse(path, name, value, f"{limit:,}")


def _refuse(path: Path, name: str, value: object, limit: str) -> None:
    shown = str(value)[:40]
    raise ModelError(f"`{path}`: `{name}` is {shown}; the limit is {limit}", hint=AGAIN)

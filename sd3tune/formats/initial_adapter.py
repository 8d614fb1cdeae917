"""The adapter that init_lora names, and whether a run can begin with it: from its header alone, so
that `plan` refuses it before anything is encoded. Which layers the model has, and their widths, are
checked when the adapter is attached. No torch here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sd3tune.errors import ConfigError, ModelError
from sd3tune.filesystem import safetensors_header
from sd3tune.formats import key_names
from sd3tune.formats.adapter_description import describe
from sd3tune.formats.adapter_folder import adapter_of
from sd3tune.sd3.comfyui_rules import is_by_rows


@contextmanager
def initial_file(path: Path) -> Iterator[Path]:
    """The adapter file at init_lora, which may be a folder that holds one. An error about the file
    names the setting as well."""
    file = path
    try:
        file = adapter_of(path)
        yield file
    except ModelError as e:
        message, own = str(e), f"`{file}`"
        if message.startswith("`init_lora="):
            raise
        message = message.removeprefix(own) if message.startswith(own) else f": {message}"
        raise ModelError(f"`init_lora={file}`{message}", hint=e.hint) from None


def refuse_unfit(path: Path, *, lycoris: bool, rank: int) -> tuple[str, ...]:
    """Refuses a file that the run cannot begin with; returns sentences about what is assumed of it.
    lycoris: the run trains a LyCORIS network, whose file must have the same tensors. rank: of the
    run's LoRA. Raises ModelError for a file that is not an adapter of SD3, and ConfigError for one
    of another kind than the run trains."""
    with initial_file(path) as file:
        return _refuse_unfit(file, lycoris=lycoris, rank=rank)


def _refuse_unfit(path: Path, *, lycoris: bool, rank: int) -> tuple[str, ...]:
    found = safetensors_header.read(path)
    modules = key_names.group(found.tensors).modules.values()
    if not modules:
        raise ModelError(
            f"`init_lora={path}` is not an adapter of SD3's transformer",
            hint=f"`sd3tune inspect {path}` says what the file is",
        )
    if lycoris:
        return ()
    seen = describe(found)
    verdict = seen.readers["sd3tune"]
    if verdict.reads == "no":
        raise ModelError(
            f"`init_lora={path}` cannot be read: {verdict.reason}",
            hint=f"`sd3tune inspect {path}` says what the file is",
        )
    if other := next((m for m in modules if m.algorithm != "lora"), None):
        words = f"`init_lora={path}`: `{other.module}` is not a LoRA but {other.algorithm}"
        raise ConfigError(words, hint="set lora_type=lycoris and its lycoris_config")
    scales = ((m, m.parts["dora_scale"]) for m in modules if "dora_scale" in m.parts)
    if column := next((m for m, k in scales if not is_by_rows(found.tensors[k].shape)), None):
        words = f"`init_lora={path}`: `{column.module}` has a DoRA magnitude for each column"
        raise ConfigError(words, hint="set lora_type=lycoris, with dora_wd and wd_on_output=false")
    own = [m for m in modules if m.layout == "diffusers"]  # the others are split, and may shrink
    largest = max(((found.tensors[m.parts["down"]].shape or (0,))[0] for m in own), default=0)
    if largest > rank:
        words = f"`init_lora={path}` has rank {largest}, this run lora_rank={rank}"
        raise ConfigError(words, hint=f"set lora_rank={largest} or more")
    return seen.assumed

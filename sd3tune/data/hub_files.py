"""Checks the files of a Hugging Face dataset before any is read.

The card of a dataset (README.md) names its files. It could also name another web server or another
folder on this disk.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd3tune.data.roots import Roots
from sd3tune.errors import DataError
from sd3tune.filesystem import opening

if TYPE_CHECKING:
    from sd3tune.config.datasets.storage import Stored

CARD, YAML = "README.md", ".huggingface.yaml"
CARD_BYTES = 4 * 2**20


def check(dataset: "Stored", roots: Roots, *, local: bool) -> None:
    """Raises DataError if the dataset names files outside of it, and the exceptions of the
    library."""
    import datasets

    d = dataset
    for pattern in _named(d, local=local):
        if "://" in pattern and (local or not pattern.startswith("hf://")):
            raise _elsewhere(d, pattern, "another server")
    builder = datasets.load_dataset_builder(
        str(d.dataset_name), d.dataset_config, revision=d.revision
    )
    for files in (builder.config.data_files or {}).values():
        for file in map(str, files):
            if "://" not in file and not roots.hold(file):
                raise _elsewhere(d, file, "a file outside; allowed_roots can name its folder")


def _elsewhere(dataset: "Stored", file: str, what: str) -> DataError:
    return DataError(
        f"dataset `{dataset.id}`: `{dataset.dataset_name}` takes its data from `{file}`: that is "
        f"{what}",
        hint="take it out of the card's data_files, or use another dataset_name",
    )


def _named(dataset: "Stored", *, local: bool) -> Iterator[str]:
    """Every data_files and data_dir entry of the dataset's cards."""
    import yaml
    from huggingface_hub import RepoCard

    for name in (CARD, YAML):
        text = _text(dataset, name, local=local)
        if text is None:
            continue
        if name == CARD:
            data: Any = RepoCard(text, ignore_metadata_errors=True).data.to_dict()  # type: ignore[no-untyped-call]
        else:
            data = yaml.safe_load(text)
        configs = data.get("configs") if isinstance(data, dict) else None
        for config in configs if isinstance(configs, list) else []:
            if isinstance(config, dict):
                yield from _strings([config.get("data_files"), config.get("data_dir")])


def _text(dataset: "Stored", name: str, *, local: bool) -> str | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    path = Path(str(dataset.dataset_name)) / name
    with suppress(EntryNotFoundError, FileNotFoundError):
        if not local:
            path = Path(hf_hub_download(str(dataset.dataset_name), name, repo_type="dataset",
                                        revision=dataset.revision))  # fmt: skip
        with opening.opened(path, CARD_BYTES) as f:
            return f.read().decode("utf-8", "replace")
    return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)

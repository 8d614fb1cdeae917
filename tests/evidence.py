"""Which tests exercise which setting: `python -m tests.evidence > docs/reference/evidence.md`.

A test counts for a setting when it, its parameters, or a table of its file names it.
"""

import ast
import re
from pathlib import Path

from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds

ROOT = Path(__file__).parent
SHOWN = 3  # tests named for a setting
# Settings whose tests spell them otherwise: as options of a command, or short in a table.
ELSEWHERE = {
    "aspect_bucket_rounding": "pure/test_data_buckets.py::test_worked_examples_give_their_buckets",
    "aws_access_key_id": "cpu/test_storage.py::test_images_and_captions_in_a_bucket_are_trained_on",
    "aws_region_name": "cpu/test_storage.py::test_images_and_captions_in_a_bucket_are_trained_on",
    "checkpoints_rolling_total_limit":
        "cpu/test_checkpoints.py::test_checkpoints_are_kept_by_steps_by_epochs_and_for_a_while",
    "data_backend_sampling": "pure/test_schedule.py::"
        "test_datasets_are_drawn_by_probability_times_size_or_by_probability_alone",
    "end_step": "pure/test_schedule.py::test_windows_open_and_close",
    "fsdp_reshard_after_forward": "cpu/test_processes.py::"
        "test_split_weights_train_as_whole_ones_and_go_on_in_one_process",
    "lr_end": "cpu/test_schedules.py::test_linear_reaches_lr_end",
    "num_processes": "cpu/test_processes.py::"
        "test_two_processes_are_one_with_twice_the_batches_and_a_killed_one_changes_nothing",
}  # fmt: skip
ABOUT = """# Which test shows what

Made by `python -m tests.evidence`: for each setting up to three tests that set it, those that name
fewest settings first, because they are about it.
"""


def tests() -> dict[str, str]:
    """file::name to everything it is made of."""
    found = {}
    for path in sorted(ROOT.glob("*/test_*.py")):
        if path.parent.name == "docker" or path.name.startswith("test_image_"):
            continue  # the words of images, `revision` among them, are not settings
        if path.name == "test_private.py":
            continue  # nor are those of other people's machines
        text = path.read_text()
        tree = ast.parse(text)
        tables = {t.id: ast.get_source_segment(text, node) or ""
                  for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)
                  for t in ast.walk(node) if isinstance(t, ast.Name)
                  and isinstance(t.ctx, ast.Store)}  # fmt: skip
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                parts = [
                    ast.get_source_segment(text, n) or "" for n in (node, *node.decorator_list)
                ]
                used = {n.id for part in (node, *node.decorator_list) for n in ast.walk(part)
                        if isinstance(n, ast.Name)}  # fmt: skip
                parts += [tables[name] for name in used if name in tables]
                found[f"{path.parent.name}/{path.name}::{node.name}"] = "\n".join(parts)
    return found


def evidence() -> dict[str, list[str]]:
    """Setting to tests."""
    names = {*Config.model_fields, *ImageDataset.model_fields, *Masks.model_fields,
             *TextEmbeds.model_fields}  # fmt: skip
    mentioned = {test: names & set(re.findall(r"\w+", text)) for test, text in tests().items()}
    ordered = sorted(mentioned, key=lambda test: (len(mentioned[test]), test))
    for name, test in ELSEWHERE.items():
        mentioned[test].add(name)
    for test, text in tests().items():
        if 'S = "scheduled_sampling_"' in (ROOT / test.split("::")[0]).read_text():
            short = re.findall(r"\{S\}(\w+)", text)
            mentioned[test] |= names & {f"scheduled_sampling_{part}" for part in short}
    return {name: [t for t in ordered if name in mentioned[t]] for name in sorted(names)}


def document() -> str:
    found = evidence()
    sections = {
        "config/config.json": Config.model_fields,
        "config/multidatabackend.json": {**ImageDataset.model_fields, **Masks.model_fields,
                                         **TextEmbeds.model_fields},
    }  # fmt: skip
    lines = [ABOUT]
    for title, fields in sections.items():
        lines += [f"## {title}", "", "| setting | tests |", "|-|-|"]
        lines += [f"| `{n}` | {'<br>'.join(found[n][:SHOWN])} |" for n in fields]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(document(), end="")

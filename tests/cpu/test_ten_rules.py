"""Ten rules of training, each broken once: the pictures, or the check that is named, then fail.

One run on the painter learns a new shape under settings in which every rule matters: a shift of 6,
an alpha of four times the rank, masks that hide a second thing, an average that is the result. The
judge finds its pictures right. Then a copy of the package with one line changed trains by the same
command, and its pictures are wrong.

Four rules do not show in pictures. The timestep's scale: the first losses are compared with those
that diffusers' parts give. Padding of T5: its stored values are compared with the tokenizer. The
position after a resume: losses are compared with those of the uninterrupted run. Dropped captions:
other captions give the same losses.
"""

import json
import shutil
from pathlib import Path
from statistics import mean

import pytest
from transformers import AutoTokenizer

from sd3tune.data.cache import TensorCache
from tests.cpu import lessons
from tests.cpu.lessons import Edit

pytestmark = pytest.mark.slow
LEARNED, FAILED = 0.85, 0.5  # shares of prompts
SAMPLING = 0.4  # relative, of a mean of 64 losses at random levels
SOURCES = ("pictures", "masks", "config")
CACHED = (*SOURCES, "cache")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown")
ASKED = [
    f"{'an' if colour == 'orange' else 'a'} {colour} heart {where} on a {background} background"
    for colour, background in zip(COLOURS, ("white", "gray", "black", "gray") * 2, strict=True)
    for where in ("on the left", "on the right")
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lessons.write(tmp_path_factory.mktemp("rules") / "project")


@pytest.fixture(scope="module")
def taught(config: Path) -> Path:
    """The output of the unbroken run."""
    return lessons.train(config, "taught")


def share_right(output: Path) -> float:
    """Pictures with exactly one heart, in the right colour."""
    judged = lessons.pictures(output, ASKED).score.verdicts
    return sum(v.is_right and v.answers["count"] for v in judged) / len(judged)


RULES: dict[str, Edit] = {
    "sign of the target": Edit("sd3/flow.py", "    target = eps - x0\n", "    target = x0 - eps\n"),
    "shift": Edit(
        "sd3/flow.py",
        "    return shift * s / (1 + (shift - 1) * s)\n",
        "    return s / (shift - (shift - 1) * s)\n",
    ),
    "latent scale": Edit(
        "sd3/latents.py",
        "    mean = ((mean - vae.config.shift_factor) * vae.config.scaling_factor).to(STORED)\n",
        "    mean = ((mean - vae.config.shift_factor) / vae.config.scaling_factor).to(STORED)\n",
    ),
    "LoRA scale": Edit(
        "adapters/lora.py", "    alpha = scale_of(config) * config.r\n", "    alpha = config.r\n"
    ),
    "weight of the mask": Edit(
        "sd3/flow.py", "    weighed = each * weight\n", "    weighed = each\n"
    ),
    "EMA": Edit("train/ema.py", "        if step % self.interval:\n", "        if step > 1:\n"),
}


def test_the_unbroken_run_learns(taught: Path) -> None:
    """What the broken ones are compared with."""
    assert share_right(taught) >= LEARNED


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_seen_in_the_pictures(
    rule: str, config: Path, taught: Path, tmp_path: Path
) -> None:
    """taught: its caches are used where the rule has no part in them."""
    folders = SOURCES if rule == "latent scale" else CACHED
    output = run(RULES[rule], config, tmp_path, folders=folders)
    assert share_right(output) <= FAILED


def test_another_timestep_scale_has_another_loss(
    config: Path, taught: Path, tmp_path: Path
) -> None:
    """A LoRA that is trained at wrong timesteps also paints hearts: the pictures do not show it."""
    edit = Edit("sd3/flow.py", "terms.z, s * TIMESTEPS\n", "terms.z, s\n")
    wrong = run(edit, config, tmp_path, "max_train_steps=11", folders=CACHED)
    reference = lessons.reference_loss(config)
    assert mean(losses(taught, 1, 8)) == pytest.approx(reference, rel=SAMPLING)
    assert mean(losses(wrong, 1, 8)) > (1 + SAMPLING) * reference


def test_captions_that_are_dropped_have_no_influence(
    config: Path, taught: Path, tmp_path: Path
) -> None:
    """All are dropped, so that other captions give the same losses."""
    edit = Edit("data/loader.py", "/ 2**32 < self.dropout_of(s)", "/ 2**32 < 0")
    for name in CACHED:
        shutil.copytree(config.parents[1] / name, tmp_path / "renamed" / name)
    for text in (tmp_path / "renamed" / "pictures").glob("*.txt"):
        text.write_text("a red heart")
    renamed = tmp_path / "renamed" / "config" / "config.json"
    words = ("caption_dropout_probability=1", "max_train_steps=4", "lr_warmup_steps=0")

    def seen(project: Path, edit: Edit | None, name: str) -> list[float]:
        return losses(run(edit, project, tmp_path / name, *words, folders=CACHED), 1, 4)

    right = seen(config, None, "right")
    assert len(right) == 4 and seen(renamed, None, "right-renamed") == right
    assert seen(config, edit, "wrong") != seen(renamed, edit, "wrong-renamed")


def run(
    edit: Edit | None, config: Path, tmp_path: Path, *words: str, folders: tuple[str, ...] = SOURCES
) -> Path:
    """Trains with the edited package on a copy of the project's `folders`; returns the output."""
    project = tmp_path / "project"
    for name in folders:
        shutil.copytree(config.parents[1] / name, project / name)
    package = lessons.broken(tmp_path / "package", edit) if edit else lessons.ROOT
    return lessons.train(project / "config" / "config.json", "broken", *words, package=package)


def padding_is_zero(project: Path) -> bool:
    """Whether the cache holds as many rows of T5 as its caption has tokens, for each caption."""
    tokenizer = AutoTokenizer.from_pretrained(lessons.PAINTER / "tokenizer_3")
    captions = {path.read_text() for path in (project / "pictures").glob("*.txt")} | {""}
    expected = sorted(len(tokenizer(caption).input_ids) for caption in captions)
    cache = TensorCache(project / "cache" / "text")
    return sorted(len(cache.get(key)["t5"]) for key in cache.places) == expected


def test_values_of_padding_that_are_kept_are_seen_in_the_cache(
    config: Path, tmp_path: Path
) -> None:
    line = "embeds * ids.attention_mask.to(embeds.device).unsqueeze(-1)"
    zero = ("t5_padding=zero", "max_train_steps=1", "lr_warmup_steps=0")
    right = run(None, config, tmp_path / "right", *zero)
    wrong = run(Edit("sd3/text.py", line, "embeds"), config, tmp_path / "wrong", *zero)
    assert padding_is_zero(right.parent) and not padding_is_zero(wrong.parent)


def losses(output: Path, first: int, last: int) -> list[float]:
    """Of the steps from `first` to `last`."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if first <= row["step"] <= last]


def test_a_run_that_resumes_at_another_position_has_other_losses(
    config: Path, taught: Path, tmp_path: Path
) -> None:
    half = lessons.train(config, "half", "max_train_steps=12", "checkpoint_step_interval=12")
    shutil.copytree(half, half.with_name("other-half"))
    edit = Edit("train/run.py", "loader.batches(state.position)", "loader.batches(0)")
    package = lessons.broken(tmp_path, edit)
    right = lessons.train(config, "half", "max_train_steps=16")
    wrong = lessons.train(config, "other-half", "max_train_steps=16", package=package)
    whole = losses(taught, 13, 16)
    assert len(whole) == 4 and losses(right, 13, 16) == whole
    assert len(losses(wrong, 13, 16)) == 4 and losses(wrong, 13, 16) != whole
